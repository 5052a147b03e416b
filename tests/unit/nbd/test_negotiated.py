"""What a client can negotiate: structured replies, extended headers, metadata contexts."""

from __future__ import annotations

import itertools

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.handshake import CLOSED, HAGGLING, TRANSMISSION
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd.offers import Offers
from duplexd.nbd.option_data import parse_queries
from tests.unit.nbd.wire import ALL_OFFERS, FLAGS, haggle, outcomes, replies

ALLOCATION = "base:allocation"
SELECTED = ((1, ALLOCATION),)
START = m.CLIENT_FLAGS.pack(3)
STRUCTURED = m.option(c.OPT_STRUCTURED_REPLY)
EXTENDED = m.option(c.OPT_EXTENDED_HEADERS)
SELECT = m.option(c.OPT_SET_META_CONTEXT, m.context_data("data", [ALLOCATION]))
GO = m.option(c.OPT_GO, m.go_data("data", []))
LIST_OR_SET = [c.OPT_LIST_META_CONTEXT, c.OPT_SET_META_CONTEXT]


def negotiated(*options: bytes) -> Negotiated:
    """What transmission gets after these options and GO for data."""
    handshake, _ = haggle(START + b"".join(options) + GO, offers=ALL_OFFERS)
    assert handshake.state == TRANSMISSION
    return handshake.negotiated


def contexts(option: int, export: str, queries: list[str]) -> list[tuple[int, str]]:
    """The contexts that an option is answered with."""
    data = START + STRUCTURED + m.option(option, m.context_data(export, queries))
    _, answer = haggle(data, offers=ALL_OFFERS)
    _, *found, (_, last, _) = replies(answer)
    assert last == c.REP_ACK
    assert {reply for _, reply, _ in found} <= {c.REP_META_CONTEXT}
    return [(m.U32.unpack_from(data)[0], data[4:].decode()) for _, _, data in found]


def refused(option: int, data: bytes) -> int:
    """The error of an option behind STRUCTURED_REPLY."""
    handshake, answer = haggle(START + STRUCTURED + m.option(option, data), offers=ALL_OFFERS)
    assert handshake.state == HAGGLING
    return outcomes(answer)[-1][1]


# ----------------------------------------------------------------------- replies and headers


def test_nothing_is_negotiated_without_asking() -> None:
    assert negotiated() == Negotiated()


def test_structured_replies() -> None:
    assert negotiated(STRUCTURED) == Negotiated(structured=True)


def test_extended_headers_imply_structured_replies() -> None:
    assert negotiated(EXTENDED) == Negotiated(structured=True, extended=True)


@pytest.mark.parametrize("option", [c.OPT_STRUCTURED_REPLY, c.OPT_EXTENDED_HEADERS])
def test_asking_again_changes_nothing(option: int) -> None:
    _, answer = haggle(START + 2 * m.option(option), offers=ALL_OFFERS)
    assert outcomes(answer) == 2 * [(option, c.REP_ACK)]


def test_structured_replies_do_not_replace_extended_headers() -> None:
    handshake, answer = haggle(START + EXTENDED + STRUCTURED + GO, offers=ALL_OFFERS)
    assert outcomes(answer)[1] == (c.OPT_STRUCTURED_REPLY, c.REP_ERR_EXT_HEADER_REQD)
    assert handshake.negotiated.extended


def test_extended_headers_need_go() -> None:
    handshake, answer = haggle(
        START + EXTENDED + m.option(c.OPT_EXPORT_NAME, b"data"), offers=ALL_OFFERS
    )
    assert handshake.state == CLOSED
    assert outcomes(answer) == [(c.OPT_EXTENDED_HEADERS, c.REP_ACK)]


