"""What a controller has said of a cut is so after a crash, too, and its secondaries are left as they were."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.core import cut_states as votes
from tests.unit.engine.cores import Core, new_disk, run, running, settings

TWO = {"data": "sync", "wal": "sync"}
CUT = "00000000000000aa"
WRITES = {"write", "writev", "zero"}


async def crash(core: Core, power: bool) -> None:
    """The daemon dies as it stands."""
    core.disk.crash(power=power)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_verdict_that_was_told_as_void_survives_a_power_cut(seed: int) -> None:
    disk = new_disk()
    disk.rng.seed(seed)  # what a power cut takes back

    async def suspended() -> str:
        core = Core(disk, settings(TWO))
        await core.controller.start()
        leg = core.secondary("wal")
        await core.write("wal", 0, b"x")
        leg.fail("sync")
        result = await core.controller.suspend(list(TWO))
        assert result["verdict"] == "void"
        await crash(core, power=True)
        return str(result["cut"])

    async def again(cut: str) -> None:
        async with running(TWO, disk=disk) as core:
            assert core.controller.cuts.show(cut)["verdict"] == "void"

    run(again(run(suspended())))


def test_secondaries_that_were_promised_are_not_written_to_by_a_restart() -> None:
    """A backup may be reading them: to replay what they have would take them back for a moment."""
    disk = new_disk()

    async def ready() -> None:
        core = Core(disk, settings(TWO))
        await core.controller.start()
        await core.write("data", 0, b"first")
        await core.write("data", 0, b"second")
        lease = await core.controller.quiesce(list(TWO), 2.0, "me", CUT)
        await core.controller.cuts.make(CUT, lease.id, lease.fence, "", "db", ["alpha", "beta"])
        assert (await core.controller.cuts.open(CUT, lease.id, lease.fence))["state"] == votes.READY
        await core.write("data", 0, b"later")
        await crash(core, power=False)

    async def again() -> list[str]:
        written: list[str] = []
        disk.before = lambda operation, path: (
            written.append(path) if path.startswith("/b/") and operation in WRITES else None
        )
        async with running(TWO, disk=disk) as core:
            assert core.controller.cuts.show(CUT)["state"] == votes.READY
            assert core.image("data", "b")[:6] == b"second"
            assert core.image("data", "a")[:6] == b"laterd"
        return written

    run(ready())
    assert run(again()) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_nor_are_those_that_one_controller_has_suspended(mode: str) -> None:
    disk, volumes = new_disk(), {"data": mode}

    async def suspended() -> None:
        core = Core(disk, settings(volumes))
        await core.controller.start()
        await core.write("data", 0, b"first")
        await core.write("data", 0, b"second")
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
        await core.write("data", 0, b"later")
        await crash(core, power=False)

    async def again() -> list[str]:
        written: list[str] = []
        disk.before = lambda operation, path: (
            written.append(path) if path.startswith("/b/") and operation in WRITES else None
        )
        async with running(volumes, disk=disk) as core:
            assert core.image("data", "b")[:6] == b"second"
        return written

    run(suspended())
    assert run(again()) == []
