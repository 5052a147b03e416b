"""The server's half of the fixed newstyle handshake, without I/O.

    handshake = Handshake(exports, options_max=..., offers=Offers(structured=True), tls="optional")
    send(handshake.greeting())
    handshake.receive(bytes_from_client)
    while (replies := handshake.advance()) is not None: send(each reply)
    if handshake.wants_tls: begin TLS, then handshake.secured(), and go on in it
    if handshake.state == TRANSMISSION: the client chose handshake.export, with the flags that were
        announced, and handshake.negotiated; its first requests may be in handshake.rest()

States and events are `TRANSITIONS`. A bad option gets an error reply and the client may go on; only
what breaks the framing closes the connection. Clients probe for options that a server may not know.

What an option gets by its number and length alone is decided before its data is here, so data that
nobody will look at is never kept. `advance` gives a LIST in pieces: its sender stops
calling while the client does not take them, and the next option is not read meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from . import constants as c
from . import messages as m
from .contexts import listed, selected
from .export_flags import negotiated_flags
from .exports import describe, not_there
from .negotiated import Negotiated
from .offers import NO_OFFERS, Refusal, decide, offered
from .option_data import decode_name, parse_go, parse_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .exports import Export, Exports
    from .offers import Offers, Tls

# States
CLIENT_FLAGS, HAGGLING, SKIPPING, LISTING, SECURING, TRANSMISSION, CLOSED = (
    "CLIENT_FLAGS",
    "HAGGLING",
    "SKIPPING",  # data of an option whose answer is known
    "LISTING",
    "SECURING",  # STARTTLS is acknowledged, TLS is not up
    "TRANSMISSION",
    "CLOSED",
)
# Events
FLAGS_TAKEN, ANSWERED, DECIDED, LIST_ASKED, TLS_AGREED, SECURED, EXPORT_CHOSEN, ABORTED, BROKEN = (
    "FLAGS_TAKEN",
    "ANSWERED",
    "DECIDED",  # by its number and length alone
    "LIST_ASKED",
    "TLS_AGREED",
    "SECURED",
    "EXPORT_CHOSEN",
    "ABORTED",
    "BROKEN",
)

TRANSITIONS = {
    (CLIENT_FLAGS, FLAGS_TAKEN): HAGGLING,
    (CLIENT_FLAGS, BROKEN): CLOSED,
    (HAGGLING, ANSWERED): HAGGLING,
    (HAGGLING, DECIDED): SKIPPING,
    (HAGGLING, LIST_ASKED): LISTING,
    (HAGGLING, TLS_AGREED): SECURING,
    (HAGGLING, EXPORT_CHOSEN): TRANSMISSION,
    (HAGGLING, BROKEN): CLOSED,
    (SKIPPING, ANSWERED): HAGGLING,
    (SKIPPING, ABORTED): CLOSED,
    (LISTING, ANSWERED): HAGGLING,
    (LISTING, BROKEN): CLOSED,
    (SECURING, SECURED): HAGGLING,
    (SECURING, BROKEN): CLOSED,
}

SERVER_FLAGS = c.FLAG_FIXED_NEWSTYLE | c.FLAG_NO_ZEROES
LIST_PIECE = 16  # entries that one `advance` returns
SHORT_OPTION_BYTES_MAX = 128  # of data: one of 4 KiB may have a thousand queries


class Handshake:
    """One connection's handshake.

    Nothing here raises, whatever the client sends; `reason` says why it ended CLOSED. Each option
    takes one of `options_max`, a LIST one more for each entry, contexts one more for each eight.
    """

    def __init__(
        self,
        exports: Exports,
        options_max: int,
        *,
        offers: Offers = NO_OFFERS,
        tls: Tls = "off",
    ) -> None:
        self.state = CLIENT_FLAGS
        self.export: Export | None = None
        self.reason = ""
        self._exports = exports
        self._options_left = options_max
        self._tls = tls
        self._secure = False
        self._offered = offered(offers, tls)
        self._fixed = False
        self._zeroes = True
        self._agreed = Negotiated()
        self._contexts_of = ""  # the export that the agreed contexts are for
        self._input = bytearray()
        self._skip = 0  # bytes of data, then `_verdict`
        self._verdict = (ANSWERED, b"")
        self._entries: Iterator[str] = iter(())

    def greeting(self) -> bytes:
        """What to send first."""
        return m.greeting(SERVER_FLAGS)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the client, in pieces of any size."""
        self._input += data

    def advance(self) -> list[bytes] | None:
        """Take one message of the client, or a part of the answer to it; the replies to send, one
        write each.

        None: nothing more to do with what is there.
        """
        step = self._STEPS.get(self.state)
        return None if step is None else step(self)

    def rest(self) -> bytes:
        """What the client sent behind its choice of an export."""
        return bytes(self._input)

    @property
    def negotiated(self) -> Negotiated:
        """What was agreed on, for the export that was chosen; before that nothing is."""
        return Negotiated() if self.export is None else self._agreed_for(self.export)

    @property
    def takes_long(self) -> bool:
        """Whether the next `advance` may look at much."""
        if self.state != HAGGLING or len(self._input) < m.OPTION.size:
            return self.state == LISTING
        _magic, _number, length = m.OPTION.unpack_from(self._input)
        return bool(length > SHORT_OPTION_BYTES_MAX)

    @property
    def wants_tls(self) -> bool:
        """STARTTLS is acknowledged. What the client sends from now on is for TLS; nothing goes on
        here until `secured`.
        """
        return self.state == SECURING

    def secured(self) -> None:
        """TLS is up: `receive` gets what came through it."""
        if self._input:  # came in plain text: an attacker's, or a client's that does not wait
            self._break("plain text after STARTTLS")
            return
        self._secure = True
        self._become(SECURED)

    def _become(self, event: str) -> None:
        self.state = TRANSITIONS[self.state, event]

    def _break(self, reason: str) -> list[bytes]:
        self.reason = reason
        self._become(BROKEN)
        return []

    # Steps: each returns the replies, None if bytes are missing.

    def _client_flags(self) -> list[bytes] | None:
        if len(self._input) < m.CLIENT_FLAGS.size:
            return None
        flags: int = m.CLIENT_FLAGS.unpack_from(self._input)[0]
        del self._input[: m.CLIENT_FLAGS.size]
        if flags & ~SERVER_FLAGS:
            return self._break(f"client flags {flags:#x} were not offered")
        self._fixed = bool(flags & c.FLAG_FIXED_NEWSTYLE)
        self._zeroes = not flags & c.FLAG_NO_ZEROES
        if self._tls == "required" and not self._fixed:  # such a client cannot be asked for TLS
            return self._break("TLS is required, and the client does not speak fixed newstyle")
        self._become(FLAGS_TAKEN)
        return []

    def _option(self) -> list[bytes] | None:
        if len(self._input) < m.OPTION.size:
            return None
        magic, number, length = m.OPTION.unpack_from(self._input)
        if magic != c.OPTION_MAGIC:
            return self._break("bad option magic")
        if length > c.OPTION_SKIPPED_BYTES_MAX:
            return self._break(f"option {number} of {length} bytes is too long")
        if self._options_left <= 0:
            return self._break("too many options")
        forced = self._tls == "required" and not self._secure
        verdict = decide(number, length, self._offered, tls_missing=forced)
        end = m.OPTION.size + length
        if verdict is None and len(self._input) < end:
            return None
        self._options_left -= 1
        if verdict is None:
            data = bytes(self._input[m.OPTION.size : end])
            del self._input[:end]
            return self._ANSWERS[number](self, number, data)
        del self._input[: m.OPTION.size]
        return self._skip_then(number, length, verdict)

    def _skip_then(self, number: int, length: int, verdict: Refusal) -> list[bytes] | None:
        if number == c.OPT_EXPORT_NAME:  # has no reply for an error
            return self._break(verdict.text)
        event = ABORTED if number == c.OPT_ABORT else ANSWERED
        self._skip = length
        self._verdict = event, m.option_error(number, verdict.reply, verdict.text)
        self._become(DECIDED)
        return self._skipped()

    def _skipped(self) -> list[bytes] | None:
        here = min(self._skip, len(self._input))
        del self._input[:here]
        self._skip -= here
        if self._skip:
            return None
        event, reply = self._verdict
        if event == ABORTED:
            self.reason = "aborted by the client"
        self._become(event)
        return [reply]

    def _list_piece(self) -> list[bytes]:
        names = list(islice(self._entries, LIST_PIECE))
        if not names:
            self._become(ANSWERED)
            return [m.option_reply(c.OPT_LIST, c.REP_ACK)]
        found = [self._exports.find(name) for name in names]
        exports = [export for export in found if export is not None]
        self._options_left -= len(exports)  # of what is hidden not even the number shows
        if self._options_left < 0:
            return self._break("too many options")
        return [m.list_entry(export.name, export.description) for export in exports]

    # Options: each returns its replies.

    def _refuse(self, number: int, reply: int, text: str) -> list[bytes]:
        self._become(ANSWERED)
        return [m.option_error(number, reply, text)]

    def _acknowledge(self, number: int, replies: Sequence[bytes] = ()) -> list[bytes]:
        self._become(ANSWERED)
        return [*replies, m.option_reply(number, c.REP_ACK)]

    def _list(self, _number: int, _data: bytes) -> list[bytes]:
        self._entries = iter(self._exports.names())
        self._become(LIST_ASKED)
        return []

    def _starttls(self, number: int, _data: bytes) -> list[bytes]:
        if self._secure:
            return self._refuse(number, c.REP_ERR_INVALID, "TLS is in use already")
        if not self._fixed:
            return self._refuse(number, c.REP_ERR_POLICY, "TLS needs fixed newstyle")
        if self._input:
            return self._break("plain text after STARTTLS")
        # It may have been negotiated by somebody in between
        self._agreed, self._contexts_of = Negotiated(), ""
        self._become(TLS_AGREED)
        return [m.option_reply(number, c.REP_ACK)]

    def _structured(self, number: int, _data: bytes) -> list[bytes]:
        if self._agreed.extended:
            return self._refuse(
                number, c.REP_ERR_EXT_HEADER_REQD, "extended headers were negotiated already"
            )
        self._agreed = Negotiated(structured=True, contexts=self._agreed.contexts)
        return self._acknowledge(number)

    def _extended(self, number: int, _data: bytes) -> list[bytes]:
        self._agreed = Negotiated(structured=True, extended=True, contexts=self._agreed.contexts)
        return self._acknowledge(number)

    def _export_name(self, _number: int, data: bytes) -> list[bytes]:
        name = decode_name(data)
        if name is None:
            return self._break("EXPORT_NAME with a malformed name")
        if self._agreed.extended:  # which needs GO, by the specification
            return self._break("EXPORT_NAME after extended headers were negotiated")
        export = self._find(name)
        if isinstance(export, Refusal):  # this option has no reply for an error
            return self._break(export.text)
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
        export = self._find(name)
        if isinstance(export, Refusal):
            return self._refuse(number, *export)
        replies = self._acknowledge(
            number,
            [
                m.option_reply(number, c.REP_INFO, information)
                for information in describe(export, kinds)
            ],
        )
        if number == c.OPT_GO:
            self.export = export
            self._become(EXPORT_CHOSEN)
        return replies

    def _contexts(self, number: int, data: bytes) -> list[bytes]:
        """LIST_META_CONTEXT and SET_META_CONTEXT; the latter replaces even when it fails."""
        setting = number == c.OPT_SET_META_CONTEXT
        if setting:
            self._set_contexts("", ())
        if not self._agreed.structured:
            return self._refuse(number, c.REP_ERR_INVALID, "negotiate structured replies first")
        asked = parse_queries(data)
        if asked is None:
            return self._refuse(number, c.REP_ERR_INVALID, "malformed name or queries")
        if asked.count > c.CONTEXT_QUERIES_MAX:
            return self._refuse(
                number,
                c.REP_ERR_TOO_BIG,
                f"{asked.count} queries; {c.CONTEXT_QUERIES_MAX} is the maximum",
            )
        export = self._find(asked.export)
        if isinstance(export, Refusal):
            # ERR_TLS_REQD is not allowed here
            return self._refuse(number, c.REP_ERR_UNKNOWN, export.text)
        if setting:
            self._set_contexts(export.name, selected(asked.queries, export.bitmaps()))
            contexts = self._agreed.contexts
        else:  # whose numbers are reserved
            contexts = tuple((0, name) for name in listed(asked.queries, export.bitmaps()))
        self._options_left -= len(contexts) // c.CONTEXTS_AN_OPTION
        return self._acknowledge(number, [m.context_reply(number, *each) for each in contexts])

    def _set_contexts(self, export: str, contexts: tuple[tuple[int, str], ...]) -> None:
        agreed = self._agreed
        self._agreed = Negotiated(agreed.structured, agreed.extended, contexts)
        self._contexts_of = export

    def _agreed_for(self, export: Export) -> Negotiated:
        """Contexts are for the export that they were selected for."""
        if self._contexts_of == export.name:
            return self._agreed
        return Negotiated(self._agreed.structured, self._agreed.extended)

    def _find(self, name: str) -> Export | Refusal:
        export = self._exports.find(name)
        if export is None:
            return Refusal(c.REP_ERR_UNKNOWN, not_there(name))
        if export.tls_only and not self._secure:
            reply = c.REP_ERR_UNKNOWN if self._tls == "off" else c.REP_ERR_TLS_REQD
            return Refusal(reply, f"export {export.name} is available over TLS only")
        if export.refused:
            return Refusal(c.REP_ERR_UNKNOWN, export.refused)
        return replace(export, flags=export.flags | negotiated_flags(self._agreed_for(export)))

    _STEPS: ClassVar[dict[str, Callable[[Handshake], list[bytes] | None]]] = {
        CLIENT_FLAGS: _client_flags,
        HAGGLING: _option,
        SKIPPING: _skipped,
        LISTING: _list_piece,
    }
    _ANSWERS: ClassVar[dict[int, Callable[[Handshake, int, bytes], list[bytes]]]] = {
        c.OPT_EXPORT_NAME: _export_name,
        c.OPT_LIST: _list,
        c.OPT_STARTTLS: _starttls,
        c.OPT_INFO: _info,
        c.OPT_GO: _info,
        c.OPT_STRUCTURED_REPLY: _structured,
        c.OPT_LIST_META_CONTEXT: _contexts,
        c.OPT_SET_META_CONTEXT: _contexts,
        c.OPT_EXTENDED_HEADERS: _extended,
    }
