"""The servers that are asked, each with one export of 256 MiB on a Unix socket, and set up as its
manual has it. The beginning of the image has data, the rest is holes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.daemon import Daemon, DaemonFiles, free_port
from tests.support.prober.talk import EXPORT, EXPORT_BYTES
from tests.support.sockets import wait_listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DUPLEXD = "duplexd"
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


def version(name: str) -> str:
    """As the table names it."""
    done = subprocess.run(
        [name, "-V" if name == "nbd-server" else "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    words = (done.stdout + done.stderr).split()
    return next(word for word in words if word[0].isdigit())


@contextmanager
def serve(name: str, directory: Path) -> Iterator[str]:
    """A running server; its socket."""
    directory.mkdir()
    image, path = directory / "image", directory / "s"
    if name == DUPLEXD:
        yield from _serve_duplexd(directory)
        return
    image.write_bytes(os.urandom(1 << 20))
    os.truncate(image, EXPORT_BYTES)
    if name == "nbd-server":
        yield from _serve_in_background(directory, image, path)
        return
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            COMMANDS[name](path, image), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_listening(str(path))
            yield str(path)
        finally:
            process.terminate()


def _nbdkit(path: Path, image: Path) -> list[str]:
    options = ["--foreground", "--exit-with-parent", "--unix", str(path)]
    return ["nbdkit", *options, "file", str(image)]


def _qemu_nbd(path: Path, image: Path) -> list[str]:
    options = ["--persistent", "--shared=0", "--format=raw", "--discard=unmap"]
    return ["qemu-nbd", *options, f"--export-name={EXPORT}", f"--socket={path}", str(image)]


COMMANDS = {"nbdkit": _nbdkit, "qemu-nbd": _qemu_nbd}


def _serve_in_background(directory: Path, image: Path, path: Path) -> Iterator[str]:
    """nbd-server serves more than one client only as a daemon of its own."""
    configuration, pid_file = directory / "config", directory / "pid"
    text = _NBD_SERVER.format(socket=path, port=free_port(), export=EXPORT, image=image)
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


def _serve_duplexd(directory: Path) -> Iterator[str]:
    files = DaemonFiles(directory, volumes={EXPORT: EXPORT_BYTES}, journal_size="1GiB").write()
    daemon = Daemon(files).start()
    try:
        yield str(files.nbd_socket)
        assert daemon.running, daemon.log()
    finally:
        daemon.kill()
    assert "Traceback" not in daemon.log(), daemon.log()
