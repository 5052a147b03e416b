"""Status has the fields that scripts rely on, and tells the truth in every state."""

from __future__ import annotations

from typing import Any

from duplexd.api.models.status import Status
from tests.unit.engine.cores import SIZE, Core, running

CONTROLLER = {"name", "sequence", "journal"}
JOURNAL = {"used_bytes", "size_bytes", "oldest_sequence"}
VOLUME = {
    "name",
    "size",
    "state",
    "reason",
    "held",
    "mode",
    "connections",
    "sequence",
    "secondary",
    "changed_bytes",
    "copy",
}
SECONDARY = {"usable", "as_of_sequence", "as_of_time", "cut", "lag_bytes"}
COPY = {"done_bytes", "total_bytes", "eta_s"}
MORE = {
    "synced",
    "failed",
    "version",
    "group_protocol",
    "hold_max_s",
    "nbd",
}  # beyond what was promised


def volume(core: Core, name: str = "data") -> dict[str, Any]:
    status = core.controller.status()
    Status.model_validate(status)
    found: dict[str, Any] = next(volume for volume in status["volumes"] if volume["name"] == name)
    return found


async def test_the_fields_are_those_promised() -> None:
    async with running({"data": "sync", "alone": ""}, {"db": ["data"]}) as core:
        await core.controller.quiesce(["data"], 5.0, "me")
        status = core.controller.status()
        assert set(status) == {"controller", "volumes", "groups", "leases", "cuts"}
        assert set(status["controller"]) == CONTROLLER | MORE
        assert set(status["controller"]["journal"]) == JOURNAL
        assert [set(entry) for entry in status["volumes"]] == [VOLUME, VOLUME]
        assert set(status["volumes"][0]["secondary"]) == SECONDARY
        assert status["volumes"][1]["secondary"] is None
        assert status["groups"] == [{"name": "db", "volumes": ["data"], "state": "DUPLEX"}]
        (lease,) = status["leases"]
        assert (lease["volumes"], lease["hold_s"], lease["remaining_s"]) == (["data"], 5.0, 5.0)
        assert [entry["held"] for entry in status["volumes"]] == [True, False]


async def test_a_mirrored_secondary_is_as_of_now() -> None:
    async with running() as core:
        await core.write("data", 0, b"x")
        found = volume(core)
        assert (found["state"], found["reason"], found["mode"], found["size"]) == (
            "DUPLEX",
            None,
            "sync",
            SIZE,
        )
        assert found["secondary"] == {
            "usable": True, "as_of_sequence": core.controller.sequence, "as_of_time": core.clock.wall(), "cut": None, "lag_bytes": 0,
        }  # fmt: skip
        assert found["copy"] is None


async def test_a_suspended_secondary_is_as_of_its_cut() -> None:
    async with running() as core:
        result = await core.controller.suspend(["data"], "nightly")
        cut_at = core.clock.wall()
        core.clock.now += 100
        await core.write("data", 0, b"x")
        found = volume(core)
        sequence = result["controllers"]["alpha"]
        assert (found["state"], found["reason"], found["changed_bytes"]) == (
            "SUSPENDED",
            "by command",
            65536,
        )
        secondary = found["secondary"]
        assert (secondary["as_of_sequence"], secondary["as_of_time"]) == (sequence, cut_at)
        assert secondary["cut"] == {
            "id": result["cut"], "sequence": sequence, "time": cut_at, "tag": "nightly", "verdict": "consistent", "state": "consistent",
            "group": None, "members": [], "canary": None, "why": None,
        }  # fmt: skip


async def test_a_first_copy_has_a_size_and_its_secondary_says_nothing() -> None:
    async with running() as core:
        await core.write("data", 0, b"x" * 4096)
        disk = core.disk
    disk.remove("/b/data.img")
    disk.remove("/state/checkpoint")
    for name in disk.list("/state/journal"):
        disk.remove(f"/state/journal/{name}")
    async with running(disk=disk) as core:
        found = volume(core)
        assert (found["state"], found["reason"]) == ("PENDING", "first copy")
        assert (found["secondary"]["usable"], found["secondary"]["as_of_sequence"]) == (False, None)
        assert set(found["copy"]) == COPY
        await core.controller.resync_wait(["data"])
        assert volume(core)["state"] == "DUPLEX"
        assert core.equal()


async def test_a_group_is_mixed_unless_all_stand_at_one_point() -> None:
    async with running({"data": "sync", "wal": "sync"}, {"db": ["data", "wal"]}) as core:

        def state() -> str:
            found: str = core.controller.status()["groups"][0]["state"]
            return found

        assert state() == "DUPLEX"
        await core.controller.suspend(["data"])
        assert state() == "MIXED"
        await core.controller.suspend(["wal"])
        assert state() == "MIXED", "two cuts are not one"
        await core.controller.resync(["data", "wal"])
        await core.controller.resync_wait(["data", "wal"])
        await core.controller.suspend(["data", "wal"])
        assert state() == "SUSPENDED"


async def test_an_async_secondary_says_how_far_it_is() -> None:
    async with running({"data": "async"}) as core:
        await core.write("data", 0, b"x" * 4096)
        await core.until(lambda: core.pair().applied >= core.controller.sequence)
        found = volume(core)
        assert found["secondary"]["as_of_sequence"] == core.controller.sequence
        assert found["secondary"]["lag_bytes"] == 0


async def test_a_failed_controller_says_so() -> None:
    async with running() as core:
        core.controller.fail("the reason")
        assert core.controller.status()["controller"]["failed"] == "the reason"


async def test_a_controller_keeps_every_figure_that_the_metrics_read() -> None:
    async with running() as core:
        assert await core.write("data", 0, b"x" * 512) == 0
        assert core.controller.counters().batches == 1
