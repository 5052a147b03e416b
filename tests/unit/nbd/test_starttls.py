"""STARTTLS: who gets it, what it forgets, what is refused without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.exports import Export
from duplexd.nbd.handshake import CLOSED, HAGGLING, SECURING, TRANSMISSION, Handshake
from duplexd.nbd.negotiated import Negotiated
from tests.unit.nbd.wire import (
    ALL_OFFERS,
    FLAGS,
    OPTIONS_MAX,
    FakeExports,
    answered,
    haggle,
    outcomes,
)

if TYPE_CHECKING:
    from duplexd.nbd.offers import Tls

START = m.CLIENT_FLAGS.pack(3)
STARTTLS = m.option(c.OPT_STARTTLS)
GO = m.option(c.OPT_GO, m.go_data("data", []))
INFO = m.option(c.OPT_INFO, m.go_data("data", []))
TLS_REQD, ACK = c.REP_ERR_TLS_REQD, c.REP_ACK


def secure(*before: bytes, exports: FakeExports | None = None, tls: Tls = "required") -> Handshake:
    """A handshake whose TLS is up."""
    handshake = Handshake(
        exports or FakeExports(),
        OPTIONS_MAX,
        offers=ALL_OFFERS,
        tls=tls,
    )
    answered(handshake, START + b"".join(before) + STARTTLS)
    assert handshake.wants_tls
    handshake.secured()
    return handshake


@pytest.mark.parametrize("tls", ["optional", "required"])
def test_starttls_is_acknowledged_and_everything_waits_for_tls(tls: Tls) -> None:
    handshake = secure(tls=tls)
    assert handshake.state == HAGGLING
    assert not handshake.wants_tls
    assert outcomes(answered(handshake, GO))[-1] == (c.OPT_GO, ACK)
    assert handshake.state == TRANSMISSION


def test_nothing_is_answered_between_the_acknowledgement_and_tls() -> None:
    handshake, answer = haggle(START + STARTTLS, tls="optional")
    assert (handshake.state, outcomes(answer)) == (SECURING, [(c.OPT_STARTTLS, ACK)])
    assert handshake.advance() is None


def test_plain_text_in_the_same_segment_closes_without_an_acknowledgement() -> None:
    handshake, answer = haggle(START + STARTTLS + GO, tls="optional")
    assert (handshake.state, answer) == (CLOSED, b"")
    assert handshake.reason == "plain text after STARTTLS"


def test_plain_text_that_comes_before_tls_is_up_closes() -> None:
    handshake, _ = haggle(START + STARTTLS, tls="required")
    handshake.receive(b"I")
    handshake.secured()
    assert (handshake.state, handshake.reason) == (CLOSED, "plain text after STARTTLS")
    assert handshake.advance() is None


def test_what_was_negotiated_before_is_forgotten() -> None:
    select = m.option(c.OPT_SET_META_CONTEXT, m.context_data("data", ["base:allocation"]))
    before = m.option(c.OPT_EXTENDED_HEADERS), select
    handshake = secure(*before, tls="optional")
    answered(handshake, GO)
    assert handshake.negotiated == Negotiated()
    handshake = secure(*before, tls="optional")
    answered(handshake, m.option(c.OPT_STRUCTURED_REPLY) + GO)
    assert handshake.negotiated == Negotiated(structured=True)


@pytest.mark.parametrize("tls", ["optional", "required"])
def test_a_second_starttls_is_invalid(tls: Tls) -> None:
    handshake = secure(tls=tls)
    assert outcomes(answered(handshake, STARTTLS)) == [(c.OPT_STARTTLS, c.REP_ERR_INVALID)]
    assert handshake.state == HAGGLING


@pytest.mark.parametrize("tls", ["optional", "required"])
def test_starttls_with_data_is_invalid(tls: Tls) -> None:
    option = m.option(c.OPT_STARTTLS, b"x")
    handshake, answer = haggle(START + option, tls=tls)
    assert outcomes(answer) == [(c.OPT_STARTTLS, c.REP_ERR_INVALID)]
    assert not handshake.wants_tls


# --------------------------------------------------------------------------------- required


@pytest.mark.parametrize("length", [0, 1, c.OPTION_BYTES_MAX + 1])
@pytest.mark.parametrize("option", [*range(3, 5), *range(6, 14), 0xFFFFFFFF])
def test_without_tls_every_option_is_refused_with_its_data(option: int, length: int) -> None:
    data = START + m.option(option, bytes(length)) + m.option(c.OPT_ABORT)
    handshake, answer = haggle(data, tls="required", offers=ALL_OFFERS)
    assert outcomes(answer) == [(option, TLS_REQD), (c.OPT_ABORT, ACK)]
    assert handshake.state == CLOSED


def test_without_tls_export_name_closes() -> None:
    handshake, answer = haggle(START + m.option(c.OPT_EXPORT_NAME, b"data"), tls="required")
    assert (handshake.state, answer) == (CLOSED, b"")
    assert "TLS is required" in handshake.reason


@pytest.mark.parametrize("option", range(14))
def test_over_tls_no_option_asks_for_tls(option: int) -> None:
    answer = answered(secure(), m.option(option))
    if option == c.OPT_EXPORT_NAME:
        assert answer.startswith(m.EXPORT.pack(1 << 20, FLAGS))
    else:
        assert TLS_REQD not in {reply for _, reply in outcomes(answer)}


def test_a_client_without_fixed_newstyle_cannot_get_tls() -> None:
    handshake, _ = haggle(m.CLIENT_FLAGS.pack(0), tls="required")
    assert handshake.state == CLOSED
    assert "TLS is required" in handshake.reason
    handshake, answer = haggle(m.CLIENT_FLAGS.pack(0) + STARTTLS, tls="optional")
    assert outcomes(answer) == [(c.OPT_STARTTLS, c.REP_ERR_POLICY)]
    assert not handshake.wants_tls


# --------------------------------------------------------------------------- for some exports

TLS_ONLY = FakeExports(Export("data", 4096, FLAGS, tls_only=True), Export("wal", 4096, FLAGS))


@pytest.mark.parametrize("option", [GO, INFO])
def test_an_export_for_tls_asks_for_it(option: bytes) -> None:
    _, answer = haggle(START + option, tls="optional", exports=TLS_ONLY)
    assert [reply for _, reply in outcomes(answer)] == [TLS_REQD]
    handshake = secure(tls="optional", exports=TLS_ONLY)
    assert outcomes(answered(handshake, option))[-1][1] == ACK


def test_an_export_for_tls_closes_an_export_name() -> None:
    handshake, _ = haggle(
        START + m.option(c.OPT_EXPORT_NAME, b"data"), tls="optional", exports=TLS_ONLY
    )
    assert handshake.reason == "export data is available over TLS only"


def test_an_export_for_tls_is_unknown_to_other_options_and_where_there_is_no_tls() -> None:
    queries = m.option(c.OPT_LIST_META_CONTEXT, m.context_data("data", []))
    structured = m.option(c.OPT_STRUCTURED_REPLY)
    _, answer = haggle(
        START + structured + queries, tls="optional", exports=TLS_ONLY, offers=ALL_OFFERS
    )
    assert outcomes(answer)[-1] == (c.OPT_LIST_META_CONTEXT, c.REP_ERR_UNKNOWN)
    _, answer = haggle(START + GO, exports=TLS_ONLY)
    assert outcomes(answer) == [(c.OPT_GO, c.REP_ERR_UNKNOWN)]


def test_other_exports_need_no_tls() -> None:
    handshake, _ = haggle(
        START + m.option(c.OPT_GO, m.go_data("wal", [])), tls="optional", exports=TLS_ONLY
    )
    assert handshake.state == TRANSMISSION
