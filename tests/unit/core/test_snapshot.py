"""Checkpoints of a ledger: what is saved, and what a restart makes of it."""

from __future__ import annotations

import pytest

from duplexd.backend import WRITE
from duplexd.core.markers import (
    MAP,
    Attach,
    Commit,
    Copy,
    Equal,
    Fail,
    MakeCut,
    Missed,
    Open,
    Regions,
    Remove,
    Resync,
    Swap,
    Void,
)
from duplexd.core.pair import Pair, PairRecord
from duplexd.errors import DamageError
from tests.unit.core.ledgers import (
    GRAIN,
    Story,
    changed,
    everything,
    known,
    packed_snapshot,
    restored,
    through_a_checkpoint,
)


def many() -> Story:
    """Pairs in every state."""
    story = Story("simplex", "pending", "duplex", "suspended", "removed", "failed", "staged")
    story.mark(Open("boot-3", ahead=4))
    story.mark(Copy({2: changed(1, 2)}, "first copy"))
    story.mark(Attach([3, 4, 6, 7]))
    story.mark(MakeCut("c1", "tägliche", [4, 7], "db", ["alpha", "beta"]))
    story.ledger.track(story.pair(4), WRITE, 0, 100)
    story.mark(Remove(5))
    story.mark(Fail("f", 9, [6], [6], [6], "", {6: changed(7)}))
    story.mark(Resync("j", MAP, [7]))
    story.mark(Commit("j", 12, 3, [7]))
    story.ledger.use_secondary(story.pair(3), "/b/duplex.img")
    return story


def test_a_restored_checkpoint_equals_what_was_saved() -> None:
    story = many()
    again = through_a_checkpoint(story.ledger, story.sequence)
    assert everything(again) == everything(story.ledger)
    assert [pair.secondary_path for pair in again.pairs.values()] == [
        pair.secondary_path for pair in story.ledger.pairs.values()
    ]


def test_a_checkpoint_is_of_the_moment_it_was_taken() -> None:
    """A worker packs it later, while changes go on."""
    story = Story()
    story.mark(Attach([1]))
    story.mark(MakeCut("c1", "", [1]))
    story.ledger.track(story.pair(), WRITE, 0, 100)
    before, taken = everything(story.ledger), story.ledger.snapshot(story.sequence, {})
    story.ledger.track(story.pair(), WRITE, 5 * GRAIN, 100)
    story.mark(Void("c1"))
    assert everything(restored(story.ledger.pack_snapshot(taken))) == before


def test_pairs_of_one_cut_share_it_after_a_restore() -> None:
    again = through_a_checkpoint(many().ledger, 20)
    assert again.pairs[4].cut is again.pairs[7].cut is again.cuts["c1"]
    assert again.pairs[6].cut is not again.pairs[4].cut


def test_a_mirrored_secondary_holds_all_up_to_the_checkpoint() -> None:
    ledger = many().ledger
    again = restored(packed_snapshot(ledger, 500, {3: True, 4: False}))
    assert again.pairs[3].applied == 500
    assert again.pairs[4].applied == ledger.pairs[4].applied < 500


def test_a_primary_that_is_served_holds_all_up_to_the_checkpoint() -> None:
    again = restored(packed_snapshot(many().ledger, 500))
    assert {pair.primary_at for pair in again.pairs.values()} == {500}


def test_a_primary_that_is_not_served_stays_where_it_was() -> None:
    ledger = many().ledger
    ledger.pairs[3].primary_at = 7
    again = restored(ledger.pack_snapshot({"sequence": 500, **ledger.snapshot(500, {}, {3: 7})}))
    assert (again.pairs[3].primary_at, again.pairs[4].primary_at) == (7, 500)


def test_the_roles_of_the_images_are_kept() -> None:
    story = many()
    story.mark(Swap([3]))
    again = restored(packed_snapshot(story.ledger, 500))
    assert [number for number, pair in again.pairs.items() if pair.swapped] == [3]


def test_it_is_known_that_another_primary_was_adopted_since_the_cut() -> None:
    story = many()
    story.mark(Missed({4: changed(1), 6: changed(1)}, (4,)))
    again = through_a_checkpoint(story.ledger, 9)
    assert [number for number, pair in again.pairs.items() if pair.adopted] == [4]
    story.mark(Resync("k", MAP, [4]))
    story.mark(Equal([4]))
    assert not story.pair(4).adopted, "it has left that cut"


def test_only_regions_touched_since_the_last_checkpoint_stay_open() -> None:
    story = many()
    story.mark(Regions({3: [0, 1, 2]}))
    story.pair(3).regions.touched = {2}
    assert through_a_checkpoint(story.ledger, 9).pairs[3].regions.open == {2}


@pytest.mark.parametrize("key", ["boot", "closed", "pairs"])
def test_a_checkpoint_that_lacks_something_is_damage(key: str) -> None:
    saved = packed_snapshot(many().ledger, 20)
    del saved[key]
    with pytest.raises(DamageError, match="is not readable"):
        restored(saved)


def test_a_checkpoint_with_a_pair_that_lacks_something_is_damage() -> None:
    since_version_3 = {"primary_at", "swapped", "lineage"}
    for key in packed_snapshot(many().ledger, 20)["pairs"][0].keys() - since_version_3:
        saved = packed_snapshot(many().ledger, 20)
        del saved["pairs"][0][key]
        with pytest.raises(DamageError, match="is not readable"):
            restored(saved)


def test_what_the_first_version_did_not_write_has_its_default() -> None:
    saved = packed_snapshot(many().ledger, 20)
    del saved["starts"], saved["cuts"], saved["pairs"][2]["secondary"]
    for pair in saved["pairs"]:
        del pair["primary_at"], pair["swapped"]
        if pair["cut"] is not None:
            pair["cut"] = pair["cut"][:5]  # without group, members and grade
    again = restored(saved)
    assert (again.starts, again.cuts) == (0, {})
    assert again.pairs[3].secondary_path == ""
    assert (again.pairs[3].primary_at, again.pairs[3].swapped) == (20, False)
    assert again.pairs[3].primary_image is again.pairs[3].secondary_image is None
    cut = again.pairs[4].cut
    assert cut is not None
    assert (cut.id, cut.group, cut.members, cut.grade) == ("c1", "", (), None)
    assert again.cut("c1") is cut


def test_what_is_known_is_all_that_a_pair_keeps() -> None:
    """A new field of a record must be saved."""
    apart = {
        "adopted",
        "rebuildable",
        "drill",
        "failed_us",
        "history",
        "horizon",
        "lineage",
        "differs",
        "scrub",
        "good_cut_us",
        "growing",
        "grown",
        "last_cut",
        "regions",
        "secondary_path",
        "primary_at",
        "swapped",
        "primary_image",
        "readers",
        "rollback",
        "secondary_image",
        "suspended_us",
        "unrecorded",
    }  # saved, and compared by tests of their own
    of_this_run = {"copies", "copies_then", "limits", "secondary_at", "swaps"}
    assert set(PairRecord.__slots__) == apart | of_this_run | set(known(many().pair(1)))


def test_a_served_pair_has_no_copy_of_what_is_recorded() -> None:
    """But of what never changes, and of `size` and `tracks`, which are asked for often."""
    constant = {"id", "name", "size", "regions"}
    assert set(Pair.__slots__) & set(PairRecord.__slots__) == constant
