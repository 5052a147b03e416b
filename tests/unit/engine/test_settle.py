"""After a cut: its secondaries are durable there before a verdict is given, and a restart neither
changes that verdict nor writes to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk

TWO = {"data": "sync", "wal": "sync"}
BOTH = list(TWO)
DB = {"db": BOTH}
CUT = "00000000000000aa"
WRITES = {"write", "writev", "zero"}


def verdicts(core: Core) -> dict[str, str | None]:
    """What status says of the cut each pair is suspended at."""
    return {
        volume["name"]: volume["secondary"]["cut"]["verdict"]
        for volume in core.controller.status()["volumes"]
    }


# ------------------------------------------------------------------------------ before the verdict


async def test_a_cut_has_no_verdict_until_its_secondaries_are_durable() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"x")
        shown: list[str | None] = []

        def look(operation: str, path: str) -> None:
            if operation == "sync" and path == "/b/data.img":
                shown.append(verdicts(core)["data"])

        core.disk.before = look
        await core.controller.suspend(BOTH)
        assert shown == [None]
        assert verdicts(core) == dict.fromkeys(BOTH, "consistent")


async def test_the_marker_of_a_cut_is_durable_before_its_secondaries_are_synced() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"x")
        synced: list[int] = []
        writer = core.controller.timeline.writer

        def look(operation: str, path: str) -> None:
            if operation == "sync" and path == "/b/data.img":
                synced.append(writer.synced)

        core.disk.before = look
        result = await core.controller.suspend(BOTH)
        assert len(synced) == 1
        assert synced[0] >= result["controllers"]["alpha"]


# ------------------------------------------------------------------------------------ void


async def test_a_secondary_that_cannot_be_made_durable_makes_the_cut_void() -> None:
    async with running(TWO, DB) as core:
        await core.write("wal", 0, b"x" * 4096)
        core.secondary("wal").fail("sync")
        result = await core.controller.suspend(BOTH)
        assert result["verdict"] == "void"
        assert not core.pair("wal").usable
        assert verdicts(core) == dict.fromkeys(BOTH, "void")
        disk = core.disk
    async with running(TWO, DB, disk) as core:
        assert verdicts(core) == dict.fromkeys(BOTH, "void"), "a restart does not improve it"


async def frozen(core: Core) -> str:
    """A write that fails suspends both pairs; the cut."""
    await core.write("wal", 0, b"x" * 4096)
    await core.write("data", 0, b"x" * 4096)
    core.secondary("data").fail("write", times=1)
    await core.write("data", 0, b"y" * 4096)
    return str(core.named("suspended")[-1]["cut"])


async def test_a_cut_that_a_freeze_made_is_durable_before_it_is_called_consistent() -> None:
    async with running(TWO, DB) as core:
        cut = await frozen(core)
        assert verdicts(core) == dict.fromkeys(BOTH, None)
        assert core.disk.unsynced("/b/wal.img") > 0
        await core.controller.settling.wait(core.controller.archive.find(cut))
        assert verdicts(core) == dict.fromkeys(BOTH, "consistent")
        assert core.disk.unsynced("/b/wal.img") == 0


async def test_a_cut_that_a_freeze_made_is_settled_without_being_asked_for() -> None:
    async with running(TWO, DB) as core:
        cut = core.controller.archive.find(await frozen(core))
        await core.controller.settling.wait(cut)
        assert verdicts(core) == dict.fromkeys(BOTH, "consistent")
        assert core.disk.unsynced("/b/wal.img") == 0


async def test_a_cut_that_a_freeze_made_is_void_if_one_of_its_secondaries_is_not_durable() -> None:
    async with running(TWO, DB) as core:
        core.secondary("wal").fail("sync")
        cut = core.controller.archive.find(await frozen(core))
        await core.controller.settling.wait(cut)
        assert cut.verdict == "void"


async def lose(core: Core, name: str) -> None:
    """The secondary of a suspended pair fails."""
    core.secondary(name).fail("sync")
    core.pair(name).secondary_dirty = True  # as after a start: it may hold what is not on the disk
    await core.controller.checkpointer.sync_secondaries([core.pair(name)])


async def test_a_secondary_that_fails_later_changes_no_verdict_of_the_others() -> None:
    async with running(TWO, DB) as core:
        cut = (await core.controller.suspend(BOTH))["cut"]
        await lose(core, "wal")
        assert verdicts(core) == {"data": "consistent", "wal": "void"}
        assert core.controller.cuts.show(cut)["volumes"] == ["data"]
        disk = core.disk
    async with running(TWO, DB, disk) as core:
        assert core.controller.cuts.show(cut)["verdict"] == "consistent"


async def test_one_that_was_asked_for_alone_stays_consistent_when_another_one_fails() -> None:
    async with running(TWO, DB) as core:
        cut = await frozen(core)
        await core.controller.settling.wait(core.controller.archive.find(cut))
        await lose(core, "wal")
        assert verdicts(core)["data"] == "consistent"


async def test_a_settled_cut_stays_consistent_when_its_pairs_leave_it() -> None:
    async with running(TWO) as core:
        cut = (await core.controller.suspend(BOTH))["cut"]
        await core.controller.resync(["wal"])
        again = await core.controller.suspend(["data"], existing=True)
        assert again["verdict"] == "consistent"
        await core.controller.resync(["data"])
        assert core.controller.cuts.show(cut)["verdict"] == "consistent"


def test_a_cut_whose_daemon_dies_before_its_verdict_is_settled_by_the_next_start() -> None:
    disk = new_disk()

    async def unsettled() -> str:
        core = await Core.begin(disk, settings(TWO, DB))
        cut = await frozen(core)
        assert verdicts(core) == dict.fromkeys(BOTH, None)
        await core.crash(power=False)
        return cut

    async def again(cut: str) -> None:
        async with running(TWO, DB, disk) as core:
            assert verdicts(core) == dict.fromkeys(BOTH, None)
            await core.controller.settling.wait(core.controller.archive.find(cut))
            assert verdicts(core) == dict.fromkeys(BOTH, "consistent")

    run(again(run(unsettled())))


@pytest.mark.parametrize("seed", range(6))
def test_a_void_verdict_that_was_given_survives_a_power_cut(seed: int) -> None:
    disk = new_disk()
    disk.rng.seed(seed)  # what a power cut takes back

    async def suspended() -> str:
        core = await Core.begin(disk, settings(TWO))
        leg = core.secondary("wal")
        await core.write("wal", 0, b"x")
        leg.fail("sync")
        result = await core.controller.suspend(BOTH)
        assert result["verdict"] == "void"
        await core.crash(power=True)
        return str(result["cut"])

    async def again(cut: str) -> None:
        async with running(TWO, disk=disk) as core:
            assert core.controller.cuts.show(cut)["verdict"] == "void"

    run(again(run(suspended())))


# ------------------------------------------------------------- a restart, while a backup may read


def watch_secondaries(disk: SimDisk) -> list[str]:
    """Paths of secondaries that are written to from now on."""
    written: list[str] = []

    def look(operation: str, path: str) -> None:
        if path.startswith("/b/") and operation in WRITES:
            written.append(path)

    disk.before = look
    return written


def test_secondaries_that_were_promised_are_not_written_to_by_a_restart() -> None:
    """To replay what they have would take them back for a moment."""
    disk = new_disk()

    async def ready() -> None:
        core = await Core.begin(disk, settings(TWO))
        await core.write("data", 0, b"first")
        await core.write("data", 0, b"second")
        lease = await core.controller.quiesce(BOTH, 2.0, "me", CUT)
        await core.controller.cuts.make(CUT, lease.id, lease.fence, "", "db", ["alpha", "beta"])
        vote = await core.controller.cuts.open(CUT, lease.id, lease.fence)
        assert vote["state"] == cut_states.READY
        await core.write("data", 0, b"later")
        await core.crash(power=False)

    async def again() -> list[str]:
        written = watch_secondaries(disk)
        async with running(TWO, disk=disk) as core:
            assert core.controller.cuts.show(CUT)["state"] == cut_states.READY
            assert core.image("data", "b")[:6] == b"second"
            assert core.image("data", "a")[:6] == b"laterd"
        return written

    run(ready())
    assert run(again()) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_secondaries_that_one_controller_suspended_are_not_written_to_by_a_restart(
    mode: str,
) -> None:
    disk, volumes = new_disk(), {"data": mode}

    async def suspended() -> None:
        core = await Core.begin(disk, settings(volumes))
        await core.write("data", 0, b"first")
        await core.write("data", 0, b"second")
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
        await core.write("data", 0, b"later")
        await core.crash(power=False)

    async def again() -> list[str]:
        written = watch_secondaries(disk)
        async with running(volumes, disk=disk) as core:
            assert core.image("data", "b")[:6] == b"second"
        return written

    run(suspended())
    assert run(again()) == []
