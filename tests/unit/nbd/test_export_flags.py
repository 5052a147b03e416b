"""Which transmission flags a client gets."""

from __future__ import annotations

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd.export_flags import export_flags
from duplexd.nbd.negotiated import Negotiated

CONTEXTS = ((1, c.CONTEXT_ALLOCATION),)
PLAIN, STRUCTURED = Negotiated(), Negotiated(structured=True, contexts=CONTEXTS)
EXTENDED = Negotiated(structured=True, extended=True, contexts=CONTEXTS)
CHANGES = c.FLAG_SEND_TRIM | c.FLAG_SEND_WRITE_ZEROES | c.FLAG_SEND_FAST_ZERO


@pytest.mark.parametrize("negotiated", [PLAIN, STRUCTURED, EXTENDED])
def test_a_read_only_export_offers_no_change(negotiated: Negotiated) -> None:
    flags = export_flags(read_only=True, negotiated=negotiated)
    assert flags & c.FLAG_READ_ONLY
    assert not flags & CHANGES


@pytest.mark.parametrize("negotiated", [PLAIN, STRUCTURED, EXTENDED])
def test_a_writable_export_offers_all_changes(negotiated: Negotiated) -> None:
    flags = export_flags(read_only=False, negotiated=negotiated)
    assert flags & (c.FLAG_READ_ONLY | CHANGES) == CHANGES


def test_fast_zero_is_offered_only_where_it_is_understood() -> None:
    flags = export_flags(read_only=False, negotiated=PLAIN, fast_zero=False)
    assert not flags & c.FLAG_SEND_FAST_ZERO


@pytest.mark.parametrize(
    ("negotiated", "offered"),
    [(PLAIN, 0), (STRUCTURED, c.FLAG_SEND_DF), (EXTENDED, c.FLAG_SEND_DF)],
)
def test_df_is_offered_only_with_structured_replies(negotiated: Negotiated, offered: int) -> None:
    flags = export_flags(read_only=False, negotiated=negotiated)
    assert flags & c.FLAG_SEND_DF == offered


@pytest.mark.parametrize(
    ("negotiated", "offered"),
    [
        (STRUCTURED, 0),
        (Negotiated(structured=True, extended=True), 0),
        (EXTENDED, c.FLAG_BLOCK_STATUS_PAYLOAD),
    ],
)
def test_the_payload_of_block_status_needs_extended_headers_and_a_context(
    negotiated: Negotiated, offered: int
) -> None:
    flags = export_flags(read_only=False, negotiated=negotiated)
    assert flags & c.FLAG_BLOCK_STATUS_PAYLOAD == offered
