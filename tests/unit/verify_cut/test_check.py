"""A cut whose journal and images are as its certificate says; and each way in which they can be
otherwise.
"""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from duplexd.journal.format import SEGMENT_HEADER_BYTES, crc32c, pack_record, unpack_record
from duplexd.limits import ProofLimits
from duplexd.verify_cut import document
from duplexd.verify_cut.check import check
from duplexd.verify_cut.image import Image
from duplexd.verify_cut.report import (
    CONFIRMED,
    CONTRADICTED,
    DROPPED,
    FOUND,
    RECORDED,
    REFUTED,
    UNCHECKED,
)
from tests.unit.verify_cut.world import (
    BLOCK,
    CUT,
    SIZE,
    World,
    certificate,
    fill,
    flip,
    only,
    poke,
    remembered,
    save,
    verify,
)

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"m": "void", "cut": CUT}


def test_a_cut_as_certified_is_confirmed(tmp_path: Path, world: World) -> None:
    report = verify(tmp_path, world)
    member, (row,) = only(report), only(report).volumes
    assert (report.outcome, member.record, member.contradictions, row.unchecked_bytes) == (
        CONFIRMED,
        FOUND,
        [],
        BLOCK,
    )
    assert row.by_journal_bytes == 4 * BLOCK
    assert row.by_primary_bytes == SIZE - 2 * BLOCK
    assert row.checked_bytes == SIZE - BLOCK, (
        "block 0 is known from the journal, block 50 from nothing"
    )
    assert row.stands
    assert "changed since" in row.unchecked[0]
    assert not report.complete


def test_without_later_changes_every_byte_is_checked(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(0, fill(1))
    world.cut()
    report = verify(tmp_path, world)
    assert (report.outcome, report.complete, only(report).volumes[0].unchecked) == (
        CONFIRMED,
        True,
        [],
    )


@pytest.mark.parametrize(
    "place",
    [
        0,
        BLOCK - 1,
        2 * BLOCK + 100,
        2 * BLOCK + 300,
        3 * BLOCK + 5,
        8 * BLOCK,
        40 * BLOCK,
        41 * BLOCK,
        SIZE - 1,
    ],
)
def test_a_byte_that_changed_on_the_secondary_is_found(
    tmp_path: Path, world: World, place: int
) -> None:
    flip(world.secondary, place)
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void, only(report).record) == (REFUTED, False, FOUND)
    assert f"{world.secondary}: byte {place} " in only(report).contradictions[0]


def test_a_change_from_after_the_cut_on_the_secondary_is_found_where_the_journal_has_older_ones(
    tmp_path: Path, world: World
) -> None:
    poke(world.secondary, 0, fill(5))
    assert "record 2 wrote other content" in only(verify(tmp_path, world)).contradictions[0]


def test_a_change_from_after_the_cut_on_a_secondary_that_was_blank_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.attach()
    world.cut()
    world.write(7 * BLOCK, fill(5))
    assert verify(tmp_path, world).complete, "what was never written is known to be zero"
    poke(world.secondary, 7 * BLOCK, fill(5))
    assert "nothing was ever written there" in only(verify(tmp_path, world)).contradictions[0]


def test_a_change_that_went_to_the_secondary_only_is_found(tmp_path: Path, world: World) -> None:
    poke(world.secondary, 100 * BLOCK, fill(6))
    assert "the primary holds other content" in only(verify(tmp_path, world)).contradictions[0]


def test_all_places_that_differ_are_listed_and_the_rest_is_checked(
    tmp_path: Path, world: World
) -> None:
    poke(world.secondary, BLOCK + 10, bytes([255]) * 90)  # by the journal
    poke(world.secondary, 3 * BLOCK + 7, b"\1")
    # by the primary; over a range that was trimmed
    poke(world.secondary, 7 * BLOCK + 100, b"\1" * 2 * BLOCK)
    report = verify(tmp_path, world)
    (row,) = only(report).volumes
    assert [
        text.removeprefix(f"{world.secondary}: ").partition(" from what ")[0]
        for text in only(report).contradictions
    ] == [
        f"bytes {BLOCK + 10} to {BLOCK + 99} differ",
        f"byte {3 * BLOCK + 7} differs",
        f"bytes {7 * BLOCK + 100} to {9 * BLOCK + 99} differ",
    ]
    assert [
        "record 3 wrote" in only(report).contradictions[0],
        "record 5 zeroed it" in only(report).contradictions[1],
    ] == [True, True]
    assert (row.wrong_bytes, row.by_journal_bytes, row.unchecked_bytes) == (
        91 + 2 * BLOCK,
        4 * BLOCK - 91,
        BLOCK,
    )
    assert row.checked_bytes == SIZE - BLOCK - row.wrong_bytes


