"""The client's half of NBD without I/O: bytes in, replies out; what to send is queued.

Replies come in any order, so the caller matches them by cookie; nothing here waits or calls back.

    client = NbdClient("data")                  # or NbdClient("", list_exports=True)
    replies = client.receive(bytes_from_peer)   # [] while haggling
    send(client.data_to_send())                 # after each receive and after each request
    if client.ready: cookie = client.write(0, b"...")   # its reply carries the cookie

States: GREETING -> HAGGLING -> READY -> CLOSED; a client that lists goes HAGGLING -> CLOSED, and a
server that does not know GO is asked once more: HAGGLING -> EXPORT_NAME -> READY. See `_STEPS`.

While haggling it asks one option after the other: with `tls` STARTTLS, HAGGLING -> SECURING, where
it waits until `secured` is called; with `structured` STRUCTURED_REPLY, and for `contexts`
SET_META_CONTEXT. It goes on without the last two if the server does not have them, but not without
TLS.

A client has promises to keep, too: requests fit the block sizes that the server gave, ask for
nothing that it did not offer, and no connection ends without an ABORT or a DISC. So what a server
would have to refuse raises here and is not sent.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

from . import constants as c
from . import messages as m
from .client_replies import Replies, Reply
from .exports import BLOCK_SIZES
from .messages import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GREETING, HAGGLING, SECURING, EXPORT_NAME, READY, CLOSED = (
    "GREETING",
    "HAGGLING",
    "SECURING",
    "EXPORT_NAME",
    "READY",
    "CLOSED",
)
# By command: the transmission flag that offers it
_OFFERED_BY = {
    c.CMD_FLUSH: c.FLAG_SEND_FLUSH,
    c.CMD_TRIM: c.FLAG_SEND_TRIM,
    c.CMD_WRITE_ZEROES: c.FLAG_SEND_WRITE_ZEROES,
}
# A server that refuses one of these is used without
_OPTIONAL = frozenset({c.OPT_STRUCTURED_REPLY, c.OPT_SET_META_CONTEXT})
_CHANGES = frozenset({c.CMD_WRITE, c.CMD_TRIM, c.CMD_WRITE_ZEROES})
_LENGTH_MAX, _OFFSET_MAX = (1 << 32) - 1, (1 << 64) - 1
_LIST_BYTES_MAX = 16 << 20  # of all entries of a list
_MINIMUM_BYTES_MAX = 1 << 16  # of the block sizes, by the specification


class RefusedError(Exception):
    """The server refused the option; `code` is its REP_ERR_* number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(
            text or f"the server refused the export with error {code - c.REP_FLAG_ERROR}"
        )
        self.code = code


class NotOfferedError(OSError):
    """A request that this server does not take; it was not sent."""


