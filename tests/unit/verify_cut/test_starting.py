"""Beside a starting daemon: a recovery that is half-way through its replay refutes nothing."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import ProofLimits
from duplexd.verify_cut import past
from duplexd.verify_cut.report import CONFIRMED, REFUTED, UNCHECKED
from tests.unit.verify_cut import world as world_module
from tests.unit.verify_cut.test_beside_a_daemon import before_read
from tests.unit.verify_cut.world import (
    BLOCK,
    CUT,
    LIMITS,
    NO_WAIT,
    SIZE,
    World,
    fill,
    only,
    poke,
    remembered,
)

if TYPE_CHECKING:
    from pathlib import Path

STARTING, SERVING = "17\n", "17\nserving\n"
verify = partial(world_module.verify, limits=NO_WAIT)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two changes of one place before the cut; the checkpoint is older than both, so a start
    applies both again.
    """
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(9, SIZE))
    world.write(20 * BLOCK, fill(3))
    world.save_checkpoint()
    world.write(BLOCK, fill(1))
    world.write(BLOCK, fill(2))
    world.cut()
    world.lock(SERVING)
    return world


@pytest.mark.parametrize("leg", ["a", "b"])
def test_a_change_that_is_half_way_applied_again_refutes_nothing(
    tmp_path: Path, world: World, leg: str
) -> None:
    poke(world.image(leg), BLOCK, fill(1))
    assert verify(tmp_path, world).outcome == REFUTED, (
        "nobody is starting, so it is a contradiction"
    )
    for text in (STARTING, ""):
        world.lock(text)
        report = verify(tmp_path, world)
        (row,) = only(report).volumes
        assert report.outcome == (UNCHECKED if leg == "b" else CONFIRMED), "the primary is not read"
        assert (only(report).contradictions, row.undecided_bytes, row.by_primary_bytes) == (
            [],
            BLOCK if leg == "b" else 0,
            0,
        )
        assert "try again when it serves" in row.unchecked[0]
    world.lock(SERVING)
    poke(world.image(leg), BLOCK, fill(2))
    assert verify(tmp_path, world).outcome == CONFIRMED


def test_what_a_start_will_not_overwrite_refutes_a_cut_during_a_start(
    tmp_path: Path, world: World
) -> None:
    world.lock(STARTING)
    poke(world.secondary, BLOCK, fill(1))
    poke(world.secondary, 20 * BLOCK, b"x")  # the checkpoint has that
    report = verify(tmp_path, world)
    assert (report.outcome, len(only(report).contradictions), len(only(report).undecided)) == (
        REFUTED,
        1,
        1,
    )
    assert f"byte {20 * BLOCK} " in only(report).contradictions[0]


def test_a_cut_older_than_the_checkpoint_is_checked_during_a_start(
    tmp_path: Path, world: World
) -> None:
    world.save_checkpoint()
    world.lock(STARTING)
    assert verify(tmp_path, world).complete
    poke(world.secondary, BLOCK, fill(1))
    assert verify(tmp_path, world).outcome == REFUTED


@pytest.mark.parametrize("name", ["stood", "ready"])
def test_no_start_writes_to_a_secondary_that_reached_the_cut_durably(
    tmp_path: Path, world: World, name: str
) -> None:
    world.mark({"m": name, "cut": "f" * 16})
    world.lock(STARTING)
    poke(world.primary, BLOCK, fill(1))
    poke(world.secondary, BLOCK, fill(1))
    assert verify(tmp_path, world).outcome == UNCHECKED, "another cut's"
    world.mark({"m": name, "cut": CUT})
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).undecided) == (REFUTED, [])
    poke(world.secondary, BLOCK, fill(2))
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].by_primary_bytes) == (CONFIRMED, 0), (
        "the primary is being written to, and not read"
    )


def test_a_start_brings_a_secondary_behind_the_checkpoint_to_the_cut(
    tmp_path: Path, world: World
) -> None:
    ledger = remembered()
    ledger["pairs"][0]["applied"] = 2
    world.save_checkpoint(ledger=ledger)
    poke(world.secondary, BLOCK, fill(9))
    world.lock(STARTING)
    assert verify(tmp_path, world).outcome == UNCHECKED
    world.lock(SERVING)
    assert verify(tmp_path, world).outcome == REFUTED


def test_no_daemon_writes_to_a_copy_of_the_secondary(tmp_path: Path, world: World) -> None:
    backup = tmp_path / "backup.img"
    backup.write_bytes(world.secondary.read_bytes())
    poke(backup, BLOCK, fill(1))
    world.lock(STARTING)
    report = verify(tmp_path, world, images={("alpha", "data"): str(backup)})
    assert (report.outcome, only(report).undecided) == (REFUTED, [])


def test_after_an_unclean_stop_the_next_daemon_has_yet_to_recover(
    tmp_path: Path, world: World
) -> None:
    world.kill()
    poke(world.secondary, BLOCK, fill(1))
    assert verify(tmp_path, world).outcome == UNCHECKED, "the lock still says that it serves"
    world.mark({"m": "close"})
    assert verify(tmp_path, world).outcome == REFUTED


def test_a_start_during_a_check_repeats_the_check(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, moments = world.secondary.read_bytes(), [world.lock, world.lock]

    def happens() -> None:
        if moments:
            moments.pop()(f"{18 + len(moments)}\nserving\n")
            poke(
                world.secondary,
                0,
                right if not moments else right[:BLOCK] + fill(1) + right[2 * BLOCK :],
            )

    before_read(monkeypatch, world.secondary, happens, times=100)
    assert (verify(tmp_path, world).outcome, moments) == (CONFIRMED, [])


def test_a_daemon_that_starts_again_and_again_leaves_it_undecided(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = [0]

    def start() -> None:
        starts[0] += 1
        world.lock(f"{starts[0]}\nserving\n")

    before_read(monkeypatch, world.secondary, start, times=1000)
    assert verify(tmp_path, world).outcome == CONFIRMED, "what agrees, agrees in spite of it"
    assert starts[0] > LIMITS.tries
    poke(world.secondary, BLOCK, fill(1))
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).contradictions, len(only(report).undecided)) == (
        UNCHECKED,
        [],
        1,
    )


def test_a_daemon_that_is_starting_is_waited_for(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.lock(STARTING)
    poke(world.secondary, BLOCK, fill(1))
    looked = threading.Event()
    whole = past.latest_start

    def look(directory: Path) -> past.Start:
        looked.set()
        return whole(directory)

    monkeypatch.setattr(past, "latest_start", look)

    def recover() -> None:
        looked.wait(60.0)
        poke(world.secondary, BLOCK, fill(2))
        world.lock(SERVING)

    thread = threading.Thread(target=recover)
    thread.start()
    report = world_module.verify(tmp_path, world, limits=ProofLimits(start_seconds_max=60.0))
    thread.join()
    assert report.complete


def test_a_lock_that_cannot_be_read_is_reported(tmp_path: Path, world: World) -> None:
    (world.state_dir / "lock").unlink()
    (world.state_dir / "lock").mkdir()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).unchecked) == (
        UNCHECKED,
        [f"{world.state_dir}/lock: Is a directory"],
    )
