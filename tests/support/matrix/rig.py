"""A daemon as users start one, with a volume for each client and listeners of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.support.certificates import Certificates
from tests.support.daemon import Daemon, DaemonFiles, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.matrix.features import Client

SECONDS_MAX = 120
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 5 * GIB  # sparse; room for the largest trim
SMALL = 64 * MIB
DEFAULT, LONG = "default.1", "n" * 128  # the longest name that a volume may have
NAMED = ("", DEFAULT, LONG)
# Names in the protocol that no volume has: each is refused, and nothing else happens.
UNKNOWN = ("größe", "a b", "m" * 4096)
FIXED = "fixed"  # read-only
_GNUTLS = "[overrides]\ndisabled-version = tls1.3\n"
_LISTENERS = """
[[nbd.listeners]]
address = "tcp:127.0.0.1:{plain}"
tls = "off"
insecure = true
[[nbd.listeners]]
address = "tcp:localhost:{secure}"
[nbd.tls]
certificate = "{own.certificate}"
key = "{own.key}"
client_ca = "{own.client_ca}"
[volumes.{fixed}]
size = {small}
primary = "{fixed}.img"
read_only = true
"""


class Rig:
    """Where the daemon is, and how clients are run."""

    def __init__(self, directory: Path, clients: list[Client]) -> None:
        self.directory = directory
        self.port, self._secure_port = free_port(), free_port()
        (directory / "pki").mkdir()
        self.certificates = Certificates(directory / "pki")
        volumes = {client.key: SIZE for client in clients} | dict.fromkeys((DEFAULT, LONG), SMALL)
        self.files = DaemonFiles(directory, volumes=volumes, journal_size="512MiB")
        self.files.extra = _LISTENERS.format(
            plain=self.port, secure=self._secure_port, own=self.certificates,
            fixed=FIXED, small=SMALL,
        )  # fmt: skip
        self.files.write()
        text = self.files.config.read_text()
        self.files.config.write_text(text.replace("[nbd]\n", f'[nbd]\ndefault = "{DEFAULT}"\n', 1))
        self.daemon = Daemon(self.files)
        self.tls_directory = self._client_certificates()
        (directory / "gnutls").write_text(_GNUTLS)

    @property
    def socket(self) -> str:
        return str(self.files.nbd_socket)

    @property
    def secure_port(self) -> int:
        return self._secure_port

    def unix(self, volume: str) -> str:
        """As a URI."""
        return f"nbd+unix:///{quote(volume)}?socket={quote(self.socket)}"

    def tcp(self, volume: str) -> str:
        return f"nbd://127.0.0.1:{self.port}/{quote(volume)}"

    def tls(self, volume: str) -> str:
        return (
            f"nbds://localhost:{self._secure_port}/{quote(volume)}"
            f"?tls-certificates={quote(str(self.tls_directory))}"
        )

    @property
    def without_tls13(self) -> dict[str, str]:
        """The environment in which GnuTLS knows TLS up to 1.2."""
        return {"GNUTLS_SYSTEM_PRIORITY_FILE": str(self.directory / "gnutls")}

    def run(self, *command: str | Path, status: int = 0, env: dict[str, str] | None = None) -> str:
        """A client to its end; what it printed."""
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True, text=True, timeout=SECONDS_MAX, cwd=self.directory,
            env=self.env(env), check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == status, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout + done.stderr

    def python(self, code: str, *arguments: str) -> str:
        """Code in this Python."""
        return self.run(sys.executable, "-c", code, *arguments)

    def env(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """Debian's own Python modules are found by Debian's Python only."""
        path = f"/usr/bin:/usr/sbin:/bin:/sbin:{os.environ['PATH']}"
        return {**environment(), "PATH": path, **(more or {})}

    def random_file(self, size: int = 3 * MIB) -> Path:
        path = self.directory / "random.raw"
        path.write_bytes(os.urandom(size))
        return path

    def start(self) -> None:
        """The daemon, again too."""
        self.daemon.start()

    def check_legs(self) -> None:
        """Both images of every volume are the same; the daemon must have stopped."""
        for volume in self.files.volumes:
            first, second = self.files.primary(volume), self.files.secondary_of(volume)
            with first.open("rb") as one, second.open("rb") as two:
                assert same_content(one.fileno(), two.fileno()), f"the legs of {volume} differ"

    def _client_certificates(self) -> Path:
        """As GnuTLS clients take them."""
        directory = self.directory / "client"
        directory.mkdir()
        authority = self.certificates.authority
        authority.cert_pem.write_to_path(str(directory / "ca-cert.pem"))
        issued = authority.issue_cert(common_name="client")
        issued.private_key_pem.write_to_path(str(directory / "client-key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(directory / "client-cert.pem"))
        return directory


def same_content(one: int, two: int) -> bool:
    """Of two sparse files, by reading where one of them has data."""
    return all(
        os.pread(one, length, at) == os.pread(two, length, at)
        for file in (one, two)
        for at, length in _data(file)
    )


def _data(file: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, in pieces."""
    at, end = 0, os.fstat(file).st_size
    while True:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return
        at = min(os.lseek(file, start, os.SEEK_HOLE), end)
        for piece in range(start, at, 4 * MIB):
            yield piece, min(4 * MIB, at - piece)


@contextmanager
def served(directory: Path, clients: list[Client]) -> Iterator[Rig]:
    """A running daemon. At the end the legs are compared."""
    rig = Rig(directory, clients)
    rig.start()
    try:
        yield rig
        if rig.daemon.running:
            assert rig.daemon.stop() == 0
        rig.check_legs()
    finally:
        rig.daemon.kill()
    assert "Traceback" not in rig.daemon.log(), rig.daemon.log()[-4000:]