class NbdClient:
    """One connection.

    `receive` raises ProtocolError or RefusedError; the connection cannot be used after either, but
    what is queued is to be sent before it is closed. Requests raise NotOfferedError, and ValueError
    where they do not fit `block_sizes` (minimum, preferred, maximum payload; in bytes).
    """

    def __init__(
        self,
        export: str = "",
        *,
        list_exports: bool = False,
        only_look: bool = False,
        tls: bool = False,
        structured: bool = False,
        contexts: Sequence[str] = (),
    ) -> None:
        """`only_look`: ask what the export is, and leave; `closed` says when that is known."""
        self.export = export
        self.size = 0
        self.flags = 0
        self.block_sizes = BLOCK_SIZES
        self.description = ""  # where the server has one
        self.exports: list[str] = []
        self._listed = 0  # bytes
        self._queries = list(contexts)
        last = c.OPT_LIST if list_exports else c.OPT_INFO if only_look else c.OPT_GO
        self._option = last  # that is asked
        self._plan = [last]  # what is to be asked, the next one last
        if structured and not list_exports:
            self._plan += [c.OPT_SET_META_CONTEXT] * bool(contexts) + [c.OPT_STRUCTURED_REPLY]
        self._tls = tls
        self._zeroes = 0  # behind the answer to EXPORT_NAME
        self._state = GREETING
        self._input = bytearray()
        self._output: list[bytes | bytearray | memoryview] = []
        self._replies = Replies()
        self._next_cookie = 1

    @property
    def ready(self) -> bool:
        """Requests may be sent."""
        return self._state == READY

    @property
    def wants_tls(self) -> bool:
        """The server agreed to TLS: begin it, then call `secured`."""
        return self._state == SECURING

    @property
    def structured(self) -> bool:
        """The server answers in chunks."""
        return self._replies.structured

    @property
    def contexts(self) -> list[str]:
        """The metadata contexts that the server has, of those that were asked for."""
        return list(self._replies.contexts.values())

    @property
    def can_flush(self) -> bool:
        """FLUSH is offered. A server that does not offer it has no cache that could be flushed."""
        return bool(self.flags & c.FLAG_SEND_FLUSH)

    @property
    def can_fua(self) -> bool:
        """Changes may have FUA."""
        return bool(self.flags & c.FLAG_SEND_FUA)

    @property
    def closed(self) -> bool:
        """The exports are listed, the server refused, or `disconnect` was called and all replies
        are here.
        """
        return self._state == CLOSED and not self._replies

    @property
    def in_flight(self) -> int:
        """Requests without a reply so far."""
        return len(self._replies)

    def data_to_send(self) -> bytes:
        """What was queued since the last call."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def receive(self, data: bytes | bytearray | memoryview) -> list[Reply]:
        """Take bytes of the server, in pieces of any size. Returns replies that are complete."""
        self._input += data
        replies: list[Reply] = []
        while (step := self._STEPS[self._state](self, replies)) > 0:
            del self._input[:step]
        return replies

    def secured(self) -> None:
        """TLS is up: what is received and sent from now on goes through it."""
        self._state = HAGGLING
        self._ask()

    # Requests: each returns its cookie.

    def read(self, offset: int, length: int) -> int:
        """Ask for `length` bytes."""
        return self._request(0, c.CMD_READ, offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> int:
        """Write `data`, which must not change until `data_to_send` was called."""
        cookie = self._request(c.CMD_FLAG_FUA if fua else 0, c.CMD_WRITE, offset, len(data))
        self._output.append(data)
        return cookie

    def write_zeroes(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False
    ) -> int:
        """Write zeroes; with `no_hole` the range stays allocated."""
        flags = (c.CMD_FLAG_FUA if fua else 0) | (c.CMD_FLAG_NO_HOLE if no_hole else 0)
        return self._request(flags, c.CMD_WRITE_ZEROES, offset, length)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> int:
        """Discard a range."""
        return self._request(c.CMD_FLAG_FUA if fua else 0, c.CMD_TRIM, offset, length)

    def flush(self) -> int:
        """Once this is replied to, everything replied to before it survives a power cut."""
        return self._request(0, c.CMD_FLUSH, 0, 0)

    def block_status(self, offset: int, length: int, *, one: bool = False) -> int:
        """Ask for the extents of all `contexts`; with `one` only for the first of each."""
        return self._request(c.CMD_FLAG_REQ_ONE if one else 0, c.CMD_BLOCK_STATUS, offset, length)

    def disconnect(self) -> None:
        """Disconnect; replies to requests in flight still come."""
        if self._state == READY:
            self._output.append(m.request(0, c.CMD_DISC, 0, 0, 0))
        elif self._state == HAGGLING:
            self._output.append(m.option(c.OPT_ABORT))
        self._state = CLOSED

    def _request(self, flags: int, command: int, offset: int, length: int) -> int:
        if self._state != READY:
            raise ProtocolError("a request before the handshake is over, or after disconnect")
        self._check(flags, command, offset, length)
        cookie = self._next_cookie
        self._next_cookie += 1
        self._output.append(m.request(flags, command, cookie, offset, length))
        self._replies.expect(cookie, command, offset, length)
        return cookie

    def _check(self, flags: int, command: int, offset: int, length: int) -> None:
        if command in _CHANGES and self.flags & c.FLAG_READ_ONLY:
            raise NotOfferedError(errno.EPERM, "the export is read-only")
        needed = _OFFERED_BY.get(command, 0) | (c.FLAG_SEND_FUA if flags & c.CMD_FLAG_FUA else 0)
        if needed & ~self.flags:
            raise NotOfferedError(
                errno.EOPNOTSUPP, f"the server does not offer flags {needed & ~self.flags:#x}"
            )
        if command == c.CMD_BLOCK_STATUS and not self._replies.contexts:
            raise NotOfferedError(
                errno.EOPNOTSUPP, "the server has none of the metadata contexts asked for"
            )
        if not 0 <= length <= _LENGTH_MAX or not 0 <= offset <= _OFFSET_MAX:
            raise ValueError(f"{length} bytes at {offset} are no range that a request can name")
        minimum, _, maximum = self.block_sizes
        if (offset | length) & (minimum - 1):
            raise ValueError(
                f"offset {offset} and length {length} must be multiples of {minimum} bytes"
            )
        if length > maximum and command in {c.CMD_READ, c.CMD_WRITE}:
            raise ValueError(f"{length} bytes in a request; the server takes up to {maximum}")

    # Steps: how many bytes of input were used up; 0: more are needed.

    def _greeting(self, _replies: list[Reply]) -> int:
        if len(self._input) < m.GREETING.size:
            return 0
        magic, option_magic, flags = m.GREETING.unpack_from(self._input)
        if magic != c.INIT_MAGIC or option_magic != c.OPTION_MAGIC:
            raise ProtocolError("the peer is not a newstyle NBD server")
        self._zeroes = 0 if flags & c.FLAG_NO_ZEROES else len(m.EXPORT_ZEROES)
        self._output.append(m.CLIENT_FLAGS.pack(flags & (c.FLAG_FIXED_NEWSTYLE | c.FLAG_NO_ZEROES)))
        self._state = HAGGLING
        if flags & c.FLAG_FIXED_NEWSTYLE:
            if self._tls:
                self._plan.append(c.OPT_STARTTLS)
            self._ask()
        elif self._tls:
            raise ProtocolError("the server has no TLS: it does not speak fixed newstyle")
        elif self._option == c.OPT_LIST:
            raise ProtocolError("the server cannot list: it does not speak fixed newstyle")
        else:
            self._ask_by_name()
        return m.GREETING.size

    def _ask(self) -> None:
        """Ask the next option."""
        self._option = self._plan.pop()
        data = b""
        if self._option in {c.OPT_GO, c.OPT_INFO}:
            data = m.go_data(self.export, [c.INFO_BLOCK_SIZE, c.INFO_DESCRIPTION])
        elif self._option == c.OPT_SET_META_CONTEXT:
            data = m.context_data(self.export, self._queries)
        self._output.append(m.option(self._option, data))

    def _ask_by_name(self) -> None:
        """As for servers that do not know GO. They close the connection if there is no export of
        that name.
        """
        self._output.append(m.option(c.OPT_EXPORT_NAME, self.export.encode()))
        self._state = EXPORT_NAME

    def _export_name(self, _replies: list[Reply]) -> int:
        end = m.EXPORT.size + self._zeroes
        if len(self._input) < end:
            return 0
        self.size, self.flags = m.EXPORT.unpack_from(self._input)
        self._begin()
        return end

    def _haggling(self, _replies: list[Reply]) -> int:
        if len(self._input) < m.OPTION_REPLY.size:
            return 0
        magic, option, reply, length = m.OPTION_REPLY.unpack_from(self._input)
        if magic != c.OPTION_REPLY_MAGIC or option != self._option or length > c.OPTION_BYTES_MAX:
            raise ProtocolError("a bad option reply")
        end: int = m.OPTION_REPLY.size + length
        if len(self._input) < end:
            return 0
        self._option_reply(reply, bytes(self._input[m.OPTION_REPLY.size : end]))
        return end

    def _option_reply(self, reply: int, data: bytes) -> None:
        if reply == c.REP_ERR_UNSUP and self._option == c.OPT_GO:
            self._ask_by_name()
        elif reply & c.REP_FLAG_ERROR and self._option in _OPTIONAL:
            self._replies.contexts.clear()
            if self._option == c.OPT_STRUCTURED_REPLY:
                del self._plan[1:]  # contexts need it
            self._ask()
        elif reply & c.REP_FLAG_ERROR:
            self.disconnect()
            raise RefusedError(reply, data.decode("utf-8", "replace"))
        elif reply == c.REP_ACK:
            self._acknowledged()
        elif reply == c.REP_INFO and self._option in {c.OPT_GO, c.OPT_INFO}:
            self._information(data)
        elif reply == c.REP_SERVER and self._option == c.OPT_LIST:
            self._export(data)
        elif reply == c.REP_META_CONTEXT and self._option == c.OPT_SET_META_CONTEXT:
            self._context(data)
        else:
            raise ProtocolError(f"unexpected option reply {reply}")

    def _acknowledged(self) -> None:
        if self._option in {c.OPT_LIST, c.OPT_INFO}:
            self.disconnect()
        elif self._option == c.OPT_GO:
            self._begin()
        elif self._option == c.OPT_STARTTLS:
            self._state = SECURING
        else:
            self._replies.structured = True
            self._ask()

    def _begin(self) -> None:
        if not self.flags & c.FLAG_HAS_FLAGS:
            raise ProtocolError("the server did not describe the export")
        self._state = READY

    def _information(self, data: bytes) -> None:
        kind = m.U16.unpack_from(data)[0] if len(data) >= m.U16.size else -1
        if kind == c.INFO_EXPORT and len(data) == m.INFO_EXPORT_DATA.size:
            _, self.size, self.flags = m.INFO_EXPORT_DATA.unpack(data)
        elif kind == c.INFO_BLOCK_SIZE and len(data) == m.INFO_BLOCK_SIZE_DATA.size:
            self._take_block_sizes(*m.INFO_BLOCK_SIZE_DATA.unpack(data)[1:])
        elif kind == c.INFO_DESCRIPTION:
            self.description = data[m.U16.size :].decode("utf-8", "replace")
        elif kind in (-1, c.INFO_EXPORT, c.INFO_BLOCK_SIZE):
            raise ProtocolError("an information of the wrong length")

    def _take_block_sizes(self, minimum: int, preferred: int, maximum: int) -> None:
        powers = all(size and not size & (size - 1) for size in (minimum, preferred))
        if not powers or minimum > _MINIMUM_BYTES_MAX or not minimum <= preferred <= maximum:
            raise ProtocolError(f"bad block sizes: {minimum}, {preferred} and {maximum} bytes")
        self.block_sizes = minimum, preferred, maximum

    def _export(self, data: bytes) -> None:
        length = m.U32.unpack_from(data)[0] if len(data) >= m.U32.size else len(data)
        if m.U32.size + length > len(data):
            raise ProtocolError("a list entry of the wrong length")
        self._listed += m.OPTION_REPLY.size + len(data)
        if self._listed > _LIST_BYTES_MAX:
            raise ProtocolError("a list that does not end")
        self.exports.append(data[m.U32.size : m.U32.size + length].decode("utf-8", "replace"))

    def _context(self, data: bytes) -> None:
        number = m.U32.unpack_from(data)[0] if len(data) > m.U32.size else 0
        name = data[m.U32.size :].decode("utf-8", "replace")
        contexts = self._replies.contexts
        if number in contexts or name not in self._queries or name in contexts.values():
            raise ProtocolError(f"a metadata context that was not asked for: {name!r}")
        contexts[number] = name

    def _securing(self, _replies: list[Reply]) -> int:
        if self._input:  # an attacker's, who wants it taken for what comes through TLS
            raise ProtocolError("plain text after STARTTLS")
        return 0

    def _reply(self, replies: list[Reply]) -> int:
        end, reply = self._replies.take(self._input)
        if reply is not None:
            replies.append(reply)
        return end

    def _closed(self, replies: list[Reply]) -> int:
        return self._reply(replies) if self._replies else len(self._input)

    _STEPS: ClassVar[dict[str, Callable[[NbdClient, list[Reply]], int]]] = {
        GREETING: _greeting,
        HAGGLING: _haggling,
        SECURING: _securing,
        EXPORT_NAME: _export_name,
        READY: _reply,
        CLOSED: _closed,
    }
