"""Group suspends under dependent writers are all consistent; a naive split, checked in the same
way, is not.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.units import MIB

VOLUMES = 16
PLACEMENT = Placement(writers=8, volumes=VOLUMES, slots=4)
RECORDS = 200  # between two commands, at least
NAIVE_CUTS = 5
NAIVE_CUTS_MAX = 100


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    daemon = DaemonProcess(
        tmp_path / "d", [f"v{number:02}" for number in range(VOLUMES)], 4 * MIB, 64 * MIB
    )
    try:
        await daemon.start()
        async with Scene(daemon, PLACEMENT) as scene:
            yield scene
    finally:
        await daemon.stop()


async def write(scene: Scene, records: int = RECORDS) -> None:
    """Return when that many more records are acknowledged."""
    wanted = scene.workload.history.acknowledged + records
    while scene.workload.history.acknowledged < wanted:
        scene.workload.check()
        await asyncio.sleep(0.002)


async def go_round(scene: Scene) -> None:
    """Return when every slot holds a record."""
    history = scene.workload.history
    while any(
        history.acknowledged_before(writer, history.tick()) < PLACEMENT.period
        for writer in range(PLACEMENT.writers)
    ):
        scene.workload.check()
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("cuts", [20, pytest.param(200, marks=pytest.mark.long)])
async def test_every_group_suspend_under_dependent_writers_is_sequence_consistent(
    scene: Scene, cuts: int
) -> None:
    records_cut = set()
    for number in range(cuts):
        await write(scene)
        before = scene.workload.history.acknowledged
        cut = await scene.cut_group(f"cut {number}")
        assert cut.findings.consistent, (number, cut.findings)
        assert cut.verdict == "consistent"
        assert cut.findings.records == PLACEMENT.writers * PLACEMENT.period or number == 0
        await write(scene)  # they go on while the group is suspended
        await go_round(scene)
        records_cut.add(before)
        await scene.resync()
    assert len(records_cut) == cuts, "the cuts are all of one moment"


async def test_suspended_secondaries_do_not_change_while_the_writers_continue(scene: Scene) -> None:
    await go_round(scene)
    await scene.cut_group()
    before = scene.read_secondaries()
    await write(scene, 2 * PLACEMENT.writers * PLACEMENT.period)
    assert scene.read_secondaries() == before


async def test_a_naive_split_under_the_same_writers_breaks_dependencies(scene: Scene) -> None:
    broken = number = 0
    while number < NAIVE_CUTS or not broken:
        number += 1
        assert number <= NAIVE_CUTS_MAX, "it breaks none"
        await write(scene)
        cut = await scene.cut_one_by_one(f"naive {number}")
        assert cut.findings.torn == 0
        broken += cut.findings.broken
        await scene.resync()
