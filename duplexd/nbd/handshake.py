"""The server's half of the fixed newstyle handshake, without I/O.

    handshake = Handshake(exports, options_max=...)
    send(handshake.greeting())
    handshake.receive(bytes_from_client)
    while (replies := handshake.advance()) is not None: send(each reply)
    if handshake.state == TRANSMISSION: the client chose handshake.export;
        its first requests may be in handshake.rest()

States and events are `TRANSITIONS`. A bad option gets an error reply and the client may go on; only
what breaks the framing closes the connection. Clients probe for options that a server may not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

# States
CLIENT_FLAGS, HAGGLING, TRANSMISSION, CLOSED = "CLIENT_FLAGS", "HAGGLING", "TRANSMISSION", "CLOSED"
# Events
FLAGS_TAKEN, ANSWERED, EXPORT_CHOSEN, ABORTED, BROKEN = (
    "FLAGS_TAKEN",
    "ANSWERED",
    "EXPORT_CHOSEN",
    "ABORTED",
    "BROKEN",
)

TRANSITIONS = {
    (CLIENT_FLAGS, FLAGS_TAKEN): HAGGLING,
    (CLIENT_FLAGS, BROKEN): CLOSED,
    (HAGGLING, ANSWERED): HAGGLING,
    (HAGGLING, EXPORT_CHOSEN): TRANSMISSION,
    (HAGGLING, ABORTED): CLOSED,
    (HAGGLING, BROKEN): CLOSED,
}

SERVER_FLAGS = c.FLAG_FIXED_NEWSTYLE | c.FLAG_NO_ZEROES


@dataclass(frozen=True)
class Export:
    """What the handshake says of an export: size in bytes and transmission flags. `refused`: why no
    client gets it now, in words for the client.
    """

    name: str
    size: int
    flags: int
    description: str = ""
    refused: str = ""


class Exports(Protocol):
    """Where the handshake finds exports."""

    def find(self, name: str) -> Export | None:
        """The export of that name; "" is the default export."""

    def names(self) -> list[str]:
        """Every export that LIST shows."""


class Handshake:
    """One connection's handshake.

    Nothing here raises, whatever the client sends; `reason` says why it ended CLOSED.
    """

    def __init__(self, exports: Exports, options_max: int) -> None:
        self.state = CLIENT_FLAGS
        self.export: Export | None = None
        self.reason = ""
        self._exports = exports
        self._options_left = options_max
        self._zeroes = True
        self._input = bytearray()

    def greeting(self) -> bytes:
        """What to send first."""
        return m.greeting(SERVER_FLAGS)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the client, in pieces of any size."""
        self._input += data

    def advance(self) -> list[bytes] | None:
        """Take one message of the client; the replies to send, one write each.

        None: nothing more to do with what is there.
        """
        if self.state == HAGGLING:
            return self._option()
        if self.state == CLIENT_FLAGS:
            return self._client_flags()
        return None

    def rest(self) -> bytes:
        """What the client sent behind its choice of an export."""
        return bytes(self._input)

    def _become(self, event: str) -> None:
        self.state = TRANSITIONS[self.state, event]

    def _break(self, reason: str) -> list[bytes]:
        self.reason = reason
        self._become(BROKEN)
        return []

    def _client_flags(self) -> list[bytes] | None:
        if len(self._input) < m.CLIENT_FLAGS.size:
            return None
        flags: int = m.CLIENT_FLAGS.unpack_from(self._input)[0]
        del self._input[: m.CLIENT_FLAGS.size]
        if flags & ~SERVER_FLAGS:
            return self._break(f"client flags {flags:#x} were not offered")
        self._zeroes = not flags & c.FLAG_NO_ZEROES
        self._become(FLAGS_TAKEN)
        return []

    def _option(self) -> list[bytes] | None:
        if len(self._input) < m.OPTION.size:
            return None
        magic, number, length = m.OPTION.unpack_from(self._input)
        if magic != c.OPTION_MAGIC:
            return self._break("bad option magic")
        if length > c.OPTION_BYTES_MAX:
            return self._break(f"option {number} of {length} bytes is too long")
        if len(self._input) < m.OPTION.size + length:
            return None
        data = bytes(self._input[m.OPTION.size : m.OPTION.size + length])
        del self._input[: m.OPTION.size + length]
        if self._options_left == 0:
            return self._break("too many options")
        self._options_left -= 1
        return self._OPTIONS.get(number, Handshake._unsupported)(self, number, data)

    # Options: each returns its replies.

    def _refuse(self, number: int, reply: int, text: str) -> list[bytes]:
        self._become(ANSWERED)
        return [m.option_error(number, reply, text)]

    def _unsupported(self, number: int, _data: bytes) -> list[bytes]:
        return self._refuse(number, c.REP_ERR_UNSUP, f"option {number} is not supported")

    def _unsupported_without_data(self, number: int, data: bytes) -> list[bytes]:
        if data:
            return self._refuse(number, c.REP_ERR_INVALID, f"option {number} takes no data")
        return self._unsupported(number, data)

    def _abort(self, number: int, _data: bytes) -> list[bytes]:
        self.reason = "aborted by the client"
        self._become(ABORTED)
        return [m.option_reply(number, c.REP_ACK)]

    def _list(self, number: int, data: bytes) -> list[bytes]:
        if data:
            return self._refuse(number, c.REP_ERR_INVALID, "LIST takes no data")
        self._become(ANSWERED)
        return [
            *(m.list_entry(number, name) for name in self._exports.names()),
            m.option_reply(number, c.REP_ACK),
        ]

    def _export_name(self, _number: int, data: bytes) -> list[bytes]:
        name = decode_name(data)
        export = None if name is None else self._exports.find(name)
        if export is None:
            return self._break("EXPORT_NAME names no export")
        if export.refused:  # this option has no reply for an error
            return self._break(export.refused)
        self.export = export
        self._become(EXPORT_CHOSEN)
        return [
            m.EXPORT.pack(export.size, export.flags) + (m.EXPORT_ZEROES if self._zeroes else b"")
        ]

    def _info(self, number: int, data: bytes) -> list[bytes]:
        """INFO and GO differ only in what comes after success."""
        asked = parse_go(data)
        if asked is None:
            return self._refuse(number, c.REP_ERR_INVALID, "malformed name or information requests")
        name, kinds = asked
        export = self._exports.find(name)
        if export is None:
            return self._refuse(
                number, c.REP_ERR_UNKNOWN, f"no export {name!r}; LIST shows what there is"
            )
        if export.refused:
            return self._refuse(number, c.REP_ERR_UNKNOWN, export.refused)
        if number == c.OPT_GO:
            self.export = export
            self._become(EXPORT_CHOSEN)
        else:
            self._become(ANSWERED)
        answers = [
            m.option_reply(number, c.REP_INFO, information)
            for information in describe(export, kinds)
        ]
        return [*answers, m.option_reply(number, c.REP_ACK)]

    _OPTIONS: ClassVar[dict[int, Callable[[Handshake, int, bytes], list[bytes]]]] = {
        c.OPT_EXPORT_NAME: _export_name,
        c.OPT_ABORT: _abort,
        c.OPT_LIST: _list,
        c.OPT_STARTTLS: _unsupported_without_data,
        c.OPT_INFO: _info,
        c.OPT_GO: _info,
        c.OPT_STRUCTURED_REPLY: _unsupported_without_data,
        c.OPT_EXTENDED_HEADERS: _unsupported_without_data,
    }


