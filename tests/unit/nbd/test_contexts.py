"""Which metadata contexts a client's queries mean: of holes, and of what changed since earlier."""

from __future__ import annotations

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.contexts import bitmap_of, listed, selected
from duplexd.nbd.exports import Export
from duplexd.nbd.handshake import CLOSED, HAGGLING, TRANSMISSION
from tests.unit.nbd.wire import ALL_OFFERS, FLAGS, FakeExports, haggle, outcomes, replies

ALLOCATION = c.CONTEXT_ALLOCATION
MONDAY, TUESDAY = "qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"
UNCHANGED = "x-duplexd:unchanged:"
NEWEST_FIRST = {"c2": "c2", "tuesday": "c2", "c1": "c1", "monday": "c1"}
C1, C2 = "qemu:dirty-bitmap:c1", "qemu:dirty-bitmap:c2"
MANY = {f"cut{number}": f"cut{number}" for number in range(2000)}
STRUCTURED = m.option(c.OPT_STRUCTURED_REPLY)
EXPORTS = FakeExports(
    Export("data", 1 << 20, FLAGS),
    Export("data@now", 1 << 20, FLAGS, bitmaps=lambda: NEWEST_FIRST),
    Export("data@full", 1 << 20, FLAGS, bitmaps=lambda: MANY),
)


def asked(number: int, export: str, *queries: str) -> list[tuple[int, str]]:
    """The contexts that an option is answered with."""
    option = m.option(number, m.context_data(export, list(queries)))
    _, answer = haggle(
        m.CLIENT_FLAGS.pack(3) + STRUCTURED + option, offers=ALL_OFFERS, exports=EXPORTS
    )
    _, *found, (_, last, _) = replies(answer)
    assert last == c.REP_ACK
    return [(m.U32.unpack_from(data)[0], data[4:].decode()) for _, _, data in found]


@pytest.mark.parametrize(
    ("context", "bitmap"),
    [
        (ALLOCATION, None),
        (MONDAY, "monday"),
        ("qemu:dirty-bitmap:", ""),
        ("qemu:dirty-bitmap:a:b", "a:b"),
        (UNCHANGED + "a:b", "a:b"),
        ("x-duplexd:monday", None),
        ("qemu:allocation-depth", None),
    ],
)
def test_a_context_names_a_bitmap_or_none(context: str, bitmap: str | None) -> None:
    assert bitmap_of(context) == bitmap


@pytest.mark.parametrize(
    ("queries", "names"),
    [
        ([], [ALLOCATION, C2, C1]),
        (["base:"], [ALLOCATION]),
        (["qemu:"], [C2, C1]),
        (["qemu:dirty-bitmap:"], [C2, C1]),
        ([MONDAY], [MONDAY]),
        (["x-duplexd:", UNCHANGED], []),
        ([UNCHANGED + "monday"], [UNCHANGED + "monday"]),
        (["qemu:dirty-bitmap:", MONDAY, ALLOCATION], [ALLOCATION, C2, C1, MONDAY]),
        (["qemu", "qemu:dirty-bitmap", "qemu:dirty-bitmap:mon", "monday", "qemu:monday"], []),
    ],
)
def test_what_is_listed(queries: list[str], names: list[str]) -> None:
    assert asked(c.OPT_LIST_META_CONTEXT, "data@now", *queries) == [(0, name) for name in names]


@pytest.mark.parametrize(
    ("queries", "chosen"),
    [
        ([], []),
        (["qemu:", "qemu:dirty-bitmap:", "base:"], []),
        ([MONDAY], [(2, MONDAY)]),
        ([MONDAY, ALLOCATION, C1, TUESDAY], [(1, ALLOCATION), (2, MONDAY), (3, C1), (4, TUESDAY)]),
        ([MONDAY, MONDAY, "qemu:dirty-bitmap:sunday"], [(2, MONDAY)]),
        ([UNCHANGED + "c1", UNCHANGED + "c3", C1], [(2, UNCHANGED + "c1"), (3, C1)]),
    ],
)
def test_what_is_selected(queries: list[str], chosen: list[tuple[int, str]]) -> None:
    assert asked(c.OPT_SET_META_CONTEXT, "data@now", *queries) == chosen


@pytest.mark.parametrize("number", [c.OPT_LIST_META_CONTEXT, c.OPT_SET_META_CONTEXT])
def test_an_export_without_bitmaps_has_none(number: int) -> None:
    assert asked(number, "data", "qemu:", MONDAY) == []


def test_what_was_selected_reaches_transmission() -> None:
    data = m.context_data("data@now", [ALLOCATION, MONDAY])
    go = m.option(c.OPT_GO, m.go_data("data@now", []))
    handshake, _ = haggle(
        m.CLIENT_FLAGS.pack(3) + STRUCTURED + m.option(c.OPT_SET_META_CONTEXT, data) + go,
        offers=ALL_OFFERS, exports=EXPORTS,
    )  # fmt: skip
    assert handshake.state == TRANSMISSION
    assert handshake.negotiated.contexts == ((1, ALLOCATION), (2, MONDAY))


# ---------------------------------------------------------------------------------------- bounds


def test_of_many_bitmaps_the_newest_are_listed_and_any_by_its_name() -> None:
    every = listed([], MANY)
    assert len(every) == 1 + c.BITMAPS_LISTED_MAX
    assert every[1] == "qemu:dirty-bitmap:cut0"
    old = "qemu:dirty-bitmap:cut1999"
    assert old not in every
    assert listed([old], MANY) == (old,)
    assert selected([old], MANY) == ((2, old),)


def test_so_many_can_be_selected_and_no_more() -> None:
    names = [f"qemu:dirty-bitmap:cut{number}" for number in range(1000)]
    chosen = asked(c.OPT_SET_META_CONTEXT, "data@full", *names, ALLOCATION)
    assert [name for _, name in chosen] == [ALLOCATION, *names[: c.BITMAPS_SELECTED_MAX]]


def test_contexts_use_up_what_a_handshake_may_ask() -> None:
    """65 contexts count as eight options, and the question as one: the eleventh is too much."""
    question = m.option(c.OPT_LIST_META_CONTEXT, m.context_data("data@full", []))
    begin = m.CLIENT_FLAGS.pack(3) + STRUCTURED
    handshake, answer = haggle(begin + 11 * question, offers=ALL_OFFERS, exports=EXPORTS)
    assert handshake.state == HAGGLING
    assert len(outcomes(answer)) == 1 + 11 * 66
    handshake, _ = haggle(begin + 12 * question, offers=ALL_OFFERS, exports=EXPORTS)
    assert (handshake.state, handshake.reason) == (CLOSED, "too many options")