DF, PAYLOAD = c.FLAG_SEND_DF, c.FLAG_BLOCK_STATUS_PAYLOAD


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ([], 0),
        ([STRUCTURED], DF),
        ([EXTENDED], DF),
        ([STRUCTURED, SELECT], DF),
        ([EXTENDED, SELECT], DF | PAYLOAD),
    ],
)
@pytest.mark.parametrize("chosen", [c.OPT_INFO, c.OPT_GO])
def test_flags_are_announced_by_what_was_negotiated(
    options: list[bytes], more: int, chosen: int
) -> None:
    data = START + b"".join(options) + m.option(chosen, m.go_data("data", []))
    handshake, answer = haggle(data, offers=ALL_OFFERS)
    assert replies(answer)[-2][2] == m.info_export(1 << 20, FLAGS | more)
    if chosen == c.OPT_GO:
        assert handshake.export is not None
        assert handshake.export.flags == FLAGS | more


def test_export_name_announces_them_too() -> None:
    data = START + STRUCTURED + m.option(c.OPT_EXPORT_NAME, b"data")
    _, answer = haggle(data, offers=ALL_OFFERS)
    assert answer.endswith(m.EXPORT.pack(1 << 20, FLAGS | DF))


def test_export_name_keeps_structured_replies_and_contexts() -> None:
    data = START + STRUCTURED + SELECT + m.option(c.OPT_EXPORT_NAME, b"data")
    handshake, _ = haggle(data, offers=ALL_OFFERS)
    assert handshake.negotiated == Negotiated(structured=True, contexts=SELECTED)


@pytest.mark.parametrize(
    ("offers", "option"),
    [
        (Offers(extended=True, contexts=True), c.OPT_STRUCTURED_REPLY),
        (Offers(structured=True, contexts=True), c.OPT_EXTENDED_HEADERS),
        (Offers(structured=True, extended=True), c.OPT_SET_META_CONTEXT),
        (Offers(structured=True, extended=True), c.OPT_LIST_META_CONTEXT),
    ],
)
def test_each_has_an_offer_of_its_own(offers: Offers, option: int) -> None:
    _, answer = haggle(START + m.option(option), offers=offers)
    assert outcomes(answer) == [(option, c.REP_ERR_UNSUP)]


# --------------------------------------------------------------------------------- contexts


@pytest.mark.parametrize("queries", [[], ["base:"], [ALLOCATION], ["x", ALLOCATION, "base:"]])
def test_list_answers_names_namespaces_and_no_query_without_numbers(queries: list[str]) -> None:
    assert contexts(c.OPT_LIST_META_CONTEXT, "data", queries) == [(0, ALLOCATION)]


@pytest.mark.parametrize("option", LIST_OR_SET)
@pytest.mark.parametrize(
    "query", ["", "base", "base:alloc", "base:allocation2", "BASE:allocation", "qemu:", "nonsense"]
)
def test_unknown_queries_select_nothing(option: int, query: str) -> None:
    assert contexts(option, "data", [query]) == []


@pytest.mark.parametrize("queries", [[ALLOCATION], ["x:y", ALLOCATION, ALLOCATION]])
def test_set_selects_by_full_name_each_once(queries: list[str]) -> None:
    assert contexts(c.OPT_SET_META_CONTEXT, "data", queries) == [(1, ALLOCATION)]


@pytest.mark.parametrize("queries", [[], ["base:"]])
def test_set_selects_nothing_by_namespace_or_without_a_query(queries: list[str]) -> None:
    assert contexts(c.OPT_SET_META_CONTEXT, "data", queries) == []


@pytest.mark.parametrize("headers", [[STRUCTURED], [EXTENDED], [STRUCTURED, EXTENDED]])
def test_selected_contexts_reach_transmission(headers: list[bytes]) -> None:
    assert negotiated(*headers, SELECT).contexts == SELECTED


def test_extended_headers_keep_contexts_that_were_selected_before() -> None:
    assert negotiated(STRUCTURED, SELECT, EXTENDED) == Negotiated(
        structured=True, extended=True, contexts=SELECTED
    )


