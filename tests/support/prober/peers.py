"""The servers that are asked, each with one export of 256 MiB on a Unix socket, and set up as its
manual has it: without TLS, or with TLS required or optional. The beginning of the image has data,
the rest is holes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.certificates import Certificates
from tests.support.daemon import Daemon, DaemonFiles, free_port
from tests.support.prober.talk import EXPORT, EXPORT_BYTES
from tests.support.sockets import wait_listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DUPLEXD = "duplexd"
CLIENT = "client.pem"
PEERS = ("nbdkit", "qemu-nbd", "nbd-server")
SERVERS = (DUPLEXD, *PEERS)
_NBD_SERVER = """[generic]
unixsock = {socket}
listenaddr = 127.0.0.1
port = {port}
allowlist = true
[{export}]
exportname = {image}
flush = true
fua = true
trim = true
"""
_NBD_SERVER_TLS = """certfile = {own.certificate}
keyfile = {own.key}
cacertfile = {own.client_ca}
force_tls = {forced}
"""
_DUPLEXD_TLS = """
[[nbd.listeners]]
address = "unix:{socket}"
tls = "{tls}"
[nbd.tls]
certificate = "{own.certificate}"
key = "{own.key}"
"""
LACKS = {("qemu-nbd", "optional"): "TLS is not optional"}  # by server and listener


def version(name: str) -> str:
    """As the table names it."""
    done = subprocess.run(
        [name, "-V" if name == "nbd-server" else "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    words = (done.stdout + done.stderr).split()
    return next(word for word in words if word[0].isdigit())


@contextmanager
def serve(name: str, directory: Path, tls: str = "off") -> Iterator[str]:
    """A running server; its socket. `tls` is off, required or optional."""
    directory.mkdir()
    image, path = directory / "image", directory / "s"
    certificates = _certificates(directory) if tls != "off" else None
    if name == DUPLEXD:
        yield from _serve_duplexd(directory, tls, certificates)
        return
    image.write_bytes(os.urandom(1 << 20))
    os.truncate(image, EXPORT_BYTES)
    if name == "nbd-server":
        yield from _serve_in_background(directory, image, path, tls, certificates)
        return
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            COMMANDS[name](path, image, tls), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_listening(str(path))
            yield str(path)
        finally:
            process.terminate()


def _certificates(directory: Path) -> Certificates:
    """Of the server, by the names that GnuTLS servers look for, and of a client."""
    made = Certificates(directory)
    made.certificate = directory / "server-cert.pem"
    made.key = directory / "server-key.pem"
    made.renew_server()
    shutil.copy(made.client_ca, directory / "ca-cert.pem")
    shutil.copy(made.client("prober"), directory / CLIENT)
    return made


def client_context(directory: Path) -> ssl.SSLContext:
    """What a client of a server in this directory uses. The name is not looked at: there is none
    for a Unix socket.
    """
    context = ssl.create_default_context(cafile=directory / "ca-cert.pem")
    context.check_hostname = False
    context.load_cert_chain(directory / CLIENT)
    return context


def _nbdkit(path: Path, image: Path, tls: str) -> list[str]:
    options = ["--foreground", "--exit-with-parent", "--unix", str(path)]
    if tls != "off":
        options.append(f"--tls={'require' if tls == 'required' else 'on'}")
        options.append(f"--tls-certificates={path.parent}")
    return ["nbdkit", *options, "file", str(image)]


def _qemu_nbd(path: Path, image: Path, tls: str) -> list[str]:
    options = ["--persistent", "--shared=0", "--format=raw", "--discard=unmap"]
    if tls != "off":  # which is required then
        kept = f"tls-creds-x509,id=t,dir={path.parent},endpoint=server,verify-peer=off"
        options += ["--object", kept, "--tls-creds=t"]
    return ["qemu-nbd", *options, f"--export-name={EXPORT}", f"--socket={path}", str(image)]


COMMANDS = {"nbdkit": _nbdkit, "qemu-nbd": _qemu_nbd}


def _serve_in_background(
    directory: Path, image: Path, path: Path, tls: str, certificates: Certificates | None
) -> Iterator[str]:
    """nbd-server serves more than one client only as a daemon of its own."""
    configuration, pid_file = directory / "config", directory / "pid"
    text = _NBD_SERVER.format(socket=path, port=free_port(), export=EXPORT, image=image)
    if certificates is not None:
        forced = str(tls == "required").lower()
        more = _NBD_SERVER_TLS.format(own=certificates, forced=forced)
        text = text.replace("[generic]\n", f"[generic]\n{more}", 1)
    configuration.write_text(text)
    subprocess.run(
        ["nbd-server", "--config-file", str(configuration), "--pid-file", str(pid_file)],
        check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_listening(str(path))
        yield str(path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)


def _serve_duplexd(directory: Path, tls: str, certificates: Certificates | None) -> Iterator[str]:
    files = DaemonFiles(directory, volumes={EXPORT: EXPORT_BYTES}, journal_size="1GiB")
    path = files.nbd_socket
    if certificates is not None:
        path = directory / "tls.sock"
        files.extra = _DUPLEXD_TLS.format(socket=path, tls=tls, own=certificates)
    daemon = Daemon(files.write()).start()
    try:
        yield str(path)
        assert daemon.running, daemon.log()
    finally:
        daemon.kill()
    assert "Traceback" not in daemon.log(), daemon.log()
