"""libnbd, nbdcopy and QEMU over TLS, and libnbd's socket activation, against a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Certificates
from tests.support.daemon import environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

SECONDS_MAX = 60
SIZE = 8 << 20
RULES = """
[[nbd.listeners]]
address = "tcp:localhost:{port}"
[nbd.tls]
certificate = "{own.certificate}"
key = "{own.key}"
client_ca = "{own.client_ca}"
[volumes.secret]
size = "8MiB"
primary = "secret.img"
allow = ["certificate:writer"]
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "PATH": f"/usr/bin:{os.environ['PATH']}"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, env=env, check=False
    )


class TlsServed:
    """A daemon with a TLS listener, and directories as GnuTLS clients take them."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        (directory / "server").mkdir()
        self.certificates = Certificates(directory / "server")

    def rules(self) -> str:
        return RULES.format(port=self._port, own=self.certificates)

    def of(self, name: str | None) -> Path:
        """The certificates of a client."""
        directory = self._directory / (name or "nobody")
        if not directory.exists():
            directory.mkdir()
            authority = self.certificates.authority
            authority.cert_pem.write_to_path(str(directory / "ca-cert.pem"))
            if name is not None:
                issued = authority.issue_cert(common_name=name)
                issued.private_key_pem.write_to_path(str(directory / "client-key.pem"))
                issued.cert_chain_pems[0].write_to_path(str(directory / "client-cert.pem"))
        return directory

    def uri(self, volume: str, name: str | None) -> str:
        return f"nbds://localhost:{self._port}/{volume}?tls-certificates={self.of(name)}"


@pytest.fixture
def served(
    tmp_path: Path,
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
) -> TlsServed:
    served = TlsServed(tmp_path, free_port())
    start_daemon(make_files(volumes={"data": "8MiB"}, extra=served.rules()))
    return served


def test_what_nbdcopy_writes_over_tls_it_reads_back(served: TlsServed, tmp_path: Path) -> None:
    written, read = tmp_path / "in.raw", tmp_path / "out.raw"
    written.write_bytes(os.urandom(SIZE))
    uri = served.uri("data", "backup")
    assert run("nbdcopy", "--connections=4", "--flush", str(written), uri).returncode == 0
    assert run("nbdcopy", uri, str(read)).returncode == 0
    assert read.read_bytes() == written.read_bytes()


def test_qemu_uses_tls(served: TlsServed) -> None:
    port = served.uri("data", "backup").split(":")[2].split("/")[0]
    result = run(
        "qemu-img", "info", "--output=json",
        "--object", f"tls-creds-x509,id=t,dir={served.of('backup')},endpoint=client",
        "--image-opts",
        f"driver=nbd,host=localhost,port={port},export=data,tls-creds=t",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["virtual-size"] == SIZE


def test_the_certificate_decides_what_is_listed_and_opened(served: TlsServed) -> None:
    names = {}
    for name in ("writer", "backup"):
        listed = run("nbdinfo", "--list", "--json", served.uri("", name))
        names[name] = {each["export-name"] for each in json.loads(listed.stdout)["exports"]}
    assert names == {"writer": {"data", "secret"}, "backup": {"data"}}
    refused = run("nbdinfo", "--size", served.uri("secret", "backup"))
    absent = run("nbdinfo", "--size", served.uri("absent", "backup"))
    assert refused.stderr.replace("secret", "absent") == absent.stderr
    assert run("nbdinfo", "--size", served.uri("secret", "writer")).stdout == f"{SIZE}\n"


def test_a_client_without_a_certificate_or_without_tls_is_refused(served: TlsServed) -> None:
    assert run("nbdinfo", "--size", served.uri("data", None)).returncode == 1
    plain = run("nbdinfo", "--size", served.uri("data", None).replace("nbds:", "nbd:"))
    assert "requires TLS" in plain.stderr


def test_libnbd_starts_the_daemon_by_socket_activation(
    make_files: Callable[..., DaemonFiles],
) -> None:
    files = make_files()
    text = files.config.read_text()
    line = next(line for line in text.splitlines() if line.startswith("listen = "))
    files.config.write_text(text.replace(line, ""))
    command = [sys.executable, "-m", "duplexd", "run", "--config", str(files.config)]
    result = run("nbdinfo", "--size", "--", "[", *command, "]")
    assert result.stdout == f"{SIZE}\n", result.stderr