def test_listing_selects_nothing() -> None:
    listing = m.option(c.OPT_LIST_META_CONTEXT, m.context_data("data", [ALLOCATION]))
    assert negotiated(STRUCTURED, listing).contexts == ()
    assert negotiated(STRUCTURED, SELECT, listing).contexts == SELECTED


@pytest.mark.parametrize(
    "data",
    [
        m.context_data("data", []),
        m.context_data("data", ["x:y"]),
        m.context_data("nope", [ALLOCATION]),
        m.context_data("data", [ALLOCATION]) + b"x",
        m.context_data("data", ["x"] * (c.CONTEXT_QUERIES_MAX + 1)),
    ],
)
def test_another_set_replaces_the_first_even_when_it_fails(data: bytes) -> None:
    assert negotiated(STRUCTURED, SELECT, m.option(c.OPT_SET_META_CONTEXT, data)).contexts == ()


def test_contexts_of_another_export_are_not_those_of_this_one() -> None:
    other = m.option(c.OPT_SET_META_CONTEXT, m.context_data("wal", [ALLOCATION]))
    assert negotiated(STRUCTURED, other) == Negotiated(structured=True)
    assert negotiated(STRUCTURED, other, SELECT).contexts == SELECTED


def test_the_default_export_is_the_one_it_means() -> None:
    default = m.option(c.OPT_SET_META_CONTEXT, m.context_data("", [ALLOCATION]))
    assert negotiated(STRUCTURED, default).contexts == SELECTED


@pytest.mark.parametrize("option", LIST_OR_SET)
def test_contexts_need_structured_replies(option: int) -> None:
    data = m.context_data("data", [ALLOCATION])
    _, answer = haggle(START + m.option(option, data), offers=ALL_OFFERS)
    assert outcomes(answer) == [(option, c.REP_ERR_INVALID)]


@pytest.mark.parametrize("option", LIST_OR_SET)
def test_contexts_of_an_unknown_export(option: int) -> None:
    assert refused(option, m.context_data("nope", [])) == c.REP_ERR_UNKNOWN


@pytest.mark.parametrize("option", LIST_OR_SET)
def test_queries_are_bounded(option: int) -> None:
    most = ["base:x"] * c.CONTEXT_QUERIES_MAX
    assert refused(option, m.context_data("data", most)) == c.REP_ACK
    assert refused(option, m.context_data("data", [*most, "x"])) == c.REP_ERR_TOO_BIG


@pytest.mark.parametrize("option", LIST_OR_SET)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        m.U32.pack(4) + b"dat",
        m.U32.pack(4) + b"data",
        m.U32.pack(4) + b"data" + m.U32.pack(1),
        m.U32.pack(4) + b"data" + m.U32.pack(0xFFFF) + m.U32.pack(0),
        m.context_data("data", ["x"])[:-1],
        m.context_data("data", ["x"]) + b"x",
        m.context_data("data", []) + b"x",
        m.context_data("data", ["a\0b"]),
        m.context_data("data", ["x" * 4097]),
        m.context_data("da\0ta", []),
        m.U32.pack(2) + b"\xff\xfe" + m.U32.pack(0),
        m.U32.pack(0) + m.U32.pack(1) + m.U32.pack(2) + b"\xff\xfe",
        m.U32.pack(0xFFFFFFFF) + b"data" + m.U32.pack(0),
    ],
)
def test_malformed_queries_are_invalid(option: int, data: bytes) -> None:
    assert refused(option, data) in {c.REP_ERR_INVALID, c.REP_ERR_TOO_BIG}
    assert parse_queries(data) is None or parse_queries(data).count > c.CONTEXT_QUERIES_MAX  # type: ignore[union-attr]


def test_any_order_of_good_options_gives_the_same() -> None:
    for order in itertools.permutations([STRUCTURED, EXTENDED, m.option(c.OPT_LIST)]):
        assert negotiated(*order, SELECT) == Negotiated(True, True, SELECTED)
