"""What cannot be checked is reported as unchecked, never as right or wrong."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from duplexd.verify_cut.report import CONFIRMED, RECORDED, REFUTED
from tests.unit.verify_cut.world import BLOCK, SIZE, World, fill, flip, only, poke, verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "marker",
    [
        {"m": "resync", "job": "j", "how": "journal", "volumes": [1]},
        {"m": "detach", "volumes": [1]},
        {"m": "remove", "id": 1},
    ],
)
def test_a_secondary_that_was_written_to_since_is_not_checked(
    tmp_path: Path, world: World, marker: dict[str, object]
) -> None:
    world.mark(marker)
    poke(world.secondary, 0, fill(5))
    report = verify(tmp_path, world)
    row = only(report).volumes[0]
    assert (report.outcome, row.stands, row.checked_bytes, len(row.unchecked)) == (
        RECORDED,
        False,
        0,
        1,
    )
    assert not report.complete


def test_a_resync_by_map_does_not_write_to_the_secondary_before_its_commit(
    tmp_path: Path, world: World
) -> None:
    world.mark({"m": "resync", "job": "j", "how": "map", "volumes": [1]})
    assert only(verify(tmp_path, world)).volumes[0].stands
    world.mark({"m": "abandon", "job": "j", "volumes": [1]})
    assert only(verify(tmp_path, world)).volumes[0].stands
    world.mark({"m": "resync", "job": "j", "how": "map", "volumes": [1]})
    world.mark({"m": "commit", "job": "j", "at": 3, "count": 1, "volumes": [1]})
    assert not only(verify(tmp_path, world)).volumes[0].stands


def test_a_copy_of_the_secondary_can_be_checked_after_a_resync(
    tmp_path: Path, world: World
) -> None:
    backup = tmp_path / "backup.img"
    shutil.copyfile(world.secondary, backup)
    world.mark({"m": "resync", "job": "j", "how": "journal", "volumes": [1]})
    poke(world.secondary, 0, fill(5))
    images = {("alpha", "data"): str(backup)}
    assert only(verify(tmp_path, world, images=images)).volumes[0].unchecked_bytes == BLOCK
    flip(backup, 40 * BLOCK)
    assert verify(tmp_path, world, images=images).outcome == REFUTED


def test_images_that_cannot_be_opened_are_unchecked(tmp_path: Path, world: World) -> None:
    world.primary.unlink()
    row = only(verify(tmp_path, world)).volumes[0]
    assert (row.checked_bytes, "the primary cannot be read" in row.unchecked[0]) == (
        4 * BLOCK,
        True,
    )
    world.secondary.unlink()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].checked_bytes) == (RECORDED, 0)
    assert "the secondary cannot be read" in only(report).volumes[0].unchecked[0]


def test_a_primary_that_is_the_secondary_is_no_evidence(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut()
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == SIZE
    row = only(verify(tmp_path, world, images={("alpha", "data"): str(world.primary)})).volumes[0]
    assert (row.checked_bytes, "the same image" in row.unchecked[0]) == (0, True)


def test_after_a_power_cut_only_the_journal_is_evidence(tmp_path: Path, world: World) -> None:
    flip(world.primary, 40 * BLOCK)  # a change that the journal lost
    world.mark({"m": "missed", "volumes": {"1": ""}})
    report = verify(tmp_path, world)
    assert (
        report.outcome,
        only(report).volumes[0].by_primary_bytes,
        only(report).volumes[0].checked_bytes,
    ) == (CONFIRMED, 0, 4 * BLOCK)


def test_after_an_unclean_stop_the_primaries_are_no_evidence(tmp_path: Path) -> None:
    """A disk may have lost un-synced writes, with or without a boot of the machine."""
    world = World(tmp_path)
    world.kill()
    world.write(0, fill(1))
    world.cut()
    flip(world.primary, 40 * BLOCK)
    assert only(verify(tmp_path, world)).volumes[0].checked_bytes == BLOCK
    world.mark({"m": "close"})
    assert verify(tmp_path, world).outcome == REFUTED, (
        "clean shutdown: the primary is as the journal says"
    )


def test_the_checkpoint_says_how_the_daemon_ended_if_the_journal_dropped_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    for number in range(40):
        world.write(number * BLOCK, fill(1))
    world.drop_oldest()
    world.cut()
    world.kill()
    world.save_checkpoint(closed=False)
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == 0
    world.save_checkpoint(closed=True)
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == SIZE


@pytest.mark.parametrize(
    "marker",
    [
        {"m": "copy", "volumes": {"1": ""}, "reason": "unclean stop"},
        {"m": "copy", "volumes": {"1": ""}, "reason": "power cut"},
        {"m": "missed", "volumes": {"1": ""}},
    ],
)
def test_records_from_before_an_unclean_stop_are_no_evidence(
    tmp_path: Path, marker: dict[str, object]
) -> None:
    world = World(tmp_path)
    world.write(0, fill(1))
    world.mark(marker)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(2))  # a change that the journal lost, and a copy took over
    world.write(BLOCK, fill(3))
    world.cut()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].by_journal_bytes) == (CONFIRMED, BLOCK)


@pytest.mark.parametrize(("changed", "outcome"), [(7, RECORDED), (4, CONFIRMED), (0, CONFIRMED)])
def test_a_little_of_the_data_confirms_nothing(tmp_path: Path, changed: int, outcome: str) -> None:
    """What the journal has dropped is known from the primary alone, until that is written to."""
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(1, 8 * BLOCK))
    world.cut()
    for block in range(changed):
        world.write(block * BLOCK, fill(2))
    report = verify(tmp_path, world)
    row = only(report).volumes[0]
    checked = (8 - changed) * BLOCK
    assert (row.data_bytes, row.checked_data_bytes) == (8 * BLOCK, checked)
    assert row.checked_bytes == SIZE - changed * BLOCK, "the rest is a hole of both"
    assert report.outcome == outcome


def test_one_volume_that_left_the_cut_keeps_the_others_from_being_confirmed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, volumes=("data", "wal"))
    for volume in ("data", "wal"):
        world.write(0, fill(1), volume)
    world.cut()
    assert verify(tmp_path, world).outcome == CONFIRMED
    world.mark({"m": "detach", "volumes": [2]})
    assert verify(tmp_path, world).outcome == RECORDED