def test_of_many_places_that_differ_the_first_are_listed_and_the_rest_is_counted(
    tmp_path: Path, world: World
) -> None:
    for number in range(100):
        flip(world.secondary, (100 + number) * BLOCK)
    limits = ProofLimits(places_max=5)
    contradictions = only(verify(tmp_path, world, limits=limits)).contradictions
    assert len(contradictions) == 6
    for number in range(5):
        assert f"byte {(100 + number) * BLOCK} " in contradictions[number]
    assert contradictions[-1] == f"{world.secondary}: 95 more places differ; 100 bytes in all"


def test_a_volume_that_differs_everywhere_is_one_place(tmp_path: Path, world: World) -> None:
    poke(world.secondary, 60 * BLOCK, fill(1, SIZE - 60 * BLOCK))
    limits = ProofLimits(chunk_bytes=3 * BLOCK)
    (text,) = only(verify(tmp_path, world, limits=limits)).contradictions
    assert f"bytes {60 * BLOCK} to {SIZE - 1} differ from what they were at the cut" in text


def test_the_check_of_a_volume_stops_after_too_many_places_that_differ(
    tmp_path: Path, world: World
) -> None:
    for number in range(SIZE // BLOCK):
        flip(world.secondary, number * BLOCK)
    limits = ProofLimits(ranges_max=20, chunk_bytes=8 * BLOCK)
    report = verify(tmp_path, world, limits=limits)
    (row,) = only(report).volumes
    assert report.outcome == REFUTED
    assert 20 < row.wrong_bytes < 40
    assert row.unchecked == ["this volume differs in so many places that its check stopped"]
    assert row.checked_bytes < SIZE // 2


def test_differences_count_where_the_rest_of_the_secondary_cannot_be_read(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Image.read

    def read(image: Image, start: int, end: int) -> bytes:
        if image.path == str(world.secondary) and start < BLOCK:
            raise OSError(errno.EIO, "Input/output error", image.path)
        return whole(image, start, end)

    monkeypatch.setattr(Image, "read", read)
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].unchecked) == (
        RECORDED,
        [f"{world.secondary}: Input/output error"],
    )
    flip(world.secondary, 2 * BLOCK + 100)
    assert verify(tmp_path, world).outcome == REFUTED


def test_a_secondary_of_another_size(tmp_path: Path, world: World) -> None:
    with world.secondary.open("r+b") as file:
        file.truncate(SIZE - BLOCK)
    assert f"has {SIZE - BLOCK} bytes" in only(verify(tmp_path, world)).contradictions[0]


# The journal


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_byte_that_changed_in_the_journal_is_found_before_and_after_the_cut(
    tmp_path: Path, world: World, part: float
) -> None:
    segment = world.ring.live[0]
    end = segment.end
    world.writer.synced = world.writer.sequence
    world.write(0, fill(6))
    flip(tmp_path / segment.file.path, 4096 + int((end - 4096) * part))
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).record) == (REFUTED, CONTRADICTED)
    assert "missing or damaged" in only(report).contradictions[0]


def test_a_record_that_was_put_in_the_place_of_another_breaks_the_chain(
    tmp_path: Path, world: World
) -> None:
    world.writer.synced = world.writer.sequence
    world.write(0, fill(6))  # claims that all before it is durable
    path = tmp_path / world.ring.live[0].file.path
    data = path.read_bytes()
    first = unpack_record(data, SEGMENT_HEADER_BYTES)
    assert first is not None
    old = unpack_record(data, first.end)
    assert old is not None
    payload = fill(8)
    header, _ = pack_record(
        old.chain,
        crc32c(payload),
        old.sequence,
        old.synced,
        old.offset,
        old.length,
        old.time_us,
        old.volume,
        len(payload),
        old.kind,
        old.flags,
        old.journal,
    )
    poke(path, old.start, header + payload)
    for leg in (world.primary, world.secondary):
        poke(leg, old.offset, payload)  # all else would agree
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0]


