"""What changed between the cuts of a volume that are remembered, folded from markers."""

from __future__ import annotations

from duplexd.backend import TRIM, WRITE, ZERO
from duplexd.core import pair_states
from duplexd.core.change_history import (
    ADOPTED,
    DIFFERED,
    GIVEN_UP,
    UNCLEAN,
    ChangeHistory,
    KnownCut,
)
from duplexd.core.markers import (
    JOURNAL,
    Attach,
    Close,
    Copy,
    Detach,
    Differ,
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
from duplexd.core.pair import PairRecord
from tests.unit.core.ledgers import (
    GRAIN,
    LIMITS,
    SIZE,
    Story,
    changed,
    grains,
    packed_snapshot,
    restored,
    through_a_checkpoint,
)

ALL = list(range(SIZE // GRAIN))


def story(*names: str) -> Story:
    """Running, DUPLEX."""
    told = Story(*names)
    told.mark(Attach(list(told.ledger.pairs)))
    told.ledger.closed = True
    told.mark(Open("boot"))
    return told


def cut(told: Story, cut_id: str, tag: str = "", volumes: list[int] | None = None) -> int:
    return told.mark(MakeCut(cut_id, tag, volumes or [1]))


def resync(told: Story, volumes: list[int] | None = None) -> None:
    told.mark(Resync("job", JOURNAL, volumes or [1]))
    told.mark(Equal(volumes or [1]))


def write(told: Story, *written: int, number: int = 1) -> None:
    for grain in written:
        told.ledger.track(told.pair(number), WRITE, grain * GRAIN, 1)


def history(told: Story, number: int = 1) -> ChangeHistory:
    found = told.pair(number).history
    assert found is not None
    return found


def intervals(told: Story, number: int = 1) -> list[list[int] | None]:
    """The grains of each map, the live one last; None where no map is in memory."""
    found = history(told, number)
    return [*(grains(known.changed) for known in found.cuts), grains(found.live)]


def test_a_cut_begins_a_history_and_the_next_one_freezes_its_map() -> None:
    told = story()
    write(told, 9)
    cut(told, "c1")
    write(told, 1)
    resync(told)
    write(told, 2)
    cut(told, "c2")
    write(told, 3)
    assert intervals(told) == [None, [1, 2], [3]]


def test_writes_zeroes_and_trims_are_changes() -> None:
    told = story()
    cut(told, "c1")
    for at, kind in enumerate((WRITE, ZERO, TRIM)):
        told.ledger.track(told.pair(), kind, at * GRAIN, GRAIN)
    assert intervals(told) == [None, [0, 1, 2]]


def test_a_change_that_the_secondary_gets_is_not_noted_for_a_resync() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    write(told, 4)
    assert intervals(told) == [None, [4]]
    assert told.pair().changed is None


def test_a_volume_that_was_never_cut_notes_nothing() -> None:
    told = story()
    write(told, 1)
    assert told.pair().history is None
    assert not told.pair().tracks


def test_a_cut_of_other_volumes_is_none_of_this_one() -> None:
    told = story("data", "wal")
    cut(told, "c1", volumes=[1, 2])
    resync(told, [1, 2])
    write(told, 1)
    write(told, 2, number=2)
    cut(told, "c2", volumes=[2])
    assert intervals(told, 1) == [None, [1]]
    assert intervals(told, 2) == [None, [2], []]


def test_the_oldest_cut_is_forgotten_with_the_map_behind_it() -> None:
    told = story()
    told.ledger.tracked_cuts = 2
    for number in range(1, 5):
        cut(told, f"c{number}")
        resync(told)
        write(told, number)
    assert [known.id for known in history(told).cuts] == ["c3", "c4"]
    assert intervals(told) == [None, [3], [4]]


def test_a_cut_that_becomes_void_is_still_a_position() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Void("c1"))
    resync(told)
    write(told, 5)
    cut(told, "c2")
    assert intervals(told) == [None, [5], []]


def test_a_failed_secondary_loses_no_change() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    write(told, 6)
    told.mark(Fail("f1", told.sequence, [1], [1], [1], "broken", {1: changed(*ALL)}))
    write(told, 7)
    told.mark(Copy({1: changed(*ALL)}, pair_states.RESYNCING))
    write(told, 8)
    told.mark(Equal([1]))
    assert intervals(told) == [None, [6, 7, 8]], "copying a secondary changes no volume"


# ----------------------------------------------------------------------------- points by name


def test_a_cut_is_found_by_its_id_its_tag_and_as_the_latest() -> None:
    told = story()
    for cut_id, tag in (("c1", "monday"), ("c2", "daily"), ("c3", "daily"), ("c4", "daily")):
        cut(told, cut_id, tag)
        resync(told)

    def found(*points: str) -> list[str]:
        known = (history(told).find(point, lambda each: each.id != "c4") for point in points)
        return [each.id if each else "" for each in known]

    assert found("c2", "monday", "daily", "latest", "c4") == ["c2", "c1", "c3", "c3", "c4"]
    assert found("", "c9", "tuesday") == ["", "", ""]


def test_the_intervals_between_two_cuts_end_at_the_later_ones() -> None:
    told = story()
    for number in range(1, 5):
        cut(told, f"c{number}")
        resync(told)
    known = history(told).cuts
    between = history(told).between(known[0], known[2])
    assert [each.id for each in between] == ["c2", "c3"]
    assert [each.id for each in history(told).between(known[2], None)] == ["c4"]
    assert history(told).between(known[1], known[1]) == []


# ------------------------------------------------------------------- what has no record, and stops


def test_an_unclean_stop_widens_by_the_open_regions() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Regions({1: [0]}))
    told.mark(Open("boot"))
    assert intervals(told) == [None, ALL], "a region is larger than this volume"
    assert history(told).why == (UNCLEAN,)


def test_an_unclean_stop_with_no_region_open_changes_nothing() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Open("boot"))
    assert (intervals(told), history(told).why) == ([None, []], ())


