"""Fifty group suspends under dependent writers are consistent, each; the naive split, checked in the same way, is not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.units import MIB

VOLUMES = 16
PLACEMENT = Placement(writers=8, volumes=VOLUMES, slots=4)
CUTS = 50
NAIVE_CUTS = 5


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    daemon = DaemonProcess(tmp_path / "d", [f"v{number:02}" for number in range(VOLUMES)], 4 * MIB, 64 * MIB)
    try:
        await daemon.start()
        async with Scene(daemon, PLACEMENT) as scene:
            yield scene
    finally:
        await daemon.stop()


async def test_every_group_suspend_under_dependent_writers_is_sequence_consistent(scene: Scene) -> None:
    records_cut = set()
    for number in range(CUTS):
        await scene.write_for(0.1)
        before = scene.workload.history.acknowledged
        cut = await scene.cut_group(f"cut {number}")
        assert cut.findings.consistent, (number, cut.findings)
        assert cut.verdict == "consistent"
        assert cut.findings.records == PLACEMENT.writers * PLACEMENT.period or number == 0
        await scene.write_for(0.05)
        assert scene.workload.history.acknowledged > before, "the writers stand still while the group is suspended"
        records_cut.add(before)
        await scene.resync()
    assert len(records_cut) == CUTS, "the cuts are all of one moment"


async def test_suspended_secondaries_stand_still_while_the_writers_go_on(scene: Scene) -> None:
    await scene.write_for(0.2)
    await scene.cut_group()
    before = scene.read_secondaries()
    await scene.write_for(0.3)
    assert scene.read_secondaries() == before


async def test_naive_split_under_the_same_writers_breaks_dependencies(scene: Scene) -> None:
    broken = 0
    for number in range(NAIVE_CUTS):
        await scene.write_for(0.1)
        cut = await scene.cut_one_by_one(f"naive {number}")
        assert cut.findings.torn == 0
        broken += cut.findings.broken
        await scene.resync()
    assert broken > 0