def test_a_lost_end_that_was_known_to_be_durable_is_found(tmp_path: Path, world: World) -> None:
    world.save_checkpoint()
    flip(tmp_path / world.ring.live[0].file.path, world.ring.live[0].end - 1)
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0]


def test_a_journal_that_ends_before_the_cut(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut()
    flip(tmp_path / world.ring.live[0].file.path, world.ring.live[0].end - 1)
    assert "ends at record 1, before the cut (2)" in only(verify(tmp_path, world)).contradictions[0]


def test_a_claim_that_all_is_synced_changes_no_volume(tmp_path: Path, world: World) -> None:
    world.writer.synced = world.writer.sequence
    world.mark({"m": "synced"})
    assert verify(tmp_path, world).outcome == CONFIRMED
    flip(tmp_path / world.ring.live[0].file.path, world.ring.live[0].end - 100)
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0]


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.kill()
    world.cut()
    torn = world.ring.live[0].end
    world.write(0, fill(1))
    world.write(0, fill(2))
    flip(tmp_path / world.ring.live[0].file.path, torn + 200)
    assert verify(tmp_path, world).outcome == RECORDED
    world.writer.synced = world.writer.sequence
    world.write(0, fill(3))
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0], (
        "a later record says that it was durable"
    )


def test_a_segment_that_is_missing_in_between(tmp_path: Path, world: World) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    (tmp_path / world.ring.live[1].file.path).unlink()
    assert (
        "segment 2, with the records after number"
        in only(verify(tmp_path, world)).contradictions[0]
    )


def test_a_damaged_segment_header(tmp_path: Path, world: World) -> None:
    flip(tmp_path / world.ring.live[0].file.path, 20)
    assert "header is damaged" in only(verify(tmp_path, world)).contradictions[0]


@pytest.mark.parametrize("damage", ["header", "record", "all"])
def test_a_cut_that_the_checkpoint_knows_to_be_void_is_void_where_the_journal_is_damaged(
    tmp_path: Path, damage: str
) -> None:
    world = World(tmp_path)
    world.cut(["alpha", "beta"])
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    world.save_checkpoint(ledger=remembered(VOID))
    path = tmp_path / world.ring.live[0].file.path
    if damage == "all":
        poke(path, 0, b"x" * SEGMENT_HEADER_BYTES * 2)
    else:
        flip(path, 20 if damage == "header" else SEGMENT_HEADER_BYTES + 100)
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void, only(report).record) == (REFUTED, True, CONTRADICTED)
    assert only(report).contradictions, "the damage is reported, too"


def test_the_checkpoint_of_another_controller_makes_nothing_void(
    tmp_path: Path, world: World
) -> None:
    world.save_checkpoint(ledger={**remembered(VOID), "controller": "ab" * 16})
    assert verify(tmp_path, world).outcome == CONFIRMED


def test_a_journal_that_dropped_the_cut_is_no_evidence(tmp_path: Path, world: World) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    world.drop_oldest()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).record, only(report).volumes) == (UNCHECKED, DROPPED, [])
    assert "was dropped" in only(report).unchecked[0]


def test_a_cut_in_the_middle_of_many_segments(tmp_path: Path) -> None:
    world = World(tmp_path, segments=20)
    for number in range(200):
        world.write(number % 60 * BLOCK, fill(number))
        if number == 100:
            world.cut()
    world.drop_oldest()
    world.save_checkpoint()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].unchecked_bytes) == (CONFIRMED, 0)
    flip(world.secondary, 59 * BLOCK)
    assert verify(tmp_path, world).outcome == REFUTED


def test_without_primaries_only_what_the_journal_has_is_read(tmp_path: Path, world: World) -> None:
    good = document.read(save(tmp_path, certificate(world.member())))
    row = only(check(good, {}, {}, primaries=False)).volumes[0]
    assert (row.by_primary_bytes, row.by_journal_bytes > 0) == (0, True)
    assert "by the journal alone" in row.unchecked[0]
    flip(world.secondary, 0)
    assert check(good, {}, {}, primaries=False).outcome == REFUTED


