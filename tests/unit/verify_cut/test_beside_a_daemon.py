"""What a daemon does while a cut is checked, and limits, neither cause nor hide contradictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.limits import ProofLimits
from duplexd.verify_cut.image import Image
from duplexd.verify_cut.report import CONFIRMED, DROPPED, RECORDED, REFUTED, UNCHECKED
from duplexd.verify_cut.walk import Walk
from tests.unit.verify_cut.world import BLOCK, LIMITS, SIZE, World, fill, flip, only, poke, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def before_read(
    monkeypatch: pytest.MonkeyPatch, path: Path, happens: Callable[[], object], times: int = 1
) -> list[int]:
    """Let something happen right before an image is read for the first time, or the first times."""
    whole, left = Image.read, [times]

    def read(image: Image, start: int, end: int) -> bytes:
        if image.path == str(path) and left[0]:
            left[0] -= 1
            happens()
        return whole(image, start, end)

    monkeypatch.setattr(Image, "read", read)
    return left


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(9, SIZE))
    world.write(0, fill(1))
    world.cut()
    return world


def test_a_change_that_is_made_while_the_legs_are_compared(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = before_read(monkeypatch, world.primary, lambda: world.write(3 * BLOCK + 1, fill(7)))
    report = verify(tmp_path, world)
    assert (left, report.outcome, only(report).volumes[0].unchecked_bytes) == (
        [0],
        CONFIRMED,
        BLOCK,
    )


def test_a_difference_beside_such_a_change_is_found(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_read(monkeypatch, world.primary, lambda: world.write(3 * BLOCK + 1, fill(7)))
    flip(world.secondary, 3 * BLOCK)
    report = verify(tmp_path, world)
    assert (report.outcome, f"byte {3 * BLOCK} " in only(report).contradictions[0]) == (
        REFUTED,
        True,
    )


@pytest.mark.parametrize("leg", ["a", "b"])
def test_a_resync_that_begins_while_it_is_checked(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, leg: str
) -> None:
    def resync() -> None:
        world.mark({"m": "resync", "job": "j", "how": "journal", "volumes": [1]})
        poke(world.secondary, 0, fill(5, SIZE))

    left = before_read(monkeypatch, world.image(leg), resync)
    report = verify(tmp_path, world)
    row = only(report).volumes[0]
    assert (left, report.outcome, row.stands, row.checked_bytes, row.unchecked) == (
        [0],
        RECORDED,
        False,
        0,
        ["it was resynced since"],
    )


def test_a_cut_that_becomes_void_while_it_is_checked(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = before_read(
        monkeypatch, world.primary, lambda: world.mark({"m": "void", "cut": "0123456789abcdef"})
    )
    assert (verify(tmp_path, world).is_void, left) == (True, [0])


def test_a_segment_that_is_recycled_while_the_journal_is_read(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    left = before_read(monkeypatch, world.secondary, world.drop_oldest)
    report = verify(tmp_path, world)
    assert (left, report.outcome) == ([0], CONFIRMED), (
        "its part of the evidence is gone, the rest still counts"
    )
    assert verify(tmp_path, world).outcome == UNCHECKED


def test_a_segment_that_is_recycled_in_the_middle_of_the_walk(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    whole, left = Walk._next, [1]

    def step(walk: Walk) -> object:
        if left[0] and walk.sequence == 0:
            left[0] -= 1
            world.drop_oldest()
        return whole(walk)

    monkeypatch.setattr(Walk, "_next", step)
    report = verify(tmp_path, world)
    assert (left, report.outcome, only(report).record) == ([0], UNCHECKED, DROPPED)


def test_a_journal_that_is_recycled_faster_than_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, segments=LIMITS.tries + 8)
    world.cut()
    for number in range(15 * (LIMITS.tries + 6)):
        world.write(number % 100 * BLOCK, fill(number % 256))
    whole = Walk._next

    def step(walk: Walk) -> object:
        if walk.sequence == 0:
            world.drop_oldest()
        return whole(walk)

    monkeypatch.setattr(Walk, "_next", step)
    report = verify(tmp_path, world)
    assert (report.outcome, "faster than it can be read" in only(report).unchecked[0]) == (
        UNCHECKED,
        True,
    )


def test_a_record_half_written_at_the_end_is_no_damage(tmp_path: Path, world: World) -> None:
    segment = tmp_path / world.ring.live[0].file.path
    end = world.ring.live[0].end
    world.write(0, fill(2))
    poke(segment, end + 1000, bytes(4000))
    poke(world.primary, 0, fill(1))  # the journal comes first
    assert verify(tmp_path, world).outcome == CONFIRMED


def test_more_ranges_than_the_limit_are_kept_less_exactly(tmp_path: Path) -> None:
    limits = ProofLimits(ranges_max=20)
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(9, SIZE))
    for number in range(60):
        world.write(number * 2 * BLOCK, fill(1, 100))
    world.cut()
    for number in range(60):
        world.write((number * 2 + 100) * BLOCK, fill(2, 100))
    report = verify(tmp_path, world, limits=limits)
    row = only(report).volumes[0]
    assert report.outcome == CONFIRMED
    assert 0 < row.by_journal_bytes < 60 * 100, "older records were left out"
    assert SIZE // 4 < row.checked_bytes < SIZE - 110 * 100, (
        "what lies between changes counts as changed"
    )
    flip(world.secondary, 90 * BLOCK + 200)
    assert verify(tmp_path, world, limits=limits).outcome == REFUTED


def test_an_image_is_compared_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ProofLimits(chunk_bytes=3 * BLOCK)
    world = World(tmp_path)
    world.attach()
    world.zero(0, SIZE)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, bytes(SIZE))  # no hole
    world.cut()
    largest = [0]
    whole = Image.read

    def read(image: Image, start: int, end: int) -> bytes:
        largest[0] = max(largest[0], end - start)
        return whole(image, start, end)

    monkeypatch.setattr(Image, "read", read)
    assert verify(tmp_path, world, limits=limits).complete
    assert largest == [3 * BLOCK]
    flip(world.secondary, SIZE - 1)
    assert verify(tmp_path, world, limits=limits).outcome == REFUTED


def test_a_sparse_terabyte_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tebibyte = 1 << 40
    monkeypatch.setattr("tests.unit.verify_cut.world.SIZE", tebibyte)
    world = World(tmp_path)
    world.attach()
    world.write(tebibyte - BLOCK, fill(1))
    world.cut()
    world.write(tebibyte // 2, fill(2))
    report = verify(tmp_path, world)
    assert (report.complete, only(report).volumes[0].checked_bytes) == (True, tebibyte)
    poke(world.secondary, 3 * (tebibyte // 4), b"\1")
    assert f"byte {3 * (tebibyte // 4)} " in only(verify(tmp_path, world)).contradictions[0]
