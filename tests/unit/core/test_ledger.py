"""Every marker, folded into the states of pairs; checkpoints of the result."""

from __future__ import annotations

import re
from typing import Any

import pytest

from duplexd.backend import TRIM, WRITE
from duplexd.core import ledger as ledger_module
from duplexd.core.ledger import CONSISTENT, UNCOMMITTED, VOID, Ledger
from duplexd.core.pair import Pair
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.errors import DamageError
from tests.support.memory_leg import MemoryLeg
from tests.unit.core.ledgers import (
    GRAIN,
    SIZE,
    Story,
    everything,
    grains,
    known,
    packed,
    packed_snapshot,
    through_a_checkpoint,
)


def duplex(*names: str) -> Story:
    story = Story(*names)
    story.tell("attach", volumes=list(story.ledger.pairs))
    return story


def suspended(*names: str) -> Story:
    story = duplex(*names)
    story.tell("cut", id="c1", tag="nightly", volumes=list(story.ledger.pairs))
    return story


def documented() -> dict[str, str]:
    """The markers of the docstring, and their fields."""
    rows = re.findall(r"^    (\w+) {2,}(.*)$", str(ledger_module.__doc__), re.MULTILINE)
    return {name: fields for name, fields in rows if name != "m"}


def test_the_docstring_names_every_marker_that_is_folded() -> None:
    assert set(documented()) == set(Ledger()._fold)


def test_open_and_close() -> None:
    story = Story()
    story.tell("open", boot="boot-1", version=1)
    assert (story.ledger.boot, story.ledger.closed) == ("boot-1", False)
    story.tell("close")
    assert (story.ledger.boot, story.ledger.closed) == ("boot-1", True)
    story.tell("open", boot="boot-2", version=1)
    assert (story.ledger.boot, story.ledger.closed) == ("boot-2", False)


def test_volume_and_remove() -> None:
    story = Story("data", "wal")
    assert [
        (pair.id, pair.name, pair.size, pair.state, pair.removed)
        for pair in story.ledger.pairs.values()
    ] == [
        (1, "data", SIZE, SIMPLEX, False),
        (2, "wal", SIZE, SIMPLEX, False),
    ]
    story.tell("remove", id=2)
    assert story.pair(2).removed
    assert story.ledger.next_id() == 3, "the number of a removed volume is not given again"


def test_attach() -> None:
    story = Story()
    sequence = story.tell("attach", volumes=[1])
    assert (story.pair().state, story.pair().usable, story.pair().applied) == (
        DUPLEX,
        True,
        sequence,
    )


def test_copy_makes_the_secondary_unusable_until_equal() -> None:
    story = Story()
    sequence = story.tell("copy", volumes={1: packed(0, 3)}, reason="first copy")
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.applied, grains(pair)) == (
        PENDING,
        "first copy",
        False,
        sequence,
        [0, 3],
    )
    story.tell("copied", id=1, runs=[[0, GRAIN]])
    assert grains(pair) == [3]
    story.tell("equal", volumes=[1])
    assert (pair.state, pair.reason, pair.usable, pair.changed) == (DUPLEX, "", True, None)


def test_copy_of_a_suspended_pair_forgets_its_cut() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 0, 100)
    story.tell("copy", volumes={1: packed(5)}, reason="resync")
    pair = story.pair()
    assert (pair.state, pair.cut, pair.tracked_bytes, grains(pair)) == (PENDING, None, 0, [5])


def test_copied_without_a_map_says_nothing() -> None:
    story = duplex()
    story.tell("copied", id=1, runs=[[0, GRAIN]])
    assert story.pair().changed is None


def test_cut_suspends_all_at_one_number() -> None:
    story = duplex("data", "wal")
    sequence = story.tell("cut", id="c1", tag="nightly", volumes=[1, 2])
    data, wal = story.pair(1), story.pair(2)
    assert data.cut is wal.cut
    assert data.cut is not None
    cut = data.cut
    assert (cut.id, cut.sequence, cut.time_us, cut.tag, cut.verdict) == (
        "c1",
        sequence,
        sequence * 1000,
        "nightly",
        CONSISTENT,
    )
    assert {(pair.state, pair.reason, pair.changed) for pair in (data, wal)} == {
        (SUSPENDED, "by command", None)
    }
    assert data.limit(99) == sequence


def fail(story: Story, **fields: Any) -> int:
    everyone = list(story.ledger.pairs)
    usual = {
        "id": "f1",
        "at": 1,
        "volumes": everyone,
        "unusable": [],
        "failed": [1],
        "error": "I/O error",
        "missed": {},
    }
    return story.tell("fail", **{**usual, **fields})


