"""An NBD client that negotiated structured replies or extended headers, raw: requests are bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from tests.support.nbd_chunks import Chunk, ChunkReader

if TYPE_CHECKING:
    from tests.unit.nbd_server.peer import Peer


class ChunkPeer:
    """`flags` are those of the export. Cookies are counted from 1."""

    def __init__(self, peer: Peer, extended: bool) -> None:
        self.peer = peer
        self.extended = extended
        self.flags = 0
        self._reader = ChunkReader()
        self._read: list[Chunk] = []
        self._cookie = 0

    async def go(self, contexts: list[str], export: str = "data") -> None:
        """From a fresh connection to transmission."""
        await self._bytes(m.GREETING.size)
        await self.peer.send(m.CLIENT_FLAGS.pack(3))
        option = c.OPT_EXTENDED_HEADERS if self.extended else c.OPT_STRUCTURED_REPLY
        await self._option(option, b"")
        if contexts:
            await self._option(c.OPT_SET_META_CONTEXT, m.context_data(export, contexts))
        for data in await self._option(c.OPT_GO, m.go_data(export, [])):
            if data[:2] == m.U16.pack(c.INFO_EXPORT):
                _, _, self.flags = m.INFO_EXPORT_DATA.unpack(data)

    async def ask(
        self, command: int, offset: int, length: int, flags: int = 0, payload: bytes = b""
    ) -> list[Chunk]:
        """One request and the chunks of its reply, the next that comes."""
        cookie = await self.send(command, offset, length, flags, payload)
        return await self.reply(cookie)

    async def send(
        self, command: int, offset: int, length: int, flags: int = 0, payload: bytes = b""
    ) -> int:
        """One request; its cookie."""
        self._cookie += 1
        if self.extended and payload:
            flags |= c.CMD_FLAG_PAYLOAD_LEN
            length = len(payload)
        make = m.extended_request if self.extended else m.request
        await self.peer.send(make(flags, command, self._cookie, offset, length) + payload)
        return self._cookie

    async def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        """One WRITE; its cookie."""
        return await self.send(c.CMD_WRITE, offset, len(data), flags, data)

    async def reply(self, cookie: int) -> list[Chunk]:
        """The reply to that request, in any order with others."""
        while not any(chunk.cookie == cookie and chunk.done for chunk in self._read):
            data = await self.peer.receive()
            assert data, "the server closed the connection"
            self._read += self._reader.feed(data)
        found = [chunk for chunk in self._read if chunk.cookie == cookie]
        self._read = [chunk for chunk in self._read if chunk.cookie != cookie]
        return found

    async def _option(self, number: int, data: bytes) -> list[bytes]:
        await self.peer.send(m.option(number, data))
        found: list[bytes] = []
        while True:
            header = await self._bytes(m.OPTION_REPLY.size)
            _, answered, reply, length = m.OPTION_REPLY.unpack(header)
            assert answered == number
            body = await self._bytes(length)
            if reply == c.REP_ACK:
                return found
            assert not reply & c.REP_FLAG_ERROR, body
            found.append(body)

    async def _bytes(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await self.peer.receive(count - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data


def status_payload(length: int, *contexts: int) -> bytes:
    """What BLOCK_STATUS may carry."""
    return struct.pack(f">Q{len(contexts)}I", length, *contexts)