def test_the_journal_of_another_controller(tmp_path: Path, world: World) -> None:
    other = World(tmp_path, "beta")
    other.cut()
    good = document.read(save(tmp_path, certificate(world.member())))
    report = check(good, {"alpha": str(other.state_dir)}, {})
    assert (report.outcome, "journal of another controller" in only(report).contradictions[0]) == (
        REFUTED,
        True,
    )
    member = world.member()
    # as of two machines on which they have the same path
    member["journal"] |= {"directory": str(other.state_dir)}
    report = verify(tmp_path, world, controllers=[member])
    assert (report.outcome, "with --state-dir" in only(report).unchecked[0]) == (
        UNCHECKED,
        True,
    )


def test_with_a_journal_from_elsewhere_the_certificates_paths_are_not_used(
    tmp_path: Path, world: World
) -> None:
    good, moved, backup = (
        document.read(save(tmp_path, certificate(world.member()))),
        tmp_path / "moved",
        tmp_path / "backup.img",
    )
    shutil.move(world.state_dir, moved)
    shutil.copyfile(world.secondary, backup)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(77, SIZE))  # another controller's
    report = check(good, {"alpha": str(moved)}, {})
    row = only(report).volumes[0]
    assert (report.outcome, row.checked_bytes, "--image" in row.unchecked[0]) == (
        RECORDED,
        0,
        True,
    )
    images = {("alpha", "data"): str(backup)}
    report = check(good, {"alpha": str(moved)}, images)
    assert (report.outcome, only(report).volumes[0].checked_bytes) == (CONFIRMED, 4 * BLOCK)
    flip(backup, 0)
    assert check(good, {"alpha": str(moved)}, images).outcome == REFUTED


@pytest.mark.parametrize("field", ["crc", "chain"])
def test_another_check_sum_than_the_certificate_has(
    tmp_path: Path, world: World, field: str
) -> None:
    member = world.member()
    member["journal"][field] ^= 1
    assert "check-sum" in only(verify(tmp_path, world, controllers=[member])).contradictions[0]


def test_another_record_than_the_cut(tmp_path: Path, world: World) -> None:
    assert "does not make cut" in only(verify(tmp_path, world, cut="f" * 16)).contradictions[0]
    moved = world.member(sequence=world.sequence - 1)
    assert only(verify(tmp_path, world, controllers=[moved])).record == CONTRADICTED


def test_a_volume_that_the_cut_does_not_have(tmp_path: Path, world: World) -> None:
    member = world.member()
    member["volumes"].append(member["volumes"][0] | {"id": 2, "name": "wal"})
    assert (
        "does not cut wal" in only(verify(tmp_path, world, controllers=[member])).contradictions[0]
    )


def grown(world: World, size: int) -> None:
    for leg in ("a", "b"):
        with world.image(leg).open("r+b") as file:
            file.truncate(size)


@pytest.mark.parametrize("in_journal", [True, False], ids=["journal", "checkpoint"])
def test_a_cut_of_a_volume_that_has_grown_since_is_checked_at_the_size_it_had(
    tmp_path: Path, world: World, in_journal: bool
) -> None:
    grown(world, 2 * SIZE)
    if in_journal:
        world.mark({"m": "grow", "volumes": {"1": 2 * SIZE}, "done": False})
        world.mark({"m": "grow", "volumes": {"1": 2 * SIZE}, "done": True})
    else:
        ledger = remembered({"m": "grow", "volumes": {"1": 2 * SIZE}, "done": True})
        world.save_checkpoint(ledger=ledger)
    world.write(2 * SIZE - BLOCK, fill(9))
    report = verify(tmp_path, world)
    (row,) = only(report).volumes
    assert (report.outcome, row.size) == (CONFIRMED, SIZE)
    assert row.by_primary_bytes == SIZE - 2 * BLOCK
    flip(world.secondary, 3 * BLOCK)
    assert verify(tmp_path, world).outcome == REFUTED


def test_an_image_that_became_longer_without_a_word_in_the_journal_is_not_the_cut(
    tmp_path: Path, world: World
) -> None:
    grown(world, 2 * SIZE)
    world.mark({"m": "grow", "volumes": {"1": 2 * SIZE}, "done": False})
    report = verify(tmp_path, world)
    assert "has" in str(only(report).contradictions)
    assert report.outcome == REFUTED
