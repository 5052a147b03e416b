"""What is not held against an image: what the journal says was written to it."""

from __future__ import annotations

import pytest
from fastcrc import crc32

from duplexd.backend import TRIM, WRITE, ZERO
from duplexd.core import markers
from duplexd.core.identity import Facts
from duplexd.core.image_record import Image
from duplexd.core.ledger import Ledger, Place
from duplexd.core.since import Since, known
from duplexd.images.probe import Piece
from duplexd.journal.format import MARKER, Record
from duplexd.limits import EngineLimits

SIZE = 64 << 20
SAMPLED = [0, 8192, 40 << 20]
AT = 100  # number of the checkpoint
US = 1_700_000_000_000_000


class Story:
    """One pair, DUPLEX at the checkpoint unless `suspended`, and what comes after it."""

    def __init__(
        self,
        suspended: bool = False,
        applied: int = AT,
        closed: bool = False,
        delayed: bool = False,
    ) -> None:
        self.ledger = ledger = Ledger(EngineLimits())
        self.number = AT
        ledger.apply(Place(1, US), markers.NewVolume(1, "data", SIZE))
        ledger.apply(Place(2, US), markers.Attach([1]))
        self.pair = pair = ledger.pairs[1]
        if suspended:
            ledger.apply(Place(50, US), markers.MakeCut("c", "", [1]))
        if delayed:
            ledger.apply(Place(50, US), markers.Horizon([1], applied, US))
        pair.applied, pair.primary_at = applied, AT
        ledger.closed = closed
        image = Image("p", "/a", "", 1, True, 1, tuple((offset, 7) for offset in SAMPLED))
        ledger.use_images(pair, image, image._replace(id="s", path="/b"))
        self.since = Since(ledger, AT, US * 1000)

    def record(self, kind: int, offset: int, length: int, time_us: int, payload: int) -> Record:
        self.number += 1
        return Record(self.number, kind, 0, 1, offset, length, payload, 0, 0, time_us, 0, 0, 0, 0)

    def change(
        self, offset: int, data: bytes, kind: int = WRITE, time_us: int = US + 5, length: int = 0
    ) -> Story:
        record = self.record(kind, offset, length or len(data), time_us, len(data))
        self.since.change(record, memoryview(data))
        return self

    def marker(self, marker: markers.Marker) -> Story:
        self.since.marker(self.record(MARKER, 0, 0, US + 9, 0), marker.pack())
        self.ledger.apply(Place(self.number, US + 9), marker)
        return self

    def facts(self, complete: bool = True, mirrors: bool = True) -> tuple[Facts, Facts]:
        return self.since.facts(self.pair, complete, mirrors)

    def writing(self, mirrors: bool = True) -> tuple[str, str]:
        primary, secondary = self.facts(mirrors=mirrors)
        return primary.writing, secondary.writing

    def touched(self) -> list[int]:
        facts, _ = self.facts()
        return [offset for offset in SAMPLED if offset in facts.touched]


# -------------------------------------------------------------------------- who was written to


def test_without_records_nothing_was_written() -> None:
    assert Story().writing() == ("nothing", "nothing")


def test_the_changes_of_a_sync_pair_are_on_both_legs() -> None:
    assert Story().change(0, b"x").writing() == ("records", "records")


def test_a_follower_writes_to_a_secondary_at_any_time() -> None:
    assert Story(applied=AT - 1).writing(mirrors=False) == ("nothing", "anything")
    assert Story().change(0, b"x").writing(mirrors=False) == ("records", "anything")
    assert Story().writing(mirrors=False) == ("nothing", "nothing")


def test_a_follower_that_was_stopped_with_the_daemon_writes_nothing() -> None:
    assert Story(applied=AT - 1, closed=True).writing(mirrors=False) == ("nothing", "nothing")


def test_a_suspended_secondary_is_not_written_to_and_nothing_of_it_is_touched() -> None:
    story = Story(suspended=True).change(0, b"x")
    primary, secondary = story.facts()
    assert (primary.writing, secondary.writing) == ("records", "nothing")
    assert (0 in primary.touched, 0 in secondary.touched) == (True, False)


def test_one_that_had_not_arrived_at_its_cut_gets_nothing_from_after_the_checkpoint() -> None:
    _, secondary = Story(suspended=True, applied=49).change(0, b"x").facts()
    assert secondary.writing == "anything"
    assert not any(offset in secondary.touched for offset in SAMPLED)


def test_a_resync_brings_changes_from_before_the_checkpoint() -> None:
    _, secondary = Story(suspended=True).marker(markers.Resync("j", "map", [1])).facts()
    assert secondary.writing == "anything"
    assert all(offset in secondary.touched for offset in SAMPLED)


