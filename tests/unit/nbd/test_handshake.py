"""The server's handshake: every option, every way to get it wrong, every transition."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import handshake as h
from duplexd.nbd import messages as m
from duplexd.nbd.exports import Export, describe
from tests.unit.nbd.wire import (
    ALL_OFFERS,
    FLAGS,
    OPTIONS_MAX,
    FakeExports,
    answered,
    haggle,
    outcomes,
    replies,
)

FIXED, NO_ZEROES = c.FLAG_FIXED_NEWSTYLE, c.FLAG_NO_ZEROES
START = m.CLIENT_FLAGS.pack(FIXED | NO_ZEROES)
ABORT = m.option(c.OPT_ABORT)
ABORTED = m.option_reply(c.OPT_ABORT, c.REP_ACK)
STATES = {
    h.CLIENT_FLAGS, h.HAGGLING, h.SKIPPING, h.LISTING, h.SECURING, h.TRANSMISSION, h.CLOSED,
}  # fmt: skip
EVENTS = {
    h.FLAGS_TAKEN, h.ANSWERED, h.DECIDED, h.LIST_ASKED, h.TLS_AGREED, h.SECURED, h.EXPORT_CHOSEN,
    h.ABORTED, h.BROKEN,
}  # fmt: skip


def refused(option: int, data: bytes) -> int:
    """The error that an option gets; the next option must be understood after it."""
    handshake, answer = haggle(START + m.option(option, data) + ABORT)
    (first_option, error, _), (second_option, ack, _) = replies(answer)
    assert first_option == option
    assert (second_option, ack) == (c.OPT_ABORT, c.REP_ACK)
    assert handshake.state == h.CLOSED
    return error


def test_final_states_have_no_transitions() -> None:
    assert set(h.TRANSITIONS) <= set(itertools.product(STATES, EVENTS))
    for event in EVENTS:
        assert (h.CLOSED, event) not in h.TRANSITIONS
        assert (h.TRANSMISSION, event) not in h.TRANSITIONS


def test_every_transition_is_met() -> None:
    met = set()
    conversations = [
        m.CLIENT_FLAGS.pack(4),
        START + m.option(99) + m.option(c.OPT_LIST) + ABORT,
        START + m.option(c.OPT_STARTTLS),
        START + m.option(c.OPT_GO, m.go_data("data", [])),
        START + bytes(16),
    ]
    few = START + m.option(c.OPT_LIST)
    begun = [(OPTIONS_MAX, *each) for each in itertools.product(conversations, [b"", b"plain"])]
    for options_max, data, behind in [*begun, (2, few, b"")]:
        handshake = h.Handshake(FakeExports(), options_max, tls="optional")
        become = handshake._become

        def note(event: str, handshake: h.Handshake = handshake, become: object = become) -> None:
            met.add((handshake.state, event))
            become(event)  # type: ignore[operator]

        handshake._become = note  # type: ignore[method-assign]
        answered(handshake, data)
        if handshake.wants_tls:
            answered(handshake, behind)
            handshake.secured()
            answered(handshake, m.option(c.OPT_INFO, m.go_data("data", [])))
    assert met == set(h.TRANSITIONS)


def test_greeting_offers_fixed_newstyle_and_no_zeroes() -> None:
    assert h.Handshake(FakeExports(), 1).greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


@pytest.mark.parametrize("flags", [4, 1 << 31, 7])
def test_client_flag_that_was_not_offered_closes(flags: int) -> None:
    handshake, answer = haggle(m.CLIENT_FLAGS.pack(flags) + ABORT)
    assert (handshake.state, answer) == (h.CLOSED, b"")
    assert "not offered" in handshake.reason


def test_go_chooses_the_export_and_leaves_what_follows() -> None:
    request = m.request(0, c.CMD_READ, 1, 0, 512)
    handshake, answer = haggle(START + m.option(c.OPT_GO, m.go_data("wal", [])) + request)
    assert handshake.state == h.TRANSMISSION
    assert handshake.export == FakeExports().find("wal")
    assert handshake.rest() == request
    assert replies(answer) == [
        (c.OPT_GO, c.REP_INFO, m.info_export(4096, FLAGS)),
        (c.OPT_GO, c.REP_ACK, b""),
    ]


def test_go_has_no_zeroes_whatever_the_client_flags() -> None:
    _, answer = haggle(m.CLIENT_FLAGS.pack(FIXED) + m.option(c.OPT_GO, m.go_data("wal", [])))
    assert answer.endswith(m.option_reply(c.OPT_GO, c.REP_ACK))


def test_information_is_given_when_asked_once_each() -> None:
    kinds = [c.INFO_BLOCK_SIZE, c.INFO_NAME, c.INFO_DESCRIPTION, c.INFO_NAME, 77]
    _, answer = haggle(START + m.option(c.OPT_INFO, m.go_data("", kinds)))
    assert [data for _, reply, data in replies(answer) if reply == c.REP_INFO] == [
        m.info_export(1 << 20, FLAGS),
        m.info_block_size(1, 4096, 32 << 20),
        m.info_text(c.INFO_NAME, b"data"),
        m.info_text(c.INFO_DESCRIPTION, b"the data"),
    ]


def test_info_stays_in_haggling() -> None:
    handshake, _ = haggle(START + m.option(c.OPT_INFO, m.go_data("data", [])))
    assert handshake.state == h.HAGGLING
    assert handshake.export is None


def test_export_without_description_has_none() -> None:
    assert describe(Export("wal", 4096, FLAGS), {c.INFO_DESCRIPTION}) == [
        m.info_export(4096, FLAGS)
    ]


def test_failed_go_stays_in_haggling_and_the_next_may_succeed() -> None:
    handshake, answer = haggle(
        START
        + m.option(c.OPT_GO, m.go_data("nope", []))
        + m.option(c.OPT_GO, m.go_data("data", []))
    )
    assert replies(answer)[0][1] == c.REP_ERR_UNKNOWN
    assert handshake.state == h.TRANSMISSION


@pytest.mark.parametrize("option", [c.OPT_GO, c.OPT_INFO])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        m.go_data("data", [])[:-1],
        m.go_data("data", []) + b"x",
        m.go_data("data", [1, 2])[:-1],
        m.U32.pack(5) + b"data" + m.U16.pack(0),
        m.U32.pack(0xFFFFFFFF) + b"data" + m.U16.pack(0),
        m.U32.pack(4) + b"data" + m.U16.pack(0xFFFF),
        m.U32.pack(2) + b"\xff\xfe" + m.U16.pack(0),
        m.go_data("da\0ta", []),
        m.go_data("x" * 4097, []),
    ],
)
def test_malformed_go_is_invalid_and_in_step(option: int, data: bytes) -> None:
    assert refused(option, data) == c.REP_ERR_INVALID


def test_name_of_4096_bytes_is_only_unknown() -> None:
    assert refused(c.OPT_GO, m.go_data("x" * 4096, [])) == c.REP_ERR_UNKNOWN


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (c.OPT_STARTTLS, c.REP_ERR_POLICY),
        (c.OPT_STRUCTURED_REPLY, c.REP_ERR_UNSUP),
        (c.OPT_EXTENDED_HEADERS, c.REP_ERR_UNSUP),
    ],
)
def test_options_without_an_offer_are_refused_and_take_no_data(option: int, error: int) -> None:
    assert refused(option, b"") == error
    assert refused(option, b"x") == c.REP_ERR_INVALID


@pytest.mark.parametrize(
    "option", [0, 4, 12, 0xFFFFFFFF, c.OPT_LIST_META_CONTEXT, c.OPT_SET_META_CONTEXT]
)
@pytest.mark.parametrize("data", [b"", b"x" * 1000])
def test_unknown_options_are_unsupported_and_their_data_is_consumed(
    option: int, data: bytes
) -> None:
    assert refused(option, data) == c.REP_ERR_UNSUP


def test_list_shows_every_export_with_its_description() -> None:
    _, answer = haggle(START + m.option(c.OPT_LIST))
    assert answer == (
        m.list_entry("data", "the data")
        + m.list_entry("wal")
        + m.option_reply(c.OPT_LIST, c.REP_ACK)
    )


def many(count: int) -> FakeExports:
    return FakeExports(*(Export(f"v{number}", 4096, FLAGS) for number in range(count)))


def test_list_comes_in_pieces_and_the_next_option_waits() -> None:
    handshake = h.Handshake(many(h.LIST_PIECE + 1), 10_000)
    handshake.receive(START + 2 * m.option(c.OPT_LIST))
    sizes = []
    while (messages := handshake.advance()) is not None:
        sizes.append(len(messages))
    assert sizes == [0, *(2 * [0, h.LIST_PIECE, 1, 1])]


def test_list_leaves_out_what_was_taken_away_meanwhile() -> None:
    exports = FakeExports()
    handshake = h.Handshake(exports, OPTIONS_MAX)
    handshake.receive(START + m.option(c.OPT_LIST))
    while handshake.state != h.LISTING:
        handshake.advance()
    del exports.exports["data"]
    assert answered(handshake, b"") == (m.list_entry("wal") + m.option_reply(c.OPT_LIST, c.REP_ACK))


def test_list_of_nothing_is_acknowledged() -> None:
    exports = FakeExports()
    exports.exports.clear()
    _, answer = haggle(START + m.option(c.OPT_LIST), exports=exports)
    assert outcomes(answer) == [(c.OPT_LIST, c.REP_ACK)]


def test_entries_of_a_list_count_as_options() -> None:
    options = START + 2 * m.option(c.OPT_LIST)
    handshake, _ = haggle(options, options_max=102, exports=many(50))
    assert handshake.state == h.HAGGLING
    handshake, answer = haggle(options, options_max=101, exports=many(50))
    assert (handshake.state, handshake.reason) == (h.CLOSED, "too many options")
    assert len(replies(answer)) == 51 + 48, "whole pieces"


class WithHidden(FakeExports):
    def names(self) -> list[str]:
        return [*(f"hidden{number}" for number in range(100)), *super().names()]


def test_of_hidden_exports_not_even_the_number_shows() -> None:
    options = START + m.option(c.OPT_LIST)
    handshake, answer = haggle(options, options_max=3, exports=WithHidden())
    assert handshake.state == h.HAGGLING
    assert answer == haggle(options, options_max=3)[1]


def test_list_with_data_is_invalid() -> None:
    assert refused(c.OPT_LIST, b"x") == c.REP_ERR_INVALID


@pytest.mark.parametrize("length", [0, 1, c.OPTION_BYTES_MAX + 1])
def test_abort_is_acknowledged_and_its_data_ignored(length: int) -> None:
    handshake, answer = haggle(START + m.option(c.OPT_ABORT, bytes(length)))
    assert (handshake.state, answer) == (h.CLOSED, ABORTED)
    assert handshake.reason == "aborted by the client"


@pytest.mark.parametrize(
    ("flags", "zeroes"), [(FIXED | NO_ZEROES, 0), (NO_ZEROES, 0), (FIXED, 124), (0, 124)]
)
def test_export_name_is_padded_unless_no_zeroes_was_agreed(flags: int, zeroes: int) -> None:
    handshake, answer = haggle(m.CLIENT_FLAGS.pack(flags) + m.option(c.OPT_EXPORT_NAME, b"wal"))
    assert handshake.state == h.TRANSMISSION
    assert answer == m.EXPORT.pack(4096, FLAGS) + bytes(zeroes)


def test_empty_export_name_is_the_default() -> None:
    handshake, _ = haggle(START + m.option(c.OPT_EXPORT_NAME))
    assert handshake.export == FakeExports().find("data")


def test_where_no_export_is_the_default_the_client_learns_what_to_do() -> None:
    exports = FakeExports()
    exports.default = ""
    option = m.option(c.OPT_GO, m.go_data("", []))
    handshake, answer = haggle(START + option, exports=exports)
    ((_, error, text),) = replies(answer)
    assert (handshake.state, error) == (h.HAGGLING, c.REP_ERR_UNKNOWN)
    assert text.startswith(b"no export is the default one; ask for one by its name")


def test_refused_export_says_why() -> None:
    exports = FakeExports(Export("data", 4096, FLAGS, refused="volume data is not served: broken"))
    _, answer = haggle(START + m.option(c.OPT_INFO, m.go_data("data", [])), exports=exports)
    assert replies(answer) == [
        (c.OPT_INFO, c.REP_ERR_UNKNOWN, b"volume data is not served: broken")
    ]
    handshake, answer = haggle(START + m.option(c.OPT_EXPORT_NAME, b"data"), exports=exports)
    assert (handshake.state, answer) == (h.CLOSED, b"")
    assert handshake.reason == "volume data is not served: broken"


@pytest.mark.parametrize("name", [b"nope", b"\xff", b"da\0ta", b"x" * 4097])
def test_export_name_that_is_not_there_closes(name: bytes) -> None:
    handshake, answer = haggle(START + m.option(c.OPT_EXPORT_NAME, name))
    assert (handshake.state, answer) == (h.CLOSED, b"")


@pytest.mark.parametrize("option", [99, c.OPT_GO, c.OPT_LIST, c.OPT_ABORT])
def test_absurd_length_closes_before_its_data_arrives(option: int) -> None:
    handshake, answer = haggle(
        START + m.OPTION.pack(c.OPTION_MAGIC, option, c.OPTION_SKIPPED_BYTES_MAX + 1)
    )
    assert (handshake.state, answer) == (h.CLOSED, b"")
    assert "too long" in handshake.reason


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (99, c.REP_ERR_UNSUP),
        (c.OPT_GO, c.REP_ERR_TOO_BIG),
        (c.OPT_INFO, c.REP_ERR_TOO_BIG),
        (c.OPT_SET_META_CONTEXT, c.REP_ERR_TOO_BIG),
        (c.OPT_LIST_META_CONTEXT, c.REP_ERR_TOO_BIG),
        (c.OPT_LIST, c.REP_ERR_INVALID),
        (c.OPT_STARTTLS, c.REP_ERR_INVALID),
        (c.OPT_STRUCTURED_REPLY, c.REP_ERR_INVALID),
        (c.OPT_EXTENDED_HEADERS, c.REP_ERR_INVALID),
    ],
)
def test_option_over_64_kib_is_skipped_and_refused(option: int, error: int) -> None:
    data = m.option(option, bytes(c.OPTION_BYTES_MAX + 1)) + ABORT
    _, answer = haggle(START + data, [7000] * 9, offers=ALL_OFFERS)
    assert outcomes(answer) == [(option, error), (c.OPT_ABORT, c.REP_ACK)]


def test_no_data_is_kept_of_an_option_that_is_refused_anyway() -> None:
    handshake, answer = haggle(START + m.OPTION.pack(c.OPTION_MAGIC, 99, 32 << 20))
    for _ in range(31):
        handshake.receive(bytes(1 << 20))
        assert handshake.advance() is None
        assert not handshake.rest()
    assert not answer, "refused before its data is here: the client may be sending still"
    assert outcomes(answered(handshake, bytes(1 << 20))) == [(99, c.REP_ERR_UNSUP)]


def test_export_name_over_64_kib_closes_before_its_data_arrives() -> None:
    handshake, answer = haggle(START + m.OPTION.pack(c.OPTION_MAGIC, c.OPT_EXPORT_NAME, 65_537))
    assert (handshake.state, answer) == (h.CLOSED, b"")


def test_longest_option_is_answered_by_what_it_says() -> None:
    assert refused(c.OPT_GO, bytes(c.OPTION_BYTES_MAX)) == c.REP_ERR_INVALID


def test_bad_option_magic_closes() -> None:
    handshake, _ = haggle(START + m.OPTION.pack(c.OPTION_MAGIC + 1, c.OPT_LIST, 0))
    assert handshake.state == h.CLOSED


def test_too_many_options_close() -> None:
    handshake, answer = haggle(START + 4 * m.option(99), options_max=3)
    assert handshake.state == h.CLOSED
    assert len(replies(answer)) == 3
    assert "too many" in handshake.reason


def test_error_texts_are_short() -> None:
    _, answer = haggle(START + m.option(c.OPT_GO, m.go_data("ä" * 2000, [])))
    assert len(replies(answer)[0][2]) <= c.REPLY_TEXT_BYTES_MAX


OPTIONS = st.one_of(
    st.just(m.option(c.OPT_LIST)),
    st.just(m.option(c.OPT_INFO, m.go_data("data", [3]))),
    st.just(m.option(c.OPT_GO, m.go_data("nope", []))),
    st.just(m.option(c.OPT_STRUCTURED_REPLY)),
    st.just(m.option(c.OPT_EXTENDED_HEADERS)),
    st.just(m.option(c.OPT_SET_META_CONTEXT, m.context_data("data", ["base:allocation"]))),
    st.just(m.option(98, bytes(65_600))),
    st.builds(m.option, st.integers(0, 12), st.binary(max_size=40)),
)


@given(
    st.lists(OPTIONS, max_size=6), st.lists(st.integers(1, 30), max_size=60), st.binary(max_size=50)
)
def test_fragments_change_nothing(options: list[bytes], sizes: list[int], after: bytes) -> None:
    data = START + b"".join(options) + m.option(c.OPT_GO, m.go_data("data", [])) + after
    whole, whole_answer = haggle(data, offers=ALL_OFFERS)
    cut, cut_answer = haggle(data, sizes, offers=ALL_OFFERS)
    assert (cut.state, cut.export, cut_answer, cut.reason) == (
        whole.state,
        whole.export,
        whole_answer,
        whole.reason,
    )
    if whole.state == h.TRANSMISSION:
        assert (cut.rest(), cut.negotiated) == (whole.rest(), whole.negotiated)