def test_a_clean_stop_changes_nothing() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Regions({1: [0]}))
    told.mark(Close())
    told.mark(Open("boot"))
    assert (intervals(told), history(told).why) == ([None, []], ())


def test_without_a_secondary_an_unclean_stop_may_have_changed_anything() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Detach([1]))
    told.mark(Open("boot"))
    assert intervals(told) == [None, ALL]


def test_what_was_missed_and_what_is_compared_after_an_unclean_stop_may_have_changed() -> None:
    told = story("data", "wal")
    cut(told, "c1", volumes=[1, 2])
    resync(told, [2])
    told.mark(Missed({1: changed(2, 3)}))
    told.mark(Copy({2: changed(4)}, pair_states.UNCLEAN_STOP))
    assert intervals(told, 1) == [None, [2, 3]]
    assert intervals(told, 2) == [None, [4]]


def test_where_legs_differ_a_backup_of_the_cut_may_be_wrong() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    told.mark(Differ(1, [(2 * GRAIN, GRAIN)]))
    assert intervals(told) == [None, [2]]
    assert history(told).why == (DIFFERED,)


def test_an_adopted_image_may_hold_anything() -> None:
    told = story()
    cut(told, "c1")
    told.ledger.adopted(told.pair())
    assert intervals(told) == [None, ALL]
    assert history(told).why == (ADOPTED,)


def test_a_swap_back_to_the_newest_cut_counts_what_it_gave_up() -> None:
    told = story()
    cut(told, "c1")
    write(told, 1)
    told.mark(Swap([1]))
    assert intervals(told) == [None, [1]]
    assert history(told).why == (GIVEN_UP,)


def test_a_swap_back_beyond_a_remembered_cut_may_have_changed_anything() -> None:
    """An `async` secondary failed before it got to its cut."""
    told = story()
    before = told.sequence
    cut(told, "c1")
    told.mark(Fail("f1", before, [1], [1], [], "broken", {1: changed(0)}))
    told.mark(Swap([1]))
    assert intervals(told) == [None, ALL]


def test_a_swap_of_equal_images_changes_nothing() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    told.mark(Swap([1]))
    assert (intervals(told), history(told).why) == ([None, []], ())


# --------------------------------------------------------------------------------- earlier cuts


