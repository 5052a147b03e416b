"""A proxy between a coordinator and its members that a test can interrupt between any two messages.
It adds nothing to either side.

    async with Wire({"alpha": socket_of_alpha, ...}, directory, watch) as wire:
        ...  # the coordinator is given wire.paths["alpha"] instead

Every request and every answer is one message, as HTTP/1.1 counts them (of an answer that is a
stream of lines, the first line is the message, the rest goes with it). `watch(message)` is called
with each before it goes on; it may call `wire.cut(...)` and kill whom it likes. If it returns
False, the message is lost and its connection with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

REQUEST, ANSWER = "request", "answer"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")


class Message(NamedTuple):
    """`number` counts from 1 over all members."""

    number: int
    member: str
    way: str
    verb: str  # close, cut, open, abort, agree, refuse, release; of others the method and path
    status: int = 0  # of an answer

    def __str__(self) -> str:
        return (
            f"{self.number}: {self.verb} {self.way} "
            f"{'from' if self.way == ANSWER else 'to'} {self.member}"
        )


class Wire:
    """Unix sockets at `paths`, one for each member, all on one clock of messages."""

    def __init__(
        self, members: Mapping[str, Path], directory: Path, watch: Callable[[Message], bool]
    ) -> None:
        self._members = members
        self._watch = watch
        self.paths = {member: directory / f"{member}.wire" for member in members}
        self.messages: list[Message] = []
        self.cut_id = ""  # of the cut that the coordinator makes
        self._dead: set[str] = set()
        self._servers: list[asyncio.Server] = []
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for member, path in self.paths.items():
            path.unlink(missing_ok=True)
            self._servers.append(await asyncio.start_unix_server(self._serve(member), path))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in self._streams:
            stream.transport.abort()
        for result in ended:
            if isinstance(result, Exception):
                raise result

    def cut(self, *members: str) -> None:
        """From now on nothing passes to or from these; connections stay open, as when a cable is
        pulled.
        """
        self._dead |= set(members)

    def _serve(self, member: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._connection(member, reader, writer))
            self._tasks.add(task)

        return accept

    async def _connection(
        self, member: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._streams.add(writer)
        if member in self._dead:
            await asyncio.Event().wait()
        try:
            below, to_below = await asyncio.open_unix_connection(self._members[member])
        except OSError:
            writer.transport.abort()
            return
        self._streams.add(to_below)
        verbs: list[str] = []
        ways = (
            asyncio.create_task(self._carry(member, REQUEST, reader, to_below, verbs)),
            asyncio.create_task(self._carry(member, ANSWER, below, writer, verbs)),
        )
        try:
            ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for stream in (writer, to_below):  # one side went away: so does the other
                stream.transport.abort()
        for way in ended:
            way.result()  # raises what `watch` raised

    async def _carry(
        self,
        member: str,
        way: str,
        source: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        verbs: list[str],
    ) -> None:
        """Run until one side has closed."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await source.readuntil(b"\r\n\r\n")
                first = head.split(b"\r\n", 1)[0].decode()
                if way == REQUEST:
                    verbs.append(verb_of(first))
                    self.cut_id = _cut_of(first) or self.cut_id
                length = _LENGTH.search(head)
                data = head + (await source.readexactly(int(length[1])) if length else b"")
                chunked = _CHUNKED.search(head) is not None
                if chunked:
                    data += await _chunk(source)
                await self._pass(
                    Message(
                        0,
                        member,
                        way,
                        verbs[-1] if way == REQUEST else verbs.pop(0),
                        _status(first),
                    ),
                    data,
                    to,
                )
                while chunked:
                    data = await _chunk(source)
                    await self._send(member, data, to)
                    chunked = data != b"0\r\n\r\n"

    async def _pass(self, message: Message, data: bytes, to: asyncio.StreamWriter) -> None:
        numbered = message._replace(number=len(self.messages) + 1)
        if message.member not in self._dead:
            self.messages.append(numbered)
            if not self._watch(numbered):
                raise ConnectionResetError
        await self._send(message.member, data, to)

    async def _send(self, member: str, data: bytes, to: asyncio.StreamWriter) -> None:
        if member in self._dead:
            await asyncio.Event().wait()  # as good as lost
        to.write(data)
        await to.drain()


def verb_of(request_line: str) -> str:
    """The command of a request, by its name in the protocol."""
    method, target, _ = request_line.split(" ")
    path = target.split("?")[0]
    words = path.split("/")
    if path == "/v1/quiesce":
        return "close"
    if method == "DELETE" and words[2] == "leases":
        return "release"
    if method == "POST" and words[2] == "cuts":
        return words[4] if len(words) > 4 else "cut"
    return f"{method} {path}"


def _cut_of(request_line: str) -> str:
    words = request_line.split(" ")[1].split("/")
    return words[3] if words[2:3] == ["cuts"] and len(words) > 3 else ""


def _status(first: str) -> int:
    return int(first.split(" ")[1]) if first.startswith("HTTP/") else 0


async def _chunk(source: asyncio.StreamReader) -> bytes:
    """The next chunk as it is, with its size line; the last is of size 0."""
    size = await source.readuntil(b"\r\n")
    return size + await source.readexactly(int(size.split(b";")[0], 16) + 2)
