"""Drills on a whole controller: when one is recorded, when not, and what keeps it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE, Change
from duplexd.core.clone import Clone
from duplexd.core.drill_record import Report
from duplexd.errors import WrongStateError
from tests.unit.engine.cores import Core, Peer, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "async"}
BOTH = list(TWO)


async def cloned(core: Core, names: list[str] = BOTH) -> str:
    cut = str((await core.controller.suspend(BOTH, "nightly"))["cut"])
    await core.controller.clones.make(names, cut, "drill")
    return cut


def report(cut: str, exit_code: int = 0, clone: str = "drill") -> Report:
    return Report("00000000000000d1", cut, clone, exit_code, 1500)


def last(core: Core, name: str = "data") -> Json | None:
    rows = {row["name"]: row for row in core.controller.status()["volumes"]}
    found: Json | None = rows[name]["last_drill"]
    return found


@pytest.mark.parametrize("how", ["power cut", "stop"])
@pytest.mark.parametrize(("code", "outcome"), [(0, "passed"), (3, "failed")])
def test_a_restart_knows_it(code: int, outcome: str, how: str) -> None:
    disk = new_disk()

    async def ends() -> Json:
        core = await Core.begin(disk, settings(TWO))
        cut = await cloned(core)
        said = await core.controller.drills.record(BOTH, report(cut, code))
        assert (said["outcome"], said["volumes"]) == (outcome, BOTH)
        (event,) = core.named(f"drill-{outcome}")
        assert (event["drill"], event["cut"], event["exit_code"]) == (said["id"], cut, code)
        found = last(core)
        assert found is not None
        assert (found["outcome"], found["exit_code"], found["cut"]) == (outcome, code, cut)
        await (core.controller.stop() if how == "stop" else core.crash(power=True))
        return found

    async def again() -> list[Json | None]:
        async with running(TWO, disk=disk) as core:
            return [last(core, name) for name in BOTH]

    found = run(ends())
    assert run(again()) == [found, found]


async def test_without_its_clones_nothing_is_recorded() -> None:
    async with running(TWO) as core:
        cut = await cloned(core, ["data"])
        with pytest.raises(WrongStateError, match=r"wal has no clone 'drill' of cut .* any more"):
            await core.controller.drills.record(BOTH, report(cut))
        with pytest.raises(WrongStateError, match="not recorded"):
            await core.controller.drills.record(["data"], report("00000000000000c9"))
        await core.controller.clones.drop(["data"], "drill")
        with pytest.raises(WrongStateError, match="data has no clone"):
            await core.controller.drills.record(["data"], report(cut))
        assert [last(core, name) for name in BOTH] == [None, None]


async def test_a_drill_of_a_void_cut_is_none() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        await core.controller.cuts.grade(cut, consistent=False, records=1, detail="broken")
        with pytest.raises(WrongStateError, match="is void"):
            await core.controller.drills.record(BOTH, report(cut))
        assert last(core) is None


async def test_the_certificate_of_the_cut_has_it_and_that_of_the_next_one_has_not() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        await core.controller.drills.record(["data"], report(cut))
        images = core.controller.cuts.show(cut)["proof"]["volumes"]
        assert [image["drill"] for image in images] == [last(core), None]
        await core.controller.clones.drop(BOTH, "drill")
        await core.controller.resync(BOTH)
        await core.controller.resync_wait(BOTH)
        again = await core.controller.suspend(BOTH, "again")
        images = core.controller.cuts.show(again["cut"])["proof"]["volumes"]
        assert [image["drill"] for image in images] == [None, None]


async def test_on_a_clone_with_a_failed_request_none_passes() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        clone = core.controller.volume(f"wal@{cut}+drill")
        assert isinstance(clone, Clone)
        made = Change(Peer(), 0, clone, WRITE, 0, 4096, bytes(4096))
        core.disk.fail("/state/clones/overlay", errno.EIO, operation="write", times=1)
        clone.takes.submit([made])
        await core.until(lambda: bool(made.error))
        await core.write("data", 0, b"is in nobody's way")
        with pytest.raises(WrongStateError, match=r"'drill' failed \(change of 4096 bytes at 0:"):
            await core.controller.drills.record(BOTH, report(cut))
        assert last(core) is None
        said = await core.controller.drills.record(BOTH, report(cut, 1))
        assert said["outcome"] == "failed"
