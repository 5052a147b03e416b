"""Every marker, folded into the states of pairs and cuts. Checkpoints are in test_snapshot.py."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

import duplexd
from duplexd.backend import TRIM, WRITE
from duplexd.core.cut import Cut
from duplexd.core.cut_states import CONSISTENT, CUT, VOID
from duplexd.core.image_record import Image
from duplexd.core.ledger import UNCOMMITTED, Ledger, Place
from duplexd.core.markers import (
    JOURNAL,
    KINDS,
    MAP,
    Abandon,
    Agreed,
    Attach,
    Close,
    Commit,
    Copied,
    Copy,
    CutAt,
    Detach,
    Equal,
    Fail,
    Grade,
    Horizon,
    MakeCut,
    Missed,
    NewVolume,
    Onward,
    Open,
    Ready,
    Regions,
    Remove,
    Resync,
    Settled,
    Stood,
    Swap,
    Void,
)
from duplexd.core.older_state import OlderState
from duplexd.core.pair import ONLY_THE_MAP, refresh
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.core.transitions import PAIR_EVENTS, Moving
from duplexd.errors import DamageError, WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.core.ledgers import (
    GRAIN,
    LIMITS,
    SIZE,
    Story,
    changed,
    everything,
    grains,
    packed,
    packed_snapshot,
    restored,
    served,
    through_a_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.markers import Marker
    from duplexd.json_object import Json


def duplex(*names: str) -> Story:
    story = Story(*names)
    story.mark(Attach(list(story.ledger.pairs)))
    return story


def suspended(*names: str, members: Iterable[str] = ()) -> Story:
    story = duplex(*names)
    story.mark(MakeCut("c1", "nightly", list(story.ledger.pairs), "db", list(members)))
    return story


def failed(
    story: Story,
    at: int = 1,
    unusable: Iterable[int] = (),
    missed: Mapping[int, ChangeMap] | None = None,
) -> int:
    """All pairs of the story are suspended, because the secondary of the first one failed."""
    volumes = list(story.ledger.pairs)
    return story.mark(Fail("f1", at, volumes, [1], list(unusable), "I/O error", missed or {}))


def test_every_marker_is_folded() -> None:
    folded = set(vars(Ledger)["_fold"].dispatcher.registry)
    assert folded - {object} == set(KINDS.values())


def test_every_marker_that_moves_pairs_is_checked() -> None:
    """The type that the ledger asks for has the markers of the table, and no others."""
    assert set(get_args(Moving)) == set(PAIR_EVENTS)


# the daemon and its volumes


def test_open_and_close() -> None:
    story = Story()
    story.mark(Open("boot-1"))
    assert (story.ledger.boot, story.ledger.closed, story.ledger.starts) == ("boot-1", False, 1)
    story.mark(Close())
    assert (story.ledger.boot, story.ledger.closed) == ("boot-1", True)
    story.mark(Open("boot-2"))
    assert (story.ledger.boot, story.ledger.closed, story.ledger.starts) == ("boot-2", False, 2)


def test_an_older_state_directory_keeps_which_starts_it_lacks() -> None:
    story = Story()
    story.mark(Open("boot"))
    assert story.ledger.ahead == OlderState()
    story.mark(Open("boot", ahead=5))
    story.mark(Open("boot"))
    story.mark(Open("boot", ahead=7))
    assert (story.ledger.ahead, story.ledger.starts) == ((1, 7, 0), 8), "no number of theirs"


def test_volume_and_remove() -> None:
    story = Story("data", "wal")
    assert [
        (pair.id, pair.name, pair.size, pair.state, pair.removed)
        for pair in story.ledger.pairs.values()
    ] == [(1, "data", SIZE, SIMPLEX, False), (2, "wal", SIZE, SIMPLEX, False)]
    story.mark(Remove(2))
    assert story.pair(2).removed
    assert list(story.ledger.known()) == ["data"]
    assert story.ledger.next_id() == 3, "the number of a removed volume is not given again"


def test_attach() -> None:
    story = Story()
    sequence = story.mark(Attach([1]))
    pair = story.pair()
    assert (pair.state, pair.usable, pair.applied) == (DUPLEX, True, sequence)


@pytest.mark.parametrize("story", [duplex(), suspended()], ids=["DUPLEX", "SUSPENDED"])
def test_detach_forgets_the_secondary(story: Story) -> None:
    story.mark(Regions({1: story.pair().regions.touch(0, 1)}))
    story.ledger.use_secondary(story.pair(), "/b/data.img")
    story.mark(Detach([1]))
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.cut) == (SIMPLEX, "", False, None)
    assert (pair.changed, pair.regions.open, pair.secondary_path) == (None, set(), "")
    assert pair.regions.touch(0, 1) == [0], "beside another secondary, it is opened again"


def test_swap_of_a_pair_that_is_equal_changes_the_roles_and_what_each_image_holds() -> None:
    story = duplex()
    pair = story.pair()
    pair.primary_at, pair.applied, pair.secondary_at = 5, 9, 9
    story.mark(Swap([1]))
    assert (pair.state, pair.swapped, pair.primary_at, pair.applied) == (DUPLEX, True, 9, 5)
    story.mark(Swap([1]))
    assert (pair.state, pair.swapped, pair.primary_at, pair.applied) == (DUPLEX, False, 5, 9)


def test_a_primary_holds_durably_what_it_held_so_as_the_secondary() -> None:
    """It trailed at the checkpoint that made the other image durable."""
    story = duplex()
    pair = story.pair()
    story.ledger.primary_holds(pair, 90)
    story.ledger.secondary_holds(pair, 70)
    story.ledger.advance(pair, 95)
    story.mark(Swap([1]))
    assert (pair.primary_at, pair.secondary_at, pair.applied) == (70, 90, 90)


def test_swap_of_a_suspended_pair_gives_up_what_follows_its_cut() -> None:
    story = suspended()
    pair = story.pair()
    before = pair.cut
    assert before is not None
    images = Image("p", "/a", "", 1, True, 1), Image("s", "/b", "", 1, True, 1)
    story.ledger.use_images(pair, *images)
    sequence = story.mark(Swap([1]))
    assert (pair.state, pair.swapped, pair.usable) == (SUSPENDED, True, False)
    assert pair.primary_at == sequence, "records before it are not applied to the new primary"
    assert grains(pair.changed) == list(range(SIZE // GRAIN)), "all of the new secondary is unknown"
    assert pair.primary_image == Image("s", "/b", "", 1, True, 1, after=sequence), "no older record"
    assert pair.secondary_image == Image("p", "/a", "", 1, True, 1, after=sequence)
    assert (before.verdict, pair.cut is before) == (None, False)


def test_regions_add_up() -> None:
    story = duplex("data", "wal")
    story.mark(Regions({1: [0, 5], 2: [1]}))
    story.mark(Regions({1: [2]}))
    assert (story.pair(1).regions.open, story.pair(2).regions.open) == ({0, 2, 5}, {1})


# cuts


def test_a_cut_suspends_all_pairs_at_one_number() -> None:
    story = duplex("data", "wal")
    sequence = story.mark(MakeCut("c1", "nightly", [1, 2]))
    data, wal = story.pair(1), story.pair(2)
    assert data.cut is wal.cut
    assert data.cut is not None
    cut = data.cut
    assert (cut.id, cut.sequence, cut.time_us) == ("c1", sequence, sequence * 1000)
    assert (cut.tag, cut.state, cut.verdict, cut.members) == ("nightly", CUT, None, ())
    assert {(pair.state, pair.reason, pair.changed) for pair in (data, wal)} == {
        (SUSPENDED, "by command", None)
    }
    assert data.limit(99) == sequence


def test_a_cut_knows_the_checksums_of_its_record() -> None:
    ledger = duplex().ledger
    ledger.apply(Place(7, 7000, crc=11, chain=10), MakeCut("c1", "", [1]))
    cut = ledger.cuts["c1"]
    assert (cut.sequence, cut.crc, cut.chain) == (7, 11, 10)


def test_a_cut_of_a_group_is_in_doubt_until_it_is_committed() -> None:
    story = suspended(members=["alpha", "beta"])
    cut = story.ledger.cuts["c1"]
    assert (cut.group, cut.members, cut.verdict) == ("db", ("alpha", "beta"), None)
    story.mark(Ready("c1"))
    assert cut.verdict is None
    story.mark(Agreed("c1"))
    assert cut.verdict == CONSISTENT


@pytest.mark.parametrize("marker", [Stood("c1"), Ready("c1")])
def test_a_durable_secondary_needs_nothing_from_a_restart(marker: Marker) -> None:
    story = suspended(members=["alpha"] if isinstance(marker, Ready) else [])
    cut = story.ledger.cuts["c1"]
    assert story.pair().applied < cut.sequence
    story.mark(marker)
    assert story.pair().applied == cut.sequence


def test_a_pair_that_left_a_cut_is_not_moved_by_what_is_said_of_it_later() -> None:
    story = suspended()
    story.mark(Resync("j", MAP, [1]))
    before = story.pair().applied
    story.mark(Stood("c1"))
    assert story.pair().applied == before


def test_void_reaches_every_pair_of_the_cut_and_no_other() -> None:
    story = suspended("data", "wal")
    story.mark(NewVolume(3, "other", SIZE))
    story.mark(Attach([3]))
    story.mark(MakeCut("c2", "", [3]))
    story.mark(Void("c1"))
    verdicts = [pair.cut.verdict for pair in story.ledger.pairs.values() if pair.cut]
    assert verdicts == [VOID, VOID, None]


def test_a_cut_of_this_controller_alone_is_consistent_once_its_secondaries_are_durable() -> None:
    story = suspended("data", "wal")
    story.mark(Stood("c1"))
    assert story.ledger.state_of("c1") == CONSISTENT


def test_an_unknown_cut_that_was_aborted_is_remembered_as_void() -> None:
    story = Story()
    story.mark(Void("c9"))
    assert story.ledger.state_of("c9") == VOID
    assert story.ledger.state_of("another") == ""


@pytest.mark.parametrize("marker", [Ready("c9"), Agreed("c9"), Stood("c9")])
def test_what_is_said_of_a_forgotten_cut_changes_nothing(marker: Marker) -> None:
    story = suspended()
    before = everything(story.ledger)
    story.mark(marker)
    assert everything(story.ledger) == before


def test_a_grade_is_kept_with_its_cut() -> None:
    story = suspended()
    story.mark(Grade("c1", False, 42, "record 7 is missing"))
    assert story.ledger.cuts["c1"].grade == {
        "consistent": False,
        "records": 42,
        "detail": "record 7 is missing",
    }
    story.mark(Grade("forgotten", True, 1, ""))
    assert list(story.ledger.cuts) == ["c1"]


def cut_again(story: Story, cut_id: str, members: list[str]) -> None:
    story.mark(MakeCut(cut_id, "", [1], "db", members))
    if not members:
        story.mark(Stood(cut_id))
    story.mark(Resync("j", JOURNAL, [1]))
    story.mark(Equal([1]))


def test_beyond_the_limit_the_oldest_decided_cut_is_forgotten() -> None:
    story = Story(limits=EngineLimits(cuts_kept_max=2))
    story.mark(Attach([1]))
    cut_again(story, "in doubt", ["alpha", "beta"])
    cut_again(story, "decided", [])
    cut_again(story, "newest", [])
    assert list(story.ledger.cuts) == ["in doubt", "newest"]
    assert story.ledger.cut("decided") is None


def test_if_none_is_decided_the_oldest_is_forgotten_so_that_memory_is_bounded() -> None:
    story = Story(limits=EngineLimits(cuts_kept_max=2))
    story.mark(Attach([1]))
    for cut_id in ("c1", "c2", "c3"):
        cut_again(story, cut_id, ["alpha", "beta"])
    assert list(story.ledger.cuts) == ["c2", "c3"]


def test_void_cuts_push_out_no_others() -> None:
    story = Story(limits=EngineLimits(cuts_kept_max=2, void_cuts_kept_max=3))
    story.mark(Attach([1]))
    cut_again(story, "good", [])
    for number in range(5):
        story.mark(Void(f"void {number}"))
    assert list(story.ledger.cuts) == ["good", "void 2", "void 3", "void 4"]


def test_a_cut_knows_its_volumes_also_after_a_restart() -> None:
    story = Story("data", "wal", "log")
    story.mark(Attach([1, 2, 3]))
    story.mark(MakeCut("c1", "", [1, 3]))
    (packed,) = [cut.pack() for cut in story.ledger.cuts.values()]
    for cut in (story.ledger.cuts["c1"], Cut(*packed)):  # type: ignore[arg-type]
        assert [cut.is_of([number]) for number in (1, 2, 3)] == [True, False, True]
    assert Cut("old", 1, 1, "", CUT).is_of([2]), "it was not recorded by earlier versions"


def test_a_forgotten_cut_that_a_secondary_is_at_is_found_by_its_pair() -> None:
    story = Story("data", "wal", limits=EngineLimits(cuts_kept_max=1))
    story.mark(Attach([1, 2]))
    story.mark(MakeCut("c1", "", [1]))
    story.mark(MakeCut("c2", "", [2]))
    assert list(story.ledger.cuts) == ["c2"]
    assert story.ledger.cut("c1") is story.pair(1).cut
    assert story.ledger.state_of("c1") == CUT


# failures


def test_fail_suspends_the_group_at_an_earlier_number() -> None:
    story = duplex("data", "wal")
    failed(story, at=2, missed={2: changed(1)})
    data, wal = story.pair(1), story.pair(2)
    assert (data.state, data.reason, grains(data.changed)) == (
        SUSPENDED, "by secondary error", None,
    )  # fmt: skip
    assert (wal.state, wal.reason, grains(wal.changed)) == (SUSPENDED, "by group freeze", [1])
    assert data.cut is wal.cut
    assert data.cut is not None
    assert (data.cut.sequence, data.cut.state, data.cut.why) == (2, CUT, "I/O error")
    assert wal.tracked_bytes == GRAIN
    assert [pair.applied for pair in (data, wal)] == [2, 2]


def test_fail_with_a_torn_secondary_is_void_for_the_whole_group() -> None:
    story = duplex("data", "wal")
    failed(story, unusable=[1])
    assert [pair.usable for pair in story.ledger.pairs.values()] == [False, True]
    assert {pair.cut.verdict for pair in story.ledger.pairs.values() if pair.cut} == {VOID}


def test_a_torn_secondary_stays_unusable_through_a_later_failure() -> None:
    story = duplex()
    failed(story, unusable=[1])
    failed(story)
    assert not story.pair().usable


def test_fail_of_a_suspended_pair_keeps_what_was_tracked() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 2 * GRAIN, 10)
    failed(story, at=2, missed={1: changed(0)})
    pair = story.pair()
    assert (pair.state, grains(pair.changed), pair.tracked_bytes) == (
        SUSPENDED, [0, 2], 10 + GRAIN,
    )  # fmt: skip


def test_a_cut_that_loses_a_secondary_is_void_and_says_why() -> None:
    story = suspended("data", "wal")
    old = story.ledger.cuts["c1"]
    story.mark(Fail("f1", 2, [1], [1], [], "/b/data.img: I/O error", {}))
    assert (old.verdict, old.why) == (VOID, "/b/data.img: I/O error")
    assert story.pair(2).cut is old


@pytest.mark.parametrize("promise", [Stood("c1"), Ready("c1")])
def test_a_secondary_that_fails_later_changes_no_verdict(promise: Marker) -> None:
    story = suspended("data", "wal", members=["alpha"] if isinstance(promise, Ready) else [])
    story.mark(promise)
    old = story.ledger.cuts["c1"]
    before = old.state
    story.mark(Fail("f1", 2, [1], [1], [1], "/b/data.img: I/O error", {}))
    assert (old.state, old.why) == (before, "")
    assert story.pair(2).cut is old
    assert story.pair(1).cut is story.ledger.cuts["f1"]


def test_the_cut_of_a_failure_has_the_time_of_what_is_there() -> None:
    """Of a delayed secondary, which holds what is older."""
    story = duplex("data", "wal")
    story.mark(Horizon([1], 2, 2000))
    failed(story, at=2)
    cut = story.ledger.cuts["f1"]
    assert (cut.sequence, cut.time_us) == (2, 2000)
    assert story.pair(1).failed_us == story.pair(2).failed_us > cut.time_us
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].failed_us == story.pair().failed_us


def test_beyond_what_is_known_it_has_the_time_of_the_failure() -> None:
    story = duplex()
    story.mark(Horizon([1], 1, 1000))
    failed(story, at=2)
    assert story.ledger.cuts["f1"].time_us == story.pair().failed_us


def test_a_resync_that_fails_at_once_makes_no_old_cut_a_new_one() -> None:
    story = suspended()
    old = story.ledger.cuts["c1"]
    story.mark(Resync("job", JOURNAL, [1]))
    failed(story, at=old.sequence)
    assert story.ledger.cuts["f1"].time_us == old.time_us < story.pair().failed_us


def test_a_pair_is_suspended_since_it_became_so_wherever_its_cut_is() -> None:
    story = duplex()
    story.mark(Horizon([1], 2, 2000))
    since = 1000 * story.mark(CutAt("c1", "", [1], 2, 2000, {}))
    story.mark(Onward("c2", "", [1], 3, 3000))
    assert story.pair().suspended_us == since > 3000
    story.mark(Resync("job", JOURNAL, [1]))
    failed(story, at=4)
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert again.pairs[1].suspended_us == story.pair().suspended_us == since


@pytest.mark.parametrize(
    "ends",
    [(Resync("job", JOURNAL, [1]), Equal([1])), (Copy({1: changed(1)}, ""), Equal([1]))],
    ids=["resync", "copy"],
)
def test_the_next_suspend_counts_anew(ends: Iterable[Marker]) -> None:
    story = suspended()
    for marker in ends:
        story.mark(marker)
    assert story.pair().suspended_us == 0
    assert story.mark(MakeCut("c2", "", [1])) * 1000 == story.pair().suspended_us


def test_of_a_checkpoint_of_an_older_version_the_time_of_the_cut_is_known() -> None:
    story = suspended()
    saved = packed_snapshot(story.ledger, story.sequence)
    del saved["pairs"][0]["suspended"]
    assert restored(saved).pairs[1].suspended_us == story.ledger.cuts["c1"].time_us


def test_a_cut_that_a_failure_made_has_no_verdict_until_it_is_durable() -> None:
    story = duplex("data", "wal")
    failed(story)
    assert story.ledger.cuts["f1"].verdict is None
    story.mark(Stood("f1"))
    assert story.ledger.cuts["f1"].verdict == CONSISTENT


# copies and resyncs


def test_copy_makes_the_secondary_unusable_until_equal() -> None:
    story = Story()
    sequence = story.mark(Copy({1: changed(0, 3)}, "first copy"))
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.applied) == (
        PENDING, "first copy", False, sequence,
    )  # fmt: skip
    assert grains(pair.changed) == [0, 3]
    story.mark(Copied(1, [(0, GRAIN)]))
    assert grains(pair.changed) == [3]
    story.mark(Equal([1]))
    assert (pair.state, pair.reason, pair.usable, pair.changed) == (DUPLEX, "", True, None)


def test_copy_of_a_suspended_pair_forgets_its_cut() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 0, 100)
    story.mark(Copy({1: changed(5)}, "resync"))
    pair = story.pair()
    assert (pair.state, pair.cut, pair.tracked_bytes, grains(pair.changed)) == (
        PENDING, None, 0, [5],
    )  # fmt: skip


def test_copied_without_a_map_changes_nothing() -> None:
    story = duplex()
    story.mark(Copied(1, [(0, GRAIN)]))
    assert story.pair().changed is None


def test_resync_by_journal() -> None:
    story = suspended()
    story.mark(Resync("j", JOURNAL, [1]))
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.staging) == (PENDING, "resync", True, "")
    assert pair.tracks, "what changes now is still to be brought over"
    story.mark(Equal([1]))
    assert (pair.state, pair.cut, pair.changed, pair.tracked_bytes) == (DUPLEX, None, None, 0)


def test_resync_of_an_unchanged_pair_needs_no_journal_before_it() -> None:
    story = suspended()
    story.mark(Stood("c1"))
    sequence = story.mark(Resync("j", JOURNAL, [1]))
    assert story.pair().applied == sequence


def test_resync_of_a_changed_pair_begins_at_its_cut() -> None:
    story = suspended()
    story.mark(Stood("c1"))
    story.ledger.track(story.pair(), WRITE, 0, 10)
    before = story.pair().applied
    story.mark(Resync("j", JOURNAL, [1]))
    assert story.pair().applied == before


def test_resync_of_a_secondary_that_is_not_at_its_cut_yet_begins_where_it_is() -> None:
    story = suspended()
    before = story.pair().applied
    story.mark(Resync("j", JOURNAL, [1]))
    assert story.pair().applied == before


@pytest.mark.parametrize("how", [JOURNAL, MAP])
def test_a_resync_of_a_secondary_that_is_not_at_its_cut_yet_is_not_begun(how: str) -> None:
    """Nothing would bring it the records between: it would be called DUPLEX without them."""
    story = suspended()
    pair, cut = story.pair(), story.pair().limit(0)
    with pytest.raises(WrongStateError, match=f"data: .* not yet at its cut, number {cut}"):
        story.ledger.check(Resync("j", how, [1]))
    story.ledger.advance(pair, cut)
    story.ledger.check(Resync("j", how, [1]))


def test_resync_by_map_counts_from_its_commit_on() -> None:
    story = suspended()
    story.mark(Resync("j", MAP, [1]))
    pair = story.pair()
    assert (pair.state, pair.staging) == (PENDING, UNCOMMITTED)
    before = pair.applied
    story.mark(Commit("j", story.sequence, 17, [1]))
    assert (pair.staging, pair.staged, pair.applied) == ("j", 17, story.sequence - 1)
    assert pair.applied != before
    story.mark(Settled("j", [1]))
    assert pair.staging == ""


def test_an_abandoned_resync_is_back_at_its_old_cut() -> None:
    story = suspended()
    cut = story.pair().cut
    story.ledger.track(story.pair(), WRITE, 0, 10)
    story.mark(Resync("j", MAP, [1]))
    story.ledger.track(story.pair(), WRITE, 4 * GRAIN, 10)
    story.mark(Abandon("j", [1], {}))
    pair = story.pair()
    assert (pair.state, pair.reason, pair.staging, pair.usable) == (
        SUSPENDED, "by command", "", True,
    )  # fmt: skip
    assert pair.cut is cut
    assert grains(pair.changed) == [0, 4]


def test_an_abandoned_resync_is_suspended_for_the_reason_it_had() -> None:
    story = suspended("data", "wal")
    story.mark(Resync("j", MAP, [1, 2]))
    story.mark(Abandon("j", [1, 2], {2: "by group freeze"}))
    assert [pair.reason for pair in story.ledger.pairs.values()] == [
        "by command",
        "by group freeze",
    ]


def test_missed_bytes_can_only_be_brought_back_by_the_map() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 0, 10)
    story.mark(Missed({1: changed(3)}))
    pair = story.pair()
    assert grains(pair.changed) == [0, 3]
    assert pair.tracked_bytes >= ONLY_THE_MAP > SIZE, "so that the map is chosen, not the journal"


# what no marker says


def test_track_counts_every_write_but_marks_a_grain_once() -> None:
    story = suspended()
    for _ in range(3):
        story.ledger.track(story.pair(), WRITE, GRAIN, 4096)
    story.ledger.track(story.pair(), TRIM, 3 * GRAIN, 4096)
    assert (grains(story.pair().changed), story.pair().tracked_bytes) == ([1, 3], 3 * 4096)


def test_a_current_secondary_holds_all_changes_before_a_marker() -> None:
    """It got them in the same batches, which no marker says."""
    story = duplex("data", "wal")
    story.ledger.apply(Place(9, 9000), Fail("f1", 7, [1], [1], [], "", {}), [story.pair(1)])
    assert [pair.applied for pair in story.ledger.pairs.values()] == [7, 3]


def test_a_secondary_never_goes_back() -> None:
    story = duplex()
    story.ledger.advance(story.pair(), 9)
    story.ledger.advance(story.pair(), 5)
    assert story.pair().applied == 9


def test_a_run_that_is_being_copied_is_set_again_by_a_write_and_by_a_failure() -> None:
    story = suspended()
    ledger, pair = story.ledger, story.pair()
    ledger.track(pair, WRITE, 0, 3 * GRAIN)
    story.mark(Resync("j", MAP, [1]))
    ledger.copying(pair, 0, 2 * GRAIN)
    assert grains(pair.changed) == [2]
    ledger.track(pair, WRITE, GRAIN, 1)
    assert grains(pair.changed) == [1, 2]
    ledger.not_copied(pair, [(0, GRAIN)])
    assert grains(pair.changed) == [0, 1, 2]


def test_if_nothing_is_known_of_a_copy_all_is_to_be_copied() -> None:
    story = Story()
    story.mark(Copy({1: changed(0)}, "first copy"))
    story.ledger.nothing_copied(story.pair())
    assert grains(story.pair().changed) == list(range(SIZE // GRAIN))


def test_what_is_said_of_a_copy_without_a_map_changes_nothing() -> None:
    story = duplex()
    story.ledger.copying(story.pair(), 0, GRAIN)
    story.ledger.not_copied(story.pair(), [(0, GRAIN)])
    story.ledger.nothing_copied(story.pair())
    assert story.pair().changed is None


# markers that do not fit

NONSENSE: list[Json] = [
    {"m": "fly"},
    {},
    {"m": "attach", "volumes": [9]},
    {"m": "attach"},
    {"m": "equal", "volumes": [1]},
    {"m": "cut", "id": "c", "tag": "", "volumes": [1]},
    {"m": "copy", "volumes": {"1": "rubbish"}, "reason": ""},
    {"m": "copy", "volumes": {"1": packed(0)[:-8]}, "reason": ""},
]


@pytest.mark.parametrize("fields", NONSENSE, ids=lambda fields: str(fields)[:40])
def test_a_marker_that_does_not_fit_is_damage_with_its_number(fields: Json) -> None:
    story = Story()
    with pytest.raises(DamageError, match="journal record 77"):
        story.ledger.unpack_and_apply(Place(77, 0), fields)


def test_a_map_of_another_volume_size_is_damage() -> None:
    story = Story()
    story.mark(NewVolume(2, "small", SIZE // 2))
    with pytest.raises(DamageError, match="journal record 9"):
        story.ledger.apply(Place(9, 0), Copy({2: changed(0)}, "first copy"))


def test_a_vote_that_the_table_does_not_have_is_damage() -> None:
    story = suspended(members=["alpha", "beta"])
    with pytest.raises(DamageError, match="cut c1 is cut"):
        story.mark(Agreed("c1"))


def test_a_marker_is_checked_before_it_is_written() -> None:
    story = Story()
    with pytest.raises(WrongStateError, match="data is SIMPLEX: suspend is not possible"):
        story.ledger.check(MakeCut("c1", "", [1]))
    story.ledger.check(Attach([1]))
    story.ledger.check(Void("c1"))  # moves no pair
    assert story.pair().state == SIMPLEX, "a check changes nothing"


# pairs that are served


def test_a_served_pair_follows_its_record() -> None:
    story = duplex()
    pair = served(story.pair())
    assert (pair.mirrors, pair.tracks, pair.record.lags) == (True, False, False)
    story.mark(MakeCut("c1", "", [1]))
    refresh([pair])
    assert (pair.mirrors, pair.tracks, pair.record.lags) == (False, True, True)
    story.mark(Resync("j", JOURNAL, [1]))
    story.mark(Equal([1]))
    refresh([pair])
    assert (pair.mirrors, pair.tracks, pair.record.lags) == (True, True, False)


@pytest.mark.parametrize(("mode", "secondary"), [("async", True), ("sync", False)])
def test_only_a_synchronous_pair_with_a_secondary_mirrors(mode: str, secondary: bool) -> None:
    pair = served(duplex().pair(), mode, secondary)
    assert not pair.mirrors


def test_a_served_pair_shows_the_record_and_cannot_change_it() -> None:
    story = suspended()
    pair = served(story.pair())
    record = story.pair()
    for field in ("state", "reason", "usable", "applied", "cut", "changed"):
        assert getattr(pair, field) == getattr(record, field)
        with pytest.raises(AttributeError):
            setattr(pair, field, None)


# Attributes of PairRecord and Cut that no other class has; the rest (`id`, `state`) is checked by
# the types: a Pair shows them read-only.
RECORDED = {
    "applied", "usable", "changed", "tracked_bytes", "staging", "staged", "removed",
    "secondary_path", "crc", "chain",
}  # fmt: skip
WRITERS = {
    *("core/ledger.py", "core/unmarked.py", "core/change_history.py"),
    *("core/snapshot.py", "core/pair.py", "core/cut.py", "core/delayed.py", "core/rollback.py"),
    *("core/growth.py", "core/rebuilding.py"),
}


def written(path: Path) -> set[str]:
    """Attributes of other objects than `self` that a module assigns to."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }


def test_nothing_but_the_ledger_writes_what_the_journal_recorded() -> None:
    root = Path(duplexd.__file__).parent
    rooms = [root / room for room in ("core", "engine", "replication")]
    found = {
        str(path.relative_to(root)): written(path) & RECORDED
        for room in rooms
        for path in room.rglob("*.py")
    }
    assert {name for name, attributes in found.items() if attributes} <= WRITERS
    assert found["core/ledger.py"], "the search finds nothing"


def test_limits_reach_the_maps_of_a_volume() -> None:
    story = Story(limits=EngineLimits(change_grain_bytes_min=4096, change_grains_max=16))
    assert story.pair().new_map().grain_bytes == SIZE // 16
    assert Story(limits=LIMITS).pair().full_map().count == SIZE // GRAIN
