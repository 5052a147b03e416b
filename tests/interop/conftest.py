"""Real clients against the NBD server: once on a backend in memory, once as the real daemon with
duplexed volumes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from duplexd.nbd.uri import NbdUri
from duplexd.net.address import TcpAddress, parse_address
from tests.support.daemon import ROOT, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

VOLUMES = {"data": 64 << 20, "wal": 8 << 20}
CLIENT_SECONDS_MAX = 300


class NbdServer(Protocol):
    """A running server with the volumes of `VOLUMES`."""

    @property
    def socket(self) -> str: ...

    @property
    def port(self) -> int: ...

    def uri(self, volume: str, transport: str) -> str: ...


@dataclass
class Served:
    """Where a server listens."""

    socket: str
    port: int

    def uri(self, volume: str, transport: str) -> str:
        """`transport` is unix or tcp."""
        return str(
            NbdUri(volume, self.socket)
            if transport == "unix"
            else NbdUri(volume, host="127.0.0.1", port=self.port)
        )


@pytest.fixture(params=["unix", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    """Every test runs over both."""
    return str(request.param)


@pytest.fixture(params=["memory", "daemon"])
def nbd_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NbdServer]:
    """After a test on the daemon, both images of each volume must be the same."""
    yield from request.getfixturevalue(f"serve_{request.param}")()


@pytest.fixture
def serve_memory(tmp_path: Path) -> Callable[..., Iterator[Served]]:
    def serve(volumes: dict[str, int] = VOLUMES) -> Iterator[Served]:
        arguments = [
            f"unix:{tmp_path}/nbd.sock",
            "tcp:127.0.0.1:0",
            *(f"{name}={size}" for name, size in volumes.items()),
        ]
        command = [sys.executable, "-m", "tests.unit.nbd_server.memory_backend", *arguments]
        with (
            (tmp_path / "server.log").open("wb") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=environment(), cwd=ROOT
            ) as process,
        ):
            assert process.stdout is not None
            line = ""
            while not line.startswith("unix:"):  # the log's lines come first
                line = process.stdout.readline().decode()
                assert line, (tmp_path / "server.log").read_text()
            tcp = parse_address(line.split()[1])
            assert isinstance(tcp, TcpAddress)
            yield Served(f"{tmp_path}/nbd.sock", tcp.port)
            process.terminate()
            process.stdout.read()
            assert process.wait(CLIENT_SECONDS_MAX) == 0

    return serve


@pytest.fixture
def serve_daemon(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Callable[[], Iterator[Served]]:
    def serve() -> Iterator[Served]:
        files = make_files(volumes=VOLUMES, tcp_port=free_port(), journal_size="64MiB")
        daemon = start_daemon(files)
        yield Served(str(files.nbd_socket), files.tcp_port or 0)
        assert daemon.stop() == 0
        for volume in VOLUMES:
            assert digest(files.primary(volume)) == digest(files.secondary_of(volume)), (
                f"the legs of {volume} differ"
            )

    return serve


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as image:
        return hashlib.file_digest(image, "sha256").hexdigest()


class Client(Protocol):
    def __call__(self, *command: str | Path, status: int = 0) -> str: ...


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Runs a client to its end; what it printed.

    Debian's own Python modules are found by Debian's Python only.
    """

    def run(*command: str | Path, status: int = 0) -> str:
        env = {**os.environ, "PATH": f"/usr/bin:/usr/sbin:/bin:/sbin:{os.environ['PATH']}"}
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS_MAX,
            cwd=tmp_path,
            env=env,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout + done.stderr

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of the size of `data` with content, zeroes and holes."""
    path = tmp_path / "image.raw"
    with path.open("wb") as file:
        file.truncate(VOLUMES["data"])
        for offset in range(0, VOLUMES["data"], 4 << 20):
            file.seek(offset)
            file.write(os.urandom(1 << 20) + bytes(1 << 20))
    return path