def test_a_cut_does_not_hide_what_was_written_before() -> None:
    story = Story().change(0, b"x").marker(markers.MakeCut("c", "", [1]))
    assert story.writing() == ("records", "records")


def test_a_cut_brings_a_delayed_secondary_on_without_a_change() -> None:
    story = Story(applied=AT - 10, delayed=True)
    assert story.writing(mirrors=False) == ("nothing", "nothing")
    story.marker(markers.MakeCut("c", "", [1]))
    assert story.writing(mirrors=False) == ("nothing", "anything")


def test_images_that_were_swapped_may_have_been_written_to_at_any_time() -> None:
    assert Story().marker(markers.Swap([1])).writing() == ("anything", "anything")


def test_nothing_is_known_of_a_volume_that_is_new() -> None:
    story = Story()
    story.ledger.apply(Place(101, US), markers.NewVolume(2, "wal", SIZE))
    assert story.since.facts(story.ledger.pairs[2], True, True) == (Facts(), Facts())


def test_a_call_that_was_given_up_may_write_to_the_primary_at_any_time() -> None:
    story = Story().change(0, b"x").marker(markers.Regions({}, late=[1]))
    assert story.writing() == ("anything", "records")


# ------------------------------------------------------------------------------- what was touched


@pytest.mark.parametrize(
    ("offset", "length", "touched"),
    [
        (0, 1, [0]),
        (4095, 1, [0]),
        (4096, 4096, []),
        (4096, 4097, [8192]),
        (12287, 1, [8192]),
        (12288, 1, []),
        (0, SIZE, SAMPLED),
    ],
)
@pytest.mark.parametrize("kind", [WRITE, ZERO, TRIM])
def test_a_record_touches_the_blocks_that_it_overlaps(
    offset: int, length: int, touched: list[int], kind: int
) -> None:
    assert Story().change(offset, b"", kind, length=length).touched() == touched


def test_where_records_may_be_missing_open_regions_are_uncertain() -> None:
    story = Story()
    story.pair.regions.open.add((40 << 20) >> story.pair.regions.shift)
    facts, _ = story.facts(complete=False)
    assert [offset in facts.uncertain for offset in SAMPLED] == [False, False, True]
    facts, _ = story.facts(complete=True)
    assert facts.uncertain == ()


def test_after_a_clean_stop_no_record_is_missing_whatever_the_boot() -> None:
    assert Story(closed=True).facts(complete=False)[0].complete
    assert not Story(closed=True).change(0, b"x").facts(complete=False)[0].complete


# ------------------------------------------------------------------------------- the last batch


def test_the_first_change_of_the_last_batch_is_looked_for() -> None:
    story = Story().change(0, b"old").change(4096, b"a" * 5000, time_us=US + 7)
    story.change(1 << 20, b"later in the same batch", time_us=US + 7)
    facts, _ = story.facts()
    assert facts.last == Piece(4096, 4096, crc32.iscsi(b"a" * 4096))
    assert facts.last_ns == (US + 7) * 1000


def test_one_that_the_same_batch_changes_again_is_not() -> None:
    story = Story().change(4096, b"a" * 10, time_us=US + 7).change(4100, b"b", time_us=US + 7)
    assert story.facts()[0].last is None


def test_zeroes_are_looked_for_and_trims_are_not() -> None:
    assert Story().change(0, b"", ZERO, length=8192).facts()[0].last == Piece(
        0, 4096, crc32.iscsi(bytes(4096))
    )
    assert Story().change(0, b"", TRIM, length=8192).facts()[0].last is None


def test_the_end_of_the_journal_is_its_last_record_of_any_kind() -> None:
    assert Story().facts()[0].end_ns == US * 1000
    assert Story().marker(markers.MakeCut("c", "", [1])).facts()[0].end_ns == (US + 9) * 1000


def test_the_earliest_record_shows_a_clock_that_was_set_back() -> None:
    story = Story().change(0, b"x").change(0, b"x", time_us=US - 7).change(0, b"x")
    assert story.facts()[0].least_ns == (US - 7) * 1000


# ------------------------------------------------------------------------------------ who is who


def test_images_are_known_by_their_role_unless_the_volume_was_removed() -> None:
    story = Story()
    assert known(story.ledger, "ours", 100).images == {
        "p": ("data", "primary"),
        "s": ("data", "secondary"),
    }
    story.ledger.apply(Place(101, US), markers.Remove(1))
    assert known(story.ledger, "ours", 100).images == {}


def test_blocks_that_earlier_batches_wrote_whole_are_known() -> None:
    block = bytes(range(256)) * 16
    story = Story().change(4096, bytes(4096) + block).change(0, block).change(0, b"in part")
    story.change(40 << 20, block, time_us=US + 7)
    assert story.facts()[0].before_last == {8192: crc32.iscsi(block)}