def test_fail_suspends_the_group_at_an_earlier_number() -> None:
    story = duplex("data", "wal")
    fail(story, at=2, missed={2: packed(1)})
    data, wal = story.pair(1), story.pair(2)
    assert (data.state, data.reason, grains(data)) == (SUSPENDED, "by secondary error", None)
    assert (wal.state, wal.reason, grains(wal)) == (SUSPENDED, "by group freeze", [1])
    assert data.cut is wal.cut
    assert data.cut is not None
    assert (data.cut.sequence, data.cut.verdict) == (2, CONSISTENT)
    assert wal.tracked_bytes == GRAIN


def test_fail_with_a_torn_secondary_is_void_for_the_whole_group() -> None:
    story = duplex("data", "wal")
    fail(story, unusable=[1])
    assert [pair.usable for pair in story.ledger.pairs.values()] == [False, True]
    assert {pair.cut.verdict for pair in story.ledger.pairs.values() if pair.cut} == {VOID}


def test_fail_of_a_suspended_pair_keeps_what_was_tracked() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 2 * GRAIN, 10)
    fail(story, at=2, missed={1: packed(0)})
    pair = story.pair()
    assert (pair.state, grains(pair), pair.tracked_bytes) == (SUSPENDED, [0, 2], 10 + GRAIN)


def test_void_reaches_every_pair_of_the_cut_and_no_other() -> None:
    story = suspended("data", "wal")
    story.tell("volume", id=3, name="other", size=SIZE)
    story.tell("attach", volumes=[3])
    story.tell("cut", id="c2", tag="", volumes=[3])
    story.tell("void", cut="c1")
    assert [pair.cut.verdict for pair in story.ledger.pairs.values() if pair.cut] == [
        VOID,
        VOID,
        CONSISTENT,
    ]


def test_resync_by_journal() -> None:
    story = suspended()
    story.tell("resync", job="j", how="journal", volumes=[1])
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.staging) == (PENDING, "resync", True, "")
    assert pair.tracks, "what changes now is still to be brought over"
    story.tell("equal", volumes=[1])
    assert (pair.state, pair.cut, pair.changed, pair.tracked_bytes) == (DUPLEX, None, None, 0)


def test_resync_by_map_counts_from_its_commit_on() -> None:
    story = suspended()
    story.tell("resync", job="j", how="map", volumes=[1])
    pair = story.pair()
    assert (pair.state, pair.staging) == (PENDING, UNCOMMITTED)
    before = pair.applied
    story.tell("commit", job="j", at=story.sequence, count=17, volumes=[1])
    assert (pair.staging, pair.staged, pair.applied) == ("j", 17, story.sequence - 1)
    assert pair.applied != before
    story.tell("settled", job="j", volumes=[1])
    assert pair.staging == ""


def test_abandon_stands_at_the_old_cut_again() -> None:
    story = suspended()
    cut = story.pair().cut
    story.ledger.track(story.pair(), WRITE, 0, 10)
    story.tell("resync", job="j", how="map", volumes=[1])
    story.ledger.track(story.pair(), WRITE, 4 * GRAIN, 10)
    story.tell("abandon", job="j", volumes=[1])
    pair = story.pair()
    assert (pair.state, pair.reason, pair.staging, pair.usable) == (
        SUSPENDED,
        "by command",
        "",
        True,
    )
    assert pair.cut is cut
    assert grains(pair) == [0, 4]


def test_missed_can_only_be_brought_back_by_the_map() -> None:
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 0, 10)
    story.tell("missed", volumes={1: packed(3)})
    pair = story.pair()
    assert grains(pair) == [0, 3]
    assert pair.changed is not None
    assert pair.tracked_bytes > pair.changed.changed_bytes, (
        "so that the map is chosen, not the journal"
    )


def test_regions_add_up() -> None:
    story = duplex("data", "wal")
    story.tell("regions", volumes={1: [0, 5], 2: [1]})
    story.tell("regions", volumes={1: [2]})
    assert (story.pair(1).regions, story.pair(2).regions) == ({0, 2, 5}, {1})


@pytest.mark.parametrize("story", [duplex(), suspended()])
def test_detach_forgets_the_secondary(story: Story) -> None:
    story.tell("regions", volumes={1: [0]})
    story.tell("detach", volumes=[1])
    pair = story.pair()
    assert (pair.state, pair.reason, pair.usable, pair.cut, pair.changed, pair.regions) == (
        SIMPLEX,
        "",
        False,
        None,
        None,
        set(),
    )


def test_track_counts_every_write_but_marks_a_grain_once() -> None:
    story = suspended()
    for _ in range(3):
        story.ledger.track(story.pair(), WRITE, GRAIN, 4096)
    story.ledger.track(story.pair(), TRIM, 3 * GRAIN, 4096)
    assert (grains(story.pair()), story.pair().tracked_bytes) == ([1, 3], 3 * 4096)


