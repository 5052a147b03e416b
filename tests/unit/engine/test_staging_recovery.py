"""A staging log whose COMMIT is in the journal, met by a start: applied again, or, where that is
impossible, at the cost of the secondaries it was for and of nothing else.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import BY_ERROR, DUPLEX, SUSPENDED
from duplexd.replication.leg_calls import StagingHungError
from tests.sim.disk import PowerCut
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings
from tests.unit.engine.test_recovery_hangs import Hanging, started

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk

VOLUMES = {"data": "sync", "mate": "sync", "apart": "sync"}
STAGING = "/state/staging"
NEWER = b"\x5a" * SIZE


async def killed_while_applying(disk: SimDisk) -> str:
    """A daemon that was killed when it had written a half of a committed staging log, for two
    volumes, to the secondaries; the path of the log.
    """
    core = await Core.begin(disk, settings(VOLUMES))
    await core.controller.suspend(["data", "mate"])
    for name in ("data", "mate"):
        for _ in range(3):  # by map: the journal is longer than that
            assert await core.write(name, 0, NEWER) == 0
    written: list[str] = []

    def before(operation: str, path: str) -> None:
        if operation == "write" and path.startswith("/b/"):
            written.append(path)
            if len(written) > 1:
                raise PowerCut

    disk.before = before
    report = await core.controller.resync(["data", "mate"])
    assert {entry["how"] for entry in report["volumes"]} == {"map"}
    await core.until(lambda: core.workers.dead)
    disk.before = None
    await core.crash(power=False)
    (name, *_) = disk.list(STAGING)
    return f"{STAGING}/{name}"


def test_a_log_that_hangs_ends_the_start() -> None:
    disk = new_disk()
    run(killed_while_applying(disk))
    hanging = Hanging(disk, STAGING, "read")

    async def scenario() -> None:
        with pytest.raises(StagingHungError, match="has not answered for"):
            async with started(disk, VOLUMES):
                pass

    asyncio.run(scenario())
    assert hanging.hung
    hanging.release()


async def test_a_committed_log_is_applied_again() -> None:
    disk = new_disk()
    await killed_while_applying(disk)
    async with running(VOLUMES, disk=disk) as core:
        await core.controller.resync_wait(["data", "mate"])
        assert core.states() == dict.fromkeys(VOLUMES, DUPLEX)
        assert core.equal("data")
        assert core.equal("mate")
        assert not disk.list(STAGING)


@pytest.mark.parametrize("how", ["flipped", "missing", "unreadable", "cannot be opened"])
async def test_a_log_that_is_damaged_costs_its_secondaries_only(how: str) -> None:
    disk = new_disk()
    path = await killed_while_applying(disk)
    if how == "flipped":
        disk.flip(path, 500)
    elif how == "missing":
        disk.remove(path)
    else:
        operation = "open" if how == "cannot be opened" else "read"
        disk.fail(path, errno.EIO, operation=operation)
    async with running(VOLUMES, disk=disk) as core:
        await core.controller.resync_wait(["apart"])  # the legs are compared after a kill
        assert core.states() == {"data": SUSPENDED, "mate": SUSPENDED, "apart": DUPLEX}
        for name in ("data", "mate"):
            pair = core.pair(name)
            assert (pair.usable, pair.changed) == (False, pair.record.full_map())
        (first, *_) = core.named("suspended")
        assert first["reason"] == BY_ERROR
        assert path in first["error"]
        assert await core.write("data", 0, b"goes on") == 0
        await core.controller.resync(["data", "mate"])
        await core.controller.resync_wait(["data", "mate"])
        assert core.states() == dict.fromkeys(VOLUMES, DUPLEX)
        assert core.equal("data")


async def test_one_secondary_that_fails_then_leaves_the_others_of_its_log_usable() -> None:
    disk = new_disk()
    await killed_while_applying(disk)
    disk.fail("/b/data.img", errno.EIO, operation="write")
    async with running(VOLUMES, disk=disk) as core:
        assert core.states()["data"] == SUSPENDED
        assert not core.pair("data").usable
        assert [event["volumes"] for event in core.named("suspended")] == [["data"]]
        await core.controller.resync_wait(["mate", "apart"])  # the legs are compared after a kill
        assert core.states() == {"data": SUSPENDED, "mate": DUPLEX, "apart": DUPLEX}
        assert core.equal("mate")
