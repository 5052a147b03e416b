"""A client that keeps as many requests in flight as it was asked to, until SIGTERM.

    python -m tests.bench.flood SOCKET VOLUME KIND CONNECTIONS DEPTH LENGTH

It is a process of its own, so that what it costs is not taken from the client that is measured. It
parses nothing: replies are counted by their bytes; of BLOCK_STATUS, whose replies differ in length,
it reads the headers. Each second it prints how many came. At its end it takes all replies and says
goodbye, because nbdkit 1.32 fails an assertion if it leaves before.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass

REQUEST = struct.Struct(">IHHQQI")
MAGIC = 0x25609513
REPLY_BYTES = 16
COMMANDS = {"read": 0, "write": 1, "goodbye": 2, "flush": 3, "trim": 4, "status": 7}
CHUNK = struct.Struct(">IHHQI")
OPTION, ANSWER = struct.Struct(">8sII"), struct.Struct(">QIII")
EXPORT_NAME, STRUCTURED_REPLY, SET_META_CONTEXT = 1, 8, 10
ACK = 1
CONTEXT = b"base:allocation"
AT_ONCE_BYTES = 1 << 20


def connect(path: str, volume: str, asks_status: bool = False) -> socket.socket:
    """A connection that has chosen its volume, and `base:allocation` of it if it asks for that."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.recv(18, socket.MSG_WAITALL)
    client.sendall(struct.pack(">I", 3))
    name = volume.encode()
    if asks_status:
        _option(client, STRUCTURED_REPLY, b"")
        parts = len(name).to_bytes(4), name, b"\0\0\0\1", len(CONTEXT).to_bytes(4), CONTEXT
        _option(client, SET_META_CONTEXT, b"".join(parts))
    client.sendall(OPTION.pack(b"IHAVEOPT", EXPORT_NAME, len(name)) + name)
    client.recv(10, socket.MSG_WAITALL)
    return client


def _option(client: socket.socket, number: int, data: bytes) -> None:
    client.sendall(OPTION.pack(b"IHAVEOPT", number, len(data)) + data)
    kind = 0
    while kind != ACK:
        head = client.recv(ANSWER.size, socket.MSG_WAITALL)
        _magic, _option, kind, length = ANSWER.unpack(head)
        if kind >> 31:
            raise ConnectionError(f"the server refused option {number}: {kind:#x}")
        client.recv(length, socket.MSG_WAITALL)


def request(kind: str, length: int, offset: int = 0) -> bytes:
    """One request, with its payload."""
    head = REQUEST.pack(MAGIC, 0, COMMANDS[kind], 0, offset, length)
    return head + b"x" * length if kind == "write" else head


@dataclass
class Flow:
    """One connection. `one` is its request; `reply` how many bytes each reply has."""

    client: socket.socket
    one: bytes
    reply: int
    depth: int

    def __post_init__(self) -> None:
        self._many = memoryview(self.one * max(1, min(self.depth, AT_ONCE_BYTES // len(self.one))))
        self._sent = self._received = 0
        self._ending = False
        self._buffer = bytearray(AT_ONCE_BYTES)
        self.client.setblocking(False)

    @property
    def answered(self) -> int:
        return self._received // self.reply

    @property
    def unsent(self) -> int:
        """How much may be sent now, in bytes."""
        if self._ending:
            return -self._sent % len(self.one)
        return (self.answered + self.depth) * len(self.one) - self._sent

    @property
    def is_over(self) -> bool:
        return self._ending and self._sent == self.answered * len(self.one)

    def send(self) -> None:
        at = self._sent % len(self._many)
        self._sent += self.client.send(self._many[at : at + self.unsent])

    def end(self) -> None:
        """Send what is left of a request, and no other."""
        self._ending = True

    def receive(self) -> None:
        count = self.client.recv_into(self._buffer)
        if not count:
            raise ConnectionError("the server closed the connection")
        self._took(count)

    def _took(self, count: int) -> None:
        self._received += count


class StatusFlow(Flow):
    """Of BLOCK_STATUS: each reply is one chunk, which says how long it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._replies = 0
        self._skip = 0  # of the present chunk, that has not come
        self._head = b""

    @property
    def answered(self) -> int:
        return self._replies

    def _took(self, count: int) -> None:
        at = 0
        while at < count:
            if self._skip:
                step = min(self._skip, count - at)
                self._skip -= step
                self._replies += not self._skip
            else:
                step = min(CHUNK.size - len(self._head), count - at)
                self._head += self._buffer[at : at + step]
                if len(self._head) == CHUNK.size:
                    *_, self._skip = CHUNK.unpack(self._head)
                    self._head = b""
            at += step


def flood(path: str, volume: str, kind: str, connections: int, depth: int, length: int) -> None:
    """Run until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    reply = REPLY_BYTES + (length if kind == "read" else 0)
    made = StatusFlow if kind == "status" else Flow
    flows = [
        made(connect(path, volume, kind == "status"), request(kind, length), reply, depth)
        for _ in range(connections)
    ]
    by_fd = {flow.client.fileno(): flow for flow in flows}
    poll = select.poll()
    said, before = time.monotonic(), 0
    while not all(flow.is_over for flow in flows):
        for fd, flow in by_fd.items():
            poll.register(fd, select.POLLIN | (select.POLLOUT if flow.unsent > 0 else 0))
        for fd, events in poll.poll(1000):
            flow = by_fd[fd]
            if events & select.POLLIN:
                flow.receive()
            if events & select.POLLOUT and flow.unsent > 0:
                flow.send()
        if (now := time.monotonic()) - said >= 1:
            answered = sum(flow.answered for flow in flows)
            print(f"{(answered - before) / (now - said):.1f}", flush=True)
            said, before = now, answered
        if ended:
            for flow in flows:
                flow.end()
    for flow in flows:
        flow.client.send(request("goodbye", 0))
        flow.client.close()


if __name__ == "__main__":
    _, path, volume, kind, *numbers = sys.argv
    flood(path, volume, kind, *map(int, numbers))
