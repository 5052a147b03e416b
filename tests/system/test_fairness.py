"""A client that floods one volume does not make clients of other volumes wait for what it sent.

Time is not measured, because a busy machine makes any wait long. What is counted is the work that
the daemon puts in front of a client that writes one block at a time: how many changes of the flood
are answered between its request and its reply.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from duplexd.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

REQUEST = struct.Struct(">IHHQQI")
MAGIC, WRITE, FLUSH, TRIM, ZEROES, NO_HOLE = 0x25609513, 1, 3, 4, 6, 2
REPLY_BYTES = 16
PATIENCE_SECONDS = 120.0
VOLUME_BYTES = 64 * MIB

IN_FLIGHT = 16384  # requests of the flood; or fewer, as many as the daemon takes
GOOD_WRITES = 20
# Command, flags, length, and how many of them a write may wait for: those of the batch that runs
# and of one turn of the flooded volume, with a margin
FLOODS = {
    "trims": (TRIM, 0, 4 * KIB, 300),
    "trims of the whole volume": (TRIM, 0, VOLUME_BYTES, 300),
    "zeroes": (ZEROES, NO_HOLE, 4 * KIB, 300),
    "flushes": (FLUSH, 0, 0, 300),
}


def connect(files: DaemonFiles, volume: str) -> socket.socket:
    """A client that has chosen its volume."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(str(files.nbd_socket))
    client.recv(18, socket.MSG_WAITALL)
    name = volume.encode()
    client.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)
    client.recv(10, socket.MSG_WAITALL)
    return client


def request(command: int, flags: int, length: int, offset: int = 0) -> bytes:
    payload = bytes(length) if command == WRITE else b""
    return REQUEST.pack(MAGIC, flags, command, 0, offset, length) + payload


class Flood:
    """Keeps as many requests in flight as the daemon takes, at most `IN_FLIGHT`."""

    def __init__(self, client: socket.socket, one: bytes) -> None:
        self._client = client
        client.setblocking(False)
        self._one = one
        self._many = one * max(1, min(IN_FLIGHT, MIB // len(one)))
        self._sent = 0  # bytes
        self._received = 0

    @property
    def answered(self) -> int:
        return self._received // REPLY_BYTES

    def send(self) -> None:
        """As much as the socket takes."""
        try:
            while self._sent // len(self._one) < self.answered + IN_FLIGHT:
                rest = self._sent % len(self._many)
                self._sent += self._client.send(memoryview(self._many)[rest:])
        except BlockingIOError:
            pass

    def receive(self, nbytes: int) -> bool:
        """Some replies; False if there is none."""
        try:
            self._received += len(self._client.recv(nbytes))
        except BlockingIOError:
            return False
        return True

    def until_answered(self, count: int) -> None:
        """Let it run until it is at work."""
        while self.answered < count:
            self.send()
            ready = select.select([self._client], [self._client], [], PATIENCE_SECONDS)
            assert ready[0] or ready[1], "the daemon does not answer"
            self.receive(KIB)


def overtaken_by(flood: Flood, good: socket.socket, place: int) -> int:
    """How many replies to the flood come before that to one write of the other client."""
    flood.send()
    while flood.receive(MIB):
        flood.send()  # these came before
    before = flood.answered
    good.sendall(request(WRITE, 0, 4 * KIB, place * 4 * KIB))
    while not select.select([good], [], [], 0)[0]:
        flood.send()
        flood.receive(4 * REPLY_BYTES)  # few, so that its own reply is seen when it comes
    assert good.recv(REPLY_BYTES, socket.MSG_WAITALL)[4:8] == bytes(4)
    return flood.answered - before


@pytest.mark.parametrize("kind", FLOODS)
def test_a_write_waits_for_few_changes_of_a_flood_on_another_volume(
    kind: str, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": VOLUME_BYTES, "wal": "8MiB"}, journal_size="64MiB")
    start_daemon(files)
    with connect(files, "data") as bad, connect(files, "wal") as good:
        good.sendall(request(WRITE, 0, 4 * KIB))  # opens its region, which takes a sync
        assert good.recv(REPLY_BYTES, socket.MSG_WAITALL)[4:8] == bytes(4)
        command, flags, length, overtaken_max = FLOODS[kind]
        flood = Flood(bad, request(command, flags, length))
        flood.until_answered(16)
        counts = [overtaken_by(flood, good, place) for place in range(GOOD_WRITES)]
    assert sum(counts) <= GOOD_WRITES * overtaken_max, counts
