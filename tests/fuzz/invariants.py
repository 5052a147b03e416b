"""What must hold for any bytes on the pure halves of NBD, in any pieces. One text for the search by
coverage (`guided.py`) and for hypothesis (`test_any_bytes.py`), which differ in how they choose
bytes.

Nothing may be raised but what is documented. The pieces must not matter: the same bytes at once and
cut give the same replies, requests and ends. And nothing may be kept or made that a client has not
paid for by bytes: that is asserted where it can be seen here, and the rest is the memory of the
process, which `guided.py` limits.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, RefusedError
from duplexd.nbd.exports import Export
from duplexd.nbd.extended import ExtendedReceiver, context_ids
from duplexd.nbd.handshake import CLOSED, SECURING, SKIPPING, TRANSMISSION, Handshake
from duplexd.nbd.messages import ProtocolError
from duplexd.nbd.transmission import (
    CMD_LONG_WRITE,
    CMD_PIECE,
    RECEIVE_BYTES_MIN,
    Receiver,
    refusal,
)
from tests.unit.nbd.wire import ALL_OFFERS, FLAGS, OPTIONS_MAX, FakeExports, pieces, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.nbd.offers import Tls
    from duplexd.nbd.transmission import Request
    from duplexd.nbd.uri import NbdUri

WIRE_ERRORS = {0, c.EPERM, c.EIO, c.ENOMEM, c.EINVAL, c.ENOSPC, c.EOVERFLOW, c.ENOTSUP, c.ESHUTDOWN}
EXPORT_BYTES = 1 << 20
LONG_PIECE_BYTES = 1000  # of a long payload: it comes in pieces, as where memory is short
ANSWER_BYTES_MAX = 1 << 20  # of a whole handshake of OPTIONS_MAX options
BITMAPS = {f"c{number}": f"c{number}" for number in range(80)} | {"größe": "c7"}
TLS_MODES: tuple[Tls, ...] = ("off", "optional", "required")
EXPORTS = FakeExports(
    Export("data", EXPORT_BYTES, FLAGS, "the data"),
    Export("secret", 4096, FLAGS, tls_only=True),
    Export("gone", 4096, FLAGS, refused="volume gone is not served"),
    Export("ä", 4096, FLAGS | c.FLAG_READ_ONLY),
    Export("data@cut", 4096, FLAGS | c.FLAG_READ_ONLY, bitmaps=lambda: BITMAPS),
)


class Ended(NamedTuple):
    """How a handshake ended, or where it is."""

    state: str
    reason: str
    export: str
    negotiated: object
    rest: bytes
    answer: bytes


def handshake(data: bytes, sizes: Iterable[int], tls: Tls, secret: bytes | None = None) -> Ended:
    """A handshake; `secret` comes through TLS, once it is up."""
    shake = Handshake(EXPORTS, OPTIONS_MAX, offers=ALL_OFFERS, tls=tls)
    answer = b"".join(_advance(shake, piece) for piece in pieces(data, sizes))
    if shake.wants_tls and secret is not None:
        shake.secured()
        answer += b"".join(_advance(shake, piece) for piece in pieces(secret, sizes))
    _agrees(shake, tls)
    assert len(answer) <= ANSWER_BYTES_MAX
    export = shake.export
    return Ended(
        shake.state, shake.reason, export.name if export else "",
        shake.negotiated if export else None, shake.rest() if export else b"", answer,
    )  # fmt: skip


def _advance(shake: Handshake, piece: bytes) -> bytes:
    shake.receive(piece)
    answer = b""
    while (messages := shake.advance()) is not None:
        answer += b"".join(messages)
    return answer


def _agrees(shake: Handshake, tls: Tls) -> None:
    """State, reason, export and what was negotiated say the same."""
    assert bool(shake.reason) == (shake.state == CLOSED)
    assert (shake.export is not None) == (shake.state == TRANSMISSION)
    assert shake.wants_tls == (shake.state == SECURING)
    assert tls != "off" or not shake.wants_tls
    if shake.state == SKIPPING:
        assert not shake.rest(), "data that nobody looks at is kept"
    if shake.export is not None:
        agreed = shake.negotiated
        assert agreed.structured or not (agreed.extended or agreed.contexts)
        assert len(dict(agreed.contexts)) == len(agreed.contexts) <= 1 + c.BITMAPS_SELECTED_MAX
        assert not shake.export.refused


def any_pieces_negotiate_the_same(
    data: bytes, sizes: Sequence[int], tls: Tls, secret: bytes
) -> None:
    whole, cut = handshake(data, (), tls, secret), handshake(data, sizes, tls, secret)
    if "plain text after STARTTLS" in {whole.reason, cut.reason}:
        # The same end; the ACK has gone out if the plain text came behind it.
        assert (cut.state, cut.reason) == (whole.state, whole.reason)
        assert cut.answer.startswith(whole.answer)
    else:
        assert cut == whole


def any_pieces_request_the_same(
    data: bytes, sizes: Sequence[int], receiving: type[Receiver], flags: int
) -> None:
    """Requests, and whether the stream broke or ended; wherever long payloads are cut, too."""
    whole, cut = receiving(2 * len(data) + RECEIVE_BYTES_MIN), receiving(0, _little_room)
    expected = put(whole, data)
    found = [request for piece in pieces(data, sizes) for request in put(cut, piece)]
    assert joined(found) == expected
    assert (cut.broken, cut.ended) == (whole.broken, whole.ended)
    for request in expected:
        _can_be_answered(request, flags, extended=receiving is ExtendedReceiver)
    if not whole.broken:
        assert sum(len(request[-1] or b"") for request in expected) <= len(data)
    assert len(cut.buffer()) > 0


def _little_room(length: int, here: int) -> bytearray:
    """Memory for a part of a payload."""
    return bytearray(min(length, here + LONG_PIECE_BYTES))


def joined(requests: list[Request]) -> list[Request]:
    """WRITEs that came in pieces as what they are: one request each, without a hole. One whose end
    has not come is left out, as any request is.
    """
    whole: list[Request] = []
    begun, filled = None, bytearray()
    for request in requests:
        flags, command, cookie, offset, length, payload = request
        assert (command == CMD_PIECE) == (begun is not None)
        if command == CMD_LONG_WRITE:
            begun, filled = request, bytearray()
        elif begun is not None:
            assert (flags, cookie, offset) == (begun[0], begun[2], begun[3] + len(filled))
            assert payload is not None
            assert len(payload) == length
            filled += payload
            if len(filled) == begun[4]:
                whole.append((flags, c.CMD_WRITE, cookie, begun[3], begun[4], filled))
                begun = None
        else:
            whole.append(request)
    return whole


def _can_be_answered(request: Request, export_flags: int, *, extended: bool) -> None:
    """It has an error of the protocol, or all that serving it needs."""
    flags, command, _cookie, offset, length, payload = request
    if command == c.CMD_DISC:
        return
    error = refusal(flags, command, offset, length, EXPORT_BYTES, export_flags)
    assert error in WIRE_ERRORS
    if command == c.CMD_WRITE:
        assert payload is None or len(payload) == length
        assert payload is not None or error
    elif command == c.CMD_BLOCK_STATUS and payload is not None:
        assert extended
        assert all(0 <= number < 1 << 32 for number in context_ids(payload))
    else:
        assert payload is None
    if not error and command != c.CMD_FLUSH:
        assert offset + length <= EXPORT_BYTES


def any_text_is_an_address_or_refused(text: str, parse: Callable[[str], NbdUri]) -> None:
    """What is taken is written again as an address that means the same."""
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


def any_pieces_answer_a_client_the_same(data: bytes, sizes: Sequence[int]) -> None:
    """Our client, with any server."""
    assert _client(data, sizes) == _client(data, ())


def _client(data: bytes, sizes: Sequence[int]) -> tuple[object, ...]:
    """All that can be seen of a client that got `data`."""
    client, replies = NbdClient("data"), []
    sent, error = b"", ""
    try:
        for piece in pieces(data, sizes):
            was_ready = client.ready
            replies += client.receive(piece)
            sent += client.data_to_send()
            if client.ready and not was_ready:
                with contextlib.suppress(ValueError, OSError):
                    client.read(0, 100)
                sent += client.data_to_send()
    except (ProtocolError, RefusedError) as why:
        error = str(why)
        sent += client.data_to_send()
    if client.ready or replies:  # when the READ was sent depends on the pieces
        return (client.size, client.flags, client.block_sizes)
    return (client.size, client.flags, client.block_sizes, client.ready, sent, error)


def greeted(*options: bytes) -> bytes:
    """Client flags, and options."""
    return m.CLIENT_FLAGS.pack(3) + b"".join(options)