NONSENSE = [
    {"m": "fly"},
    {},
    {"m": "attach", "volumes": [9]},
    {"m": "attach"},
    {"m": "equal", "volumes": [1]},
    {"m": "cut", "id": "c", "tag": "", "volumes": [1]},
    {"m": "copy", "volumes": {"1": "rubbish"}, "reason": ""},
    {"m": "copy", "volumes": {"1": packed(0)[:-8]}, "reason": ""},
]


@pytest.mark.parametrize("marker", NONSENSE, ids=lambda marker: str(marker)[:40])
def test_a_marker_that_does_not_fit_is_damage_with_its_number(marker: dict[str, Any]) -> None:
    story = Story()
    with pytest.raises(DamageError, match="journal record 77"):
        story.ledger.apply(77, 0, marker)


# ----------------------------------------------------------------------------------------------------------------- checkpoints


def many() -> Story:
    """Pairs in every state."""
    story = Story("simplex", "pending", "duplex", "suspended", "removed", "failed", "staged")
    story.tell("open", boot="boot-3", version=1)
    story.tell("copy", volumes={2: packed(1, 2)}, reason="first copy")
    story.tell("attach", volumes=[3, 4, 6, 7])
    story.tell("cut", id="c1", tag="tägliche", volumes=[4, 7])
    story.ledger.track(story.pair(4), WRITE, 0, 100)
    story.tell("remove", id=5)
    story.tell(
        "fail", id="f", at=9, volumes=[6], unusable=[6], failed=[6], error="", missed={6: packed(7)}
    )
    story.tell("resync", job="j", how="map", volumes=[7])
    story.tell("commit", job="j", at=12, count=3, volumes=[7])
    return story


def test_a_restored_checkpoint_equals_what_was_saved() -> None:
    story = many()
    assert everything(through_a_checkpoint(story.ledger, story.sequence)) == everything(
        story.ledger
    )


def test_a_checkpoint_is_of_the_moment_it_was_taken() -> None:
    """A worker packs it later, while changes go on."""
    story = suspended()
    story.ledger.track(story.pair(), WRITE, 0, 100)
    before, snapshot = everything(story.ledger), story.ledger.snapshot(story.sequence)
    story.ledger.track(story.pair(), WRITE, 5 * GRAIN, 100)
    story.tell("void", cut="c1")
    again = Ledger()
    again.restore(story.ledger.pack_snapshot(snapshot))
    assert everything(again) == before


def test_pairs_of_one_cut_share_it_after_a_restore_too() -> None:
    restored = through_a_checkpoint(many().ledger, 20)
    assert restored.pairs[4].cut is restored.pairs[7].cut
    assert restored.pairs[6].cut is not restored.pairs[4].cut


def test_a_mirrored_secondary_holds_all_up_to_the_checkpoint() -> None:
    story = duplex()
    pair = story.pair()
    pair.set_legs(MemoryLeg(SIZE), MemoryLeg(SIZE), "sync")
    assert pair.mirrors
    assert through_a_checkpoint(story.ledger, 500).pairs[1].applied == 500
    pair.set_legs(MemoryLeg(SIZE), MemoryLeg(SIZE), "async")
    assert through_a_checkpoint(story.ledger, 500).pairs[1].applied == pair.applied == 2


def test_only_regions_touched_since_the_last_checkpoint_stay_open() -> None:
    story = duplex()
    story.tell("regions", volumes={1: [0, 1, 2]})
    story.pair().touched = {2}
    assert through_a_checkpoint(story.ledger, 9).pairs[1].regions == {2}


@pytest.mark.parametrize("key", ["boot", "closed", "pairs"])
def test_a_checkpoint_that_lacks_something_is_damage(key: str) -> None:
    snapshot = packed_snapshot(many().ledger, 20)
    del snapshot[key]
    with pytest.raises(DamageError, match="makes no sense"):
        Ledger().restore(snapshot)


def test_a_checkpoint_with_a_pair_that_lacks_something_is_damage() -> None:
    for key in packed_snapshot(many().ledger, 20)["pairs"][0]:
        snapshot = packed_snapshot(many().ledger, 20)
        del snapshot["pairs"][0][key]
        with pytest.raises(DamageError, match="makes no sense"):
            Ledger().restore(snapshot)


def test_what_is_known_is_all_that_a_pair_keeps() -> None:
    """A new field of a pair must be saved, or be one of this run only."""
    of_this_run = {
        "connections", "copied_bytes", "copy_done", "copy_total", "groups", "holds", "mirrors", "mode", "primary", "primary_dirty", "read_cached",
        "region_shift", "secondary", "secondary_dirty", "touched", "waiting",
    }  # fmt: skip
    assert set(Pair.__slots__) == of_this_run | {"regions", "secondary_path"} | set(
        known(many().pair(1))
    )
