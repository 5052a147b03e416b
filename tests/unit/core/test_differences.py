"""Where legs are known to differ: how runs are joined, what the record refuses, what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.core import leg_differences, scrub_state
from duplexd.core.cut_states import CONSISTENT, READY, VOID
from duplexd.core.leg_differences import joined
from duplexd.core.markers import (
    JOURNAL,
    MAP,
    Abandon,
    Agreed,
    Attach,
    Copied,
    Copy,
    Detach,
    Differ,
    Equal,
    Fail,
    MakeCut,
    Ready,
    Resync,
    Same,
    Scrubbed,
    Stood,
)
from duplexd.core.pair_states import FIRST_COPY, RESYNCING, UNCLEAN_STOP
from duplexd.core.scrub_state import Scrub
from duplexd.errors import WrongStateError
from tests.unit.core.ledgers import GRAIN, SIZE, Story, changed, served, through_a_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN = (2 * GRAIN + 4096, 4096)
FAR = (9 * GRAIN, 8192)


def duplex(*names: str) -> Story:
    story = Story(*names)
    story.mark(Attach(sorted(story.ledger.pairs)))
    return story


def differing() -> Story:
    story = duplex()
    story.mark(Differ(1, [RUN]))
    return story


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], ()),
        ([(8, 4), (0, 4)], ((0, 4), (8, 4))),
        ([(0, 4), (4, 4)], ((0, 8),)),
        ([(0, 8), (2, 2)], ((0, 8),)),
        ([(0, 8), (4, 8)], ((0, 12),)),
        ([(0, 1), (2, 1), (4, 1)], ((0, 1), (2, 1), (4, 1))),
        ([(0, 1), (2, 1), (4, 1), (6, 1)], ((0, 7),)),
    ],
    ids=["none", "in order", "that touch", "one in another", "that overlap", "three", "too many"],
)
def test_runs_are_joined(
    runs: list[tuple[int, int]], expected: tuple[tuple[int, int], ...]
) -> None:
    assert joined(runs, 3) == expected


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 4096, False), (4095, 2, True), (8191, 1, True), (8192, 9, False)],
)
def test_a_range_overlaps_or_not(offset: int, length: int, expected: bool) -> None:
    assert leg_differences.found(None, [(4096, 4096)], 1, 1).overlaps(offset, length) is expected


def test_a_difference_keeps_the_number_and_time_at_which_it_was_found_first() -> None:
    story = duplex()
    first = story.mark(Differ(1, [RUN]))
    story.mark(Differ(1, [RUN, FAR]))
    record = story.pair().differs
    assert record is not None
    assert (record.runs, record.sequence, record.time_us) == ((RUN, FAR), first, first * 1000)


def test_it_survives_a_checkpoint() -> None:
    story = differing()
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].differs == story.pair().differs is not None


def test_what_a_scrub_could_not_read_survives_a_checkpoint() -> None:
    story = Story()
    story.mark(Scrubbed(1, 0, 0, 5, "cannot be read"))
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].scrub == Scrub(0, 0, 5, "cannot be read")


def test_what_the_pass_before_could_not_read_survives_a_checkpoint() -> None:
    story = Story()
    story.mark(Scrubbed(1, 4096, 7, 5, "", "cannot be read"))
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].scrub == Scrub(4096, 7, 5, "", "cannot be read")
    assert again.pairs[1].scrub.unreadable == "cannot be read"


def test_since_when_scrubs_are_wanted_survives_a_checkpoint() -> None:
    story = Story()
    story.ledger.scrub_us = 77
    assert through_a_checkpoint(story.ledger, story.sequence).scrub_us == 77


def test_how_far_a_scrub_is_survives_a_checkpoint() -> None:
    story = duplex()
    story.mark(Scrubbed(1, 4096, 7, 5))
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].scrub == Scrub(4096, 7, 5)


def test_a_cut_of_a_pair_that_differs_is_refused_with_what_to_do() -> None:
    story = duplex("data", "wal")
    story.mark(Differ(2, [RUN]))
    with pytest.raises(WrongStateError, match=r"wal: the legs differ in 1 .*repair wal --from"):
        story.ledger.check(MakeCut("c1", "", [1, 2]))
    story.ledger.check(MakeCut("c1", "", [1]))


def test_the_cut_that_it_is_found_at_is_void() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Stood("c1"))
    story.mark(Differ(1, [RUN]))
    assert story.ledger.cuts["c1"].verdict == VOID


def test_a_cut_whose_secondaries_arrive_after_it_was_found_is_void() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Differ(1, [RUN]))
    story.mark(Stood("c1"))
    assert story.ledger.cuts["c1"].verdict == VOID


def test_a_cut_that_the_pair_has_left_keeps_its_verdict() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Stood("c1"))
    story.mark(Resync("j", JOURNAL, [1]))
    story.mark(Equal([1]))
    story.mark(Differ(1, [RUN]))
    assert story.ledger.cuts["c1"].verdict == CONSISTENT


def test_a_prepared_cut_is_not_decided_alone_and_is_void_once_the_others_agree() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1], "db", ["alpha", "beta"]))
    story.mark(Ready("c1"))
    story.mark(Differ(1, [RUN]))
    assert story.ledger.cuts["c1"].state == READY
    story.mark(Agreed("c1"))
    assert story.ledger.cuts["c1"].verdict == VOID


@pytest.mark.parametrize("how", [JOURNAL, MAP])
@pytest.mark.parametrize("restarts", [False, True])
def test_so_it_is_if_the_pair_has_left_it_or_was_repaired_by_then(how: str, restarts: bool) -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1], "db", ["alpha", "beta"]))
    story.mark(Ready("c1"))
    story.mark(Differ(1, [RUN]))
    story.mark(Resync("j", how, [1]))
    story.mark(Equal([1]))
    story.mark(Same([1]))
    if restarts:
        story.ledger = through_a_checkpoint(story.ledger, story.sequence)
    story.mark(Agreed("c1"))
    assert story.ledger.cuts["c1"].verdict == VOID


def test_a_cut_that_a_resync_is_about_to_leave_and_comes_back_to_is_void() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Stood("c1"))
    story.mark(Resync("j", MAP, [1]))
    story.mark(Differ(1, [RUN]))  # it was found before
    story.mark(Abandon("j", [1], {}))
    assert story.ledger.cuts["c1"].verdict == VOID


def test_a_cut_made_by_a_failing_secondary_of_the_group_is_void_too() -> None:
    story = duplex("data", "wal")
    story.mark(Differ(2, [RUN]))
    story.mark(Fail("f", story.sequence, [1, 2], [1], [], "", {}))
    story.mark(Stood("f"))
    assert story.ledger.cuts["f"].verdict == VOID


def test_it_forbids_a_swap_by_itself_and_reads_of_those_ranges_from_the_secondary() -> None:
    story = duplex()
    pair = served(story.pair())
    before = pair.can_lead, pair.mirror_has(*RUN)
    story.mark(Differ(1, [RUN]))
    pair.refresh()
    after = pair.can_lead, pair.mirror_has(*RUN), pair.mirror_has(0, RUN[0] + 1)
    assert (before, after) == ((True, True), (False, False, False))
    assert pair.mirrors
    assert pair.mirror_has(*FAR)


# ---------------------------------------------------------------------------------- what ends it


def test_a_comparison_that_finds_them_equal_ends_it() -> None:
    story = differing()
    story.mark(Same([1]))
    assert story.pair().differs is None


def test_another_secondary_ends_it_at_once() -> None:
    story = differing()
    story.mark(Detach([1]))
    assert story.pair().differs is None


def test_a_copy_of_all_of_it_ends_it_when_that_is_done() -> None:
    story = differing()
    story.mark(Copy({1: changed(2)}, RESYNCING))
    assert story.pair().differs is not None
    story.mark(Copied(1, [(2 * GRAIN, GRAIN)]))
    story.mark(Equal([1]))
    assert story.pair().differs is None


def test_a_copy_that_fails_half_way_ends_it_when_the_rest_is_copied() -> None:
    story = duplex()
    story.mark(Differ(1, [RUN, FAR]))
    story.mark(Copy({1: changed(2, 9)}, RESYNCING))
    story.mark(Copied(1, [(2 * GRAIN, GRAIN)]))
    story.mark(Fail("f", story.sequence, [1], [1], [1], "", {}))
    story.mark(Copy({1: changed(9)}, RESYNCING))
    story.mark(Equal([1]))
    assert story.pair().differs is None


def test_a_copy_of_a_part_of_it_or_of_something_else_ends_nothing() -> None:
    story = duplex()
    story.mark(Differ(1, [RUN, FAR]))
    story.mark(Copy({1: changed(2)}, FIRST_COPY))
    story.mark(Equal([1]))
    assert story.pair().differs is not None


def test_a_difference_found_during_a_copy_is_not_ended_by_it() -> None:
    story = differing()
    story.mark(Copy({1: changed(2)}, RESYNCING))
    story.mark(Differ(1, [RUN]))
    story.mark(Equal([1]))
    assert story.pair().differs is not None


def test_a_resync_along_the_journal_ends_nothing() -> None:
    story = duplex()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Differ(1, [RUN]))
    story.mark(Resync("j", JOURNAL, [1]))
    story.mark(Equal([1]))
    assert story.pair().differs is not None


# ------------------------------------------------------------------------------------- the scrub


def test_a_pair_is_as_good_as_scrubbed_when_a_copy_has_made_it_equal() -> None:
    story = duplex()
    assert story.pair().scrub.done_us == story.sequence * 1000


@pytest.mark.parametrize(
    ("grains", "reason", "is_whole"),
    [
        ([2], FIRST_COPY, True),
        (range(SIZE // GRAIN), RESYNCING, True),
        ([2], RESYNCING, False),
        ([2], UNCLEAN_STOP, False),
    ],
    ids=["first copy", "all", "repair", "power cut"],
)
def test_only_a_copy_of_all_counts(grains: Sequence[int], reason: str, is_whole: bool) -> None:
    story = duplex()
    story.mark(Scrubbed(1, 0, 0, 0))  # it was paired before there were scrubs
    story.mark(Copy({1: changed(*grains)}, reason))
    assert story.pair().scrub.done_us == 0, "not yet"
    story.mark(Equal([1]))
    assert story.pair().scrub.done_us == (story.sequence * 1000 if is_whole else 0)


def test_a_detached_secondary_takes_its_scrub_with_it() -> None:
    story = duplex()
    story.mark(Scrubbed(1, 4096, 7, 5))
    story.mark(Detach([1]))
    assert story.pair().scrub == Scrub()


@pytest.mark.parametrize(
    ("scrub", "due_us"),
    [(Scrub(), 0), (Scrub(done_us=50), 150), (Scrub(4096, 20, 10), 0)],
    ids=["never compared", "compared", "under way"],
)
def test_when_a_scrub_is_due(scrub: Scrub, due_us: int) -> None:
    assert scrub.due_us(100) == due_us


def test_of_several_the_one_under_way_goes_on_and_then_the_one_that_waits_longest() -> None:
    waiting = {1: Scrub(done_us=30), 2: Scrub(done_us=10), 3: Scrub(done_us=20)}
    assert scrub_state.due(waiting, 1e-6, 1000) == 2
    assert scrub_state.due(waiting | {1: Scrub(4096, 900, 30)}, 1e-6, 1000) == 1
    assert scrub_state.due(waiting, 1.0, 1000) is None


@pytest.mark.parametrize(
    ("read_bytes", "took_s", "busy", "expected"),
    [
        (0, 0.0, False, 0.0),
        (1000, 0.25, False, 0.75),
        (1000, 3.0, False, 0.0),
        (0, 0.5, True, 24.5),
    ],
    ids=["holes", "the rate allows it later", "slower than the rate", "clients use the disks"],
)
def test_how_long_a_scrub_leaves_the_disks_to_others(
    read_bytes: int, took_s: float, busy: bool, expected: float
) -> None:
    assert scrub_state.pause_s(read_bytes, took_s, 1000, busy) == expected