def decode_name(data: bytes) -> str | None:
    """An export name; None if it is too long, not UTF-8 or contains NUL."""
    if len(data) > c.STRING_BYTES_MAX or 0 in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def parse_go(data: bytes) -> tuple[str, set[int]] | None:
    """Name and kinds of information of GO or INFO; None if the lengths do not add up to the data or
    the name is bad.
    """
    if len(data) < m.U32.size + m.U16.size:
        return None
    name_end: int = m.U32.size + m.U32.unpack_from(data)[0]
    kinds_start = name_end + m.U16.size
    if kinds_start > len(data):
        return None
    count: int = m.U16.unpack_from(data, name_end)[0]
    name = decode_name(data[m.U32.size : name_end])
    if name is None or len(data) != kinds_start + count * m.U16.size:
        return None
    return name, {kind for (kind,) in m.U16.iter_unpack(data[kinds_start:])}


def describe(export: Export, kinds: set[int]) -> list[bytes]:
    """Information replies: INFO_EXPORT always, the others if asked; unknown kinds are ignored."""
    answers = [m.info_export(export.size, export.flags)]
    if c.INFO_BLOCK_SIZE in kinds:
        answers.append(
            m.info_block_size(
                c.BLOCK_BYTES_MIN, c.BLOCK_BYTES_PREFERRED, c.PAYLOAD_BYTES_ADVERTISED
            )
        )
    if c.INFO_NAME in kinds:
        answers.append(m.info_text(c.INFO_NAME, export.name))
    if c.INFO_DESCRIPTION in kinds and export.description:
        answers.append(m.info_text(c.INFO_DESCRIPTION, export.description))
    return answers
