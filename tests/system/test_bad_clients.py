"""Clients that cost others nothing, whatever they do: a daemon as users start it, and next to the
bad ones a client that writes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient
from tests.support.commands import resident_bytes
from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.nbd.client_replies import Reply
    from tests.support.daemon import Daemon, DaemonFiles

KIB, MIB = 1 << 10, 1 << 20
LONG = 64 * MIB
SLOW = 90
REQUESTS = 16_384  # without payload, of one client
COPIED = 128 * MIB  # what nbdcopy gives to one of its threads, which has one connection


class Client:
    """A connection to a volume, used by hand."""

    def __init__(self, path: str, volume: str, structured: bool = False) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.sock.connect(path)
        self._nbd = NbdClient(volume, structured=structured)
        while not self._nbd.ready:
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._nbd.receive(data)
            self.sock.sendall(self._nbd.data_to_send())

    def write(self, offset: int, payload: bytes) -> int:
        """Write, and wait for the answer: an NBD error."""
        self._nbd.write(offset, payload)
        return self._reply().error

    def read(self, offset: int, length: int) -> bytes:
        self._nbd.read(offset, length)
        reply = self._reply()
        assert not reply.error
        return bytes(reply.data)

    def _reply(self) -> Reply:
        self.sock.sendall(self._nbd.data_to_send())
        while True:
            data = self.sock.recv(MIB)
            assert data, "the server closed the connection"
            for reply in self._nbd.receive(data):
                return reply

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)


@pytest.fixture
def served(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Iterator[tuple[Daemon, Callable[[str], Client]]]:
    """A daemon, and what connects to a volume of it."""
    files, clients = make_files(volumes={"data": "64MiB", "wal": "8MiB"}), list[Client]()

    def connect(volume: str, structured: bool = False) -> Client:
        clients.append(Client(str(files.nbd_socket), volume, structured))
        return clients[-1]

    yield start_daemon(files), connect
    for client in clients:
        client.sock.close()


@contextlib.contextmanager
def many(connect: Callable[[str], Client], count: int) -> Iterator[list[Client]]:
    clients = [connect("data") for _ in range(count)]
    yield clients
    for client in clients:
        client.sock.close()


def resident(daemon: Daemon) -> int:
    return resident_bytes(daemon.pid)


def connections(daemon: Daemon, volume: str) -> int:
    volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
    return next(int(each["connections"]) for each in volumes if each["name"] == volume)


def test_payloads_that_are_announced_and_not_sent(
    served: tuple[Daemon, Callable[[str], Client]],
) -> None:
    daemon, connect = served
    before = resident(daemon)
    with many(connect, 60) as bad:
        for client in bad:
            client.send(m.request(0, c.CMD_WRITE, 1, 0, LONG))
        assert connect("wal").write(0, b"x" * 4096) == 0
        assert resident(daemon) - before < 32 * MIB


def test_payloads_that_stop_in_the_middle(
    served: tuple[Daemon, Callable[[str], Client]],
) -> None:
    """As those of a copy that is stopped (SIGSTOP), or whose machine has lost its power."""
    daemon, connect = served
    before = resident(daemon)
    with many(connect, 40) as bad:
        for client in bad:
            client.send(m.request(0, c.CMD_WRITE, 1, 0, LONG) + bytes(3 * MIB // 2))
        assert connect("wal").write(0, b"x" * 4096) == 0
        assert connect("data").write(0, b"x" * MIB) == 0
        assert connections(daemon, "data") == 41, "they were waited for until they were closed"
        assert resident(daemon) - before < 40 * 4 * MIB


@contextlib.contextmanager
def copying(source: Path, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """An nbdcopy that sends each block of the source, holes, too, in long requests."""
    command = ["nbdcopy", "--connections=1", "--requests=1", f"--request-size={LONG // 2}"]
    command += ["--no-extents", "--sparse=0"]
    process = subprocess.Popen([*command, str(source), uri])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def requested(daemon: Daemon, operation: str) -> int:
    """How many requests have been taken, of "data"."""
    name = f'duplexd_nbd_requests_total{{op="{operation}",volume="data"}}'
    lines = daemon.request("GET", "/metrics")[1].splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))


def waits(copy: subprocess.Popen[bytes]) -> bool:
    """Whether all of its threads sleep, which they do only when they have filled the socket: what
    is asked ten times in a row, because of what they do between two calls.
    """
    tasks = list(Path(f"/proc/{copy.pid}/task").iterdir())
    stats = (task / "stat" for _ in range(10) for task in tasks)
    return all(stat.read_text().rpartition(") ")[2].startswith("S") for stat in stats)


def test_an_nbdcopy_that_is_stopped_in_the_midst_of_its_payloads(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files({"data": COPIED, "wal": "8MiB"}, journal_size="64MiB", secondary=False)
    daemon, source = start_daemon(files), files.directory / "source"
    with source.open("wb") as file:
        file.truncate(COPIED)
    with copying(source, files.uri("data")) as copy:
        until(lambda: requested(daemon, "write") > 0, "nbdcopy sends its payloads")
        os.kill(daemon.pid, signal.SIGSTOP)  # none of them ends
        until(lambda: waits(copy), "nbdcopy has filled its sockets")
        copy.send_signal(signal.SIGSTOP)
        os.kill(daemon.pid, signal.SIGCONT)
        for volume in ("wal", "data"):
            good = Client(str(files.nbd_socket), volume)
            for number in range(20):
                assert good.write(COPIED - MIB if volume == "data" else 0, b"x" * 4096) == 0, number
            good.sock.close()
        assert connections(daemon, "data") == 1, "it was waited for until it was closed"
        copy.send_signal(signal.SIGCONT)
        assert copy.wait(PATIENCE_SECONDS) == 0
    assert not files.primary("data").read_bytes().strip(b"\0"), "all of it was copied"


def test_replies_that_are_not_taken(served: tuple[Daemon, Callable[[str], Client]]) -> None:
    daemon, connect = served
    before = resident(daemon)
    with many(connect, 20) as bad:
        for client in bad:
            client.send(m.request(0, c.CMD_READ, 1, 0, LONG))
        good = connect("wal")
        for number in range(20):
            assert good.write(number * 4096, b"x" * 4096) == 0
        assert resident(daemon) - before < 400 * MIB


@pytest.mark.parametrize("structured", [False, True])
def test_long_reads_beside_clients_that_do_not_take_their_replies(
    served: tuple[Daemon, Callable[..., Client]], structured: bool
) -> None:
    """Which have filled the memory for replies of all: each has asked for 16 MiB, in one READ or in
    many.
    """
    daemon, connect = served
    content = os.urandom(MIB) * 32
    good = connect("data", structured)
    assert good.write(0, content) == 0
    before = resident(daemon)
    with many(connect, SLOW) as bad:
        for length in (16 * MIB, MIB, 257 * KIB, 129 * KIB):
            for client in bad:
                client.send(m.request(0, c.CMD_READ, 1, LONG - length, length))
        until(lambda: requested(daemon, "read") >= 16, "the memory for replies is full")
        assert good.read(0, len(content)) == content
        for length in (257 * KIB, 129 * KIB, 65 * KIB):
            assert good.read(1000, length) == content[1000 : 1000 + length]
        good.send(m.request(0, c.CMD_CACHE, 1, 0, len(content)))
        assert good.sock.recv(1 << 16)[4:8] == bytes(4)
        assert connections(daemon, "data") == SLOW + 1, (
            "they were waited for until they were closed"
        )
        assert resident(daemon) - before < 400 * MIB


def test_clients_that_leave_much_behind(served: tuple[Daemon, Callable[[str], Client]]) -> None:
    daemon, connect = served
    good = connect("wal")
    bulk = b"".join(m.request(0, c.CMD_TRIM, cookie, 0, 4096) for cookie in range(REQUESTS))
    before = resident(daemon)
    with many(connect, 64) as bad:
        for client in bad:
            client.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.sock.send(bulk)
    assert good.write(0, b"x" * 4096) == 0
    assert resident(daemon) - before < 128 * MIB


@pytest.mark.parametrize("writes", [1, 64])
def test_a_client_that_goes_overtakes_nobody(
    served: tuple[Daemon, Callable[[str], Client]], writes: int
) -> None:
    """It closes with WRITEs on the way, and another connection writes something newer."""
    _, connect = served
    other = connect("data")
    for _ in range(20):
        gone = connect("data")
        blocks = range(writes - 1, -1, -1)
        old = (m.request(0, c.CMD_WRITE, 1, 512 * block, 512) + b"o" * 512 for block in blocks)
        gone.send(b"".join(old))
        gone.sock.close()
        assert other.write(0, b"n" * 512) == 0
        other.write(MIB, b"")  # a turn of the loop, with its batch, or two
        assert other.read(0, 512) == b"n" * 512