def test_earlier_cuts_are_named_by_id_and_by_tag_the_newest_first() -> None:
    told = story()
    for number, tag in enumerate(("monday", "tuesday", "", "thursday")):
        cut(told, f"c{number}", tag)
        resync(told)
    names = {"c2": "c2", "c1": "c1", "tuesday": "c1", "c0": "c0", "monday": "c0"}
    assert list(history(told).before("c3").items()) == list(names.items())
    assert history(told).before("c0") == {}
    assert history(told).before("c9") == {}


def test_a_tag_of_several_cuts_names_none_wherever_the_others_are() -> None:
    told = story()
    for number, tag in enumerate(("nightly", "weekly", "nightly")):
        cut(told, f"c{number}", tag)
        resync(told)
    assert history(told).before("c2") == {"c1": "c1", "weekly": "c1", "c0": "c0"}
    assert history(told).before("c1") == {"c0": "c0"}


def test_a_tag_that_is_the_id_of_a_cut_means_that_cut() -> None:
    told = story()
    for number, tag in enumerate(("c1", "", "")):
        cut(told, f"c{number}", tag)
        resync(told)
    assert history(told).before("c2") == {"c1": "c1", "c0": "c0"}


# ------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_keeps_cuts_live_maps_and_reasons() -> None:
    told = story("data", "wal")
    cut(told, "c1", "monday", volumes=[1, 2])
    told.ledger.adopted(told.pair(2))
    resync(told, [1, 2])
    cut(told, "c2", volumes=[2])
    write(told, 7)
    told.ledger.stored(told.pair(2), {"c2": "file"})
    after = through_a_checkpoint(told.ledger, told.sequence)
    for number in (1, 2):
        saved = after.pairs[number].history
        assert saved is not None
        own = history(told, number)
        assert (saved.cuts, saved.live, saved.why) == (own.cuts, own.live, own.why)


def test_a_map_that_is_in_no_file_is_not_in_the_checkpoint_either() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    write(told, 1)
    cut(told, "c2")
    saved = through_a_checkpoint(told.ledger, told.sequence).pairs[1].history
    assert saved is not None
    assert (saved.cuts[1].file, saved.cuts[1].changed) == ("", None)


def test_a_checkpoint_of_a_version_without_histories_has_none() -> None:
    told = story()
    cut(told, "c1")
    saved = packed_snapshot(told.ledger, told.sequence)
    del saved["changes"]
    ledger = restored(saved)
    assert ledger.pairs[1].history is None
    again = Story()
    again.ledger, again.sequence = ledger, told.sequence
    resync(again)
    cut(again, "c2")
    assert [known.id for known in history(again).cuts] == ["c2"]


def test_a_removed_volume_leaves_no_history_in_memory_nor_in_the_checkpoint() -> None:
    told = story()
    cut(told, "c1")
    told.mark(Remove(1))
    assert told.ledger.pairs[1].history is None
    assert through_a_checkpoint(told.ledger, told.sequence).pairs[1].history is None


def test_a_map_that_is_in_a_file_leaves_the_memory() -> None:
    told = story()
    cut(told, "c1")
    resync(told)
    cut(told, "c2")
    told.ledger.stored(told.pair(), {"c2": "file", "c1": "another"})
    first, second = history(told).cuts
    assert first == KnownCut("c1", "", first.sequence, first.time_us)
    assert (second.file, second.changed) == ("file", None)


def test_no_cut_is_remembered_where_none_is_wanted() -> None:
    told = story()
    cut(told, "c1")
    told.ledger.remember_cuts(0)
    assert not told.pair().history
    resync(told)
    cut(told, "c2")
    assert not told.pair().history
    assert told.pair().tracks, "it is at its cut, and a resync needs to know"


def test_fewer_cuts_are_remembered_from_a_reload_on() -> None:
    told = story()
    for number in range(1, 5):
        cut(told, f"c{number}")
        resync(told)
    told.ledger.remember_cuts(2)
    assert [known.id for known in history(told).cuts] == ["c3", "c4"]


def test_histories_are_sparse() -> None:
    """A thousand volumes of 1 TiB with a cut each, and changes in ten places."""
    pair = PairRecord(1, "data", 1 << 40, LIMITS)
    live = pair.new_map()
    for place in range(10):
        live.set(place * (100 << 30), 4096)
    assert len(live.to_bytes()) * 1000 < 1 << 20
