"""Status has the fields that scripts rely on, and says what is true in every state."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.api.models.status_model import Status
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.histogram import Histogram
from tests.unit.engine.cores import SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from duplexd.engine.counters import Counters
    from duplexd.json_object import Json

CONTROLLER = {
    "name", "sequence", "journal", "synced", "failed", "version", "group_protocol", "hold_max_s",
    "nbd", "refused",
}  # fmt: skip
JOURNAL = {
    "used_bytes", "pinned_bytes", "size_bytes", "oldest_sequence", "waiting_s", "no_room_s",
    "needed_by",
}  # fmt: skip
VOLUME = {
    "name", "size", "state", "reason", "held", "mode", "connections", "sequence", "secondary",
    "changed_bytes", "copy", "served", "error", "failing", "swapped", "primary", "rebuild",
    "rollback", "not_grown",
    "consistent_cut_time", "differs", "scrub", "readers", "last_drill",
}  # fmt: skip
SECONDARY = {
    "delay",
    "usable",
    "as_of_sequence",
    "as_of_size",
    "as_of_time",
    "cut",
    "suspended_time",
    "lag_bytes",
    "path",
    "error",
    "error_time",
}
PRIMARY = {"path", "error", "error_time", "repaired_bytes"}
COPY = {"done_bytes", "total_bytes", "eta_s"}


def volume(core: Core, name: str = "data") -> Json:
    """What status says of a volume; the whole has to fit the API's model."""
    status = core.controller.status()
    Status.model_validate(status)
    found: Json = next(volume for volume in status["volumes"] if volume["name"] == name)
    return found


async def test_the_fields_are_those_promised() -> None:
    async with running({"data": "sync", "alone": ""}, {"db": ["data"]}) as core:
        await core.controller.quiesce(["data"], 5.0, "me")
        status = core.controller.status()
        assert set(status) == {"controller", "volumes", "groups", "leases", "cuts"}
        assert set(status["controller"]) == CONTROLLER
        assert set(status["controller"]["journal"]) == JOURNAL
        assert [set(entry) for entry in status["volumes"]] == [VOLUME, VOLUME]
        assert set(status["volumes"][0]["secondary"]) == SECONDARY
        assert set(status["volumes"][0]["primary"]) == PRIMARY
        assert status["volumes"][1]["secondary"] is None
        group = {"name": "db", "volumes": ["data"], "state": "DUPLEX"}
        assert status["groups"] == [group | {"mark_every_s": None, "last_mark_time": None}]
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
            "delay": None,
            "usable": True,
            "as_of_sequence": core.controller.timeline.written,
            "as_of_size": SIZE,
            "as_of_time": core.clock.wall(),
            "cut": None,
            "suspended_time": None,
            "lag_bytes": 0,
            "path": "/b/data.img",
            "error": "",
            "error_time": None,
        }
        assert (found["copy"], found["rebuild"]) == (None, None)


async def test_a_suspended_pair_can_be_rebuilt_from_the_change_after_its_cut() -> None:
    async with running() as core:
        result = await core.controller.suspend(["data"])
        await core.write("data", 0, b"x")
        first = result["controllers"]["alpha"] + 1
        assert volume(core)["rebuild"] == {"possible": True, "from_sequence": first}


async def test_a_suspended_pair_can_not_be_rebuilt_once_the_journal_has_moved_on() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        ring = core.controller.timeline.writer.ring
        while ring.oldest <= volume(core)["secondary"]["as_of_sequence"] + 1:
            await core.write("data", 0, b"x" * 65536)
        assert volume(core)["rebuild"]["possible"] is False


async def test_a_journal_without_room_says_that_changes_are_refused() -> None:
    async with running() as core:
        assert core.controller.status()["controller"]["refused"] is None
        core.controller.admission.refuse(errno.ENOSPC)
        refused = core.controller.status()["controller"]["refused"]
        assert refused == "No space left on device"


async def test_the_journal_says_what_of_it_cannot_be_written_over() -> None:
    async with running() as core:
        await core.write("data", 0, b"x" * 4096)
        journal = core.controller.status()["controller"]["journal"]
        assert journal["pinned_bytes"] == core.controller.counters().journal_pinned_bytes > 4096


async def test_a_volume_that_is_not_served_says_why() -> None:
    async with running() as core:
        core.pair().failed = "/a/data.img: is missing"
        found = volume(core)
        assert (found["served"], found["error"]) == (False, "/a/data.img: is missing")


async def test_what_clients_got_last_is_said_if_it_was_an_error() -> None:
    async with running() as core:
        core.pair().failing["read"] = errno.EIO
        assert volume(core)["failing"] == {"read": "Input/output error"}


async def test_a_secondary_that_failed_says_why() -> None:
    async with running() as core:
        core.secondary().fail("write", errno.ENOSPC)
        await core.write("data", 0, b"x" * 4096)
        assert volume(core)["secondary"]["error"] == "/b/data.img: No space left on device"


async def test_an_image_that_is_not_there_says_why() -> None:
    async with running() as core:
        pair = core.pair()
        away = AbsentLeg("/b/data.img", SIZE, "/b/data.img: is missing")
        kept = pair.copy_of
        pair.set_legs(pair.primary, away, "sync")
        assert volume(core)["secondary"]["error"] == "/b/data.img: is missing"
        await core.controller.suspend(["data"])
        assert volume(core)["rebuild"]["possible"] is False
        pair.set_legs(pair.primary, kept, "sync")


async def test_a_changed_image_beside_a_primary_that_is_not_served_is_not_usable() -> None:
    async with running() as core:
        pair = core.pair()
        kept = pair.copy_of
        pair.set_legs(pair.primary, AbsentLeg("/b/data.img", SIZE, "it was emptied"), "sync")
        core.controller.failures.unserved(pair, OSError(errno.EIO, "I/O error"))
        found = volume(core)
        assert (found["state"], found["served"]) == ("DUPLEX", False)
        assert found["secondary"]["usable"] is False
        assert found["secondary"]["as_of_sequence"] is found["secondary"]["as_of_time"] is None
        pair.set_legs(pair.primary, kept, "sync")


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
            "id": result["cut"], "sequence": sequence, "time": cut_at, "tag": "nightly",
            "verdict": "consistent", "state": "consistent", "group": None, "members": [],
            "canary": None, "why": None, "mark": None,
        }  # fmt: skip


async def test_an_unusable_secondary_is_as_of_nothing() -> None:
    async with running() as core:
        secondary = core.secondary()
        secondary.tear(errno.EIO)
        secondary.fail("read_into", errno.EIO)
        await core.write("data", 0, b"x" * 4096)
        found = volume(core)
        assert (found["state"], found["reason"]) == ("SUSPENDED", "by secondary error")
        assert found["secondary"]["usable"] is False
        assert found["secondary"]["as_of_sequence"] is found["secondary"]["as_of_time"] is None
        assert found["secondary"]["cut"]["verdict"] == "void"


async def test_a_first_copy_has_a_size_and_its_secondary_says_nothing() -> None:
    disk = new_disk()
    image = disk.create("/a/data.img", SIZE)
    image.write(0, b"x" * 4096)
    image.sync()
    image.close()
    async with running(disk=disk) as core:
        found = volume(core)
        assert (found["state"], found["reason"]) == ("PENDING", "first copy")
        assert (found["secondary"]["usable"], found["secondary"]["as_of_sequence"]) == (False, None)
        assert set(found["copy"]) == COPY
        await core.controller.resync_wait(["data"])
        assert volume(core)["state"] == "DUPLEX"
        assert core.equal()


async def test_the_time_that_a_copy_still_takes_is_what_it_took_for_as_much() -> None:
    config = settings()
    section = config.controller.model_copy(update={"copy_rate": 65536})
    disk = new_disk()
    for path in ("/a/data.img", "/b/data.img"):
        disk.create(path, SIZE).close()
    core = await Core.begin(disk, config.model_copy(update={"controller": section}))
    await core.until(lambda: core.pair().copy_done > 0)
    pair = core.pair()
    pair.copy_done = SIZE // 4  # as if it had stopped there
    core.clock.now += 10
    assert volume(core)["copy"] == {
        "done_bytes": SIZE // 4,
        "total_bytes": SIZE,
        "eta_s": pytest.approx(30.0),
    }
    await core.controller.stop()


async def test_an_async_secondary_says_how_far_it_is() -> None:
    async with running({"data": "async"}) as core:
        await core.write("data", 0, b"x" * 4096)
        await core.until(lambda: core.pair().applied >= core.controller.timeline.written)
        applied = core.pair().applied
        assert volume(core)["secondary"]["lag_bytes"] == 0
        async with core.controller.followers.stepping:  # its follower waits
            await core.write("data", 0, b"y" * 4096)
            found = volume(core)["secondary"]
            assert found["as_of_sequence"] == applied < core.controller.timeline.written
            assert 4096 < found["lag_bytes"] < 8192


async def test_a_failed_controller_says_so() -> None:
    async with running() as core:
        core.controller.timeline.fail("the reason")
        assert core.controller.status()["controller"]["failed"] == "the reason"


async def test_a_cut_that_is_not_settled_has_no_verdict_yet() -> None:
    """Its secondary may not be durable there."""
    async with running({"data": "async"}) as core:
        async with core.controller.followers.stepping:  # its follower waits
            await core.write("data", 0, b"x")
            suspending = asyncio.ensure_future(core.controller.suspend(["data"]))
            await core.until(lambda: core.pair().state == "SUSPENDED")
            assert volume(core)["secondary"]["cut"]["verdict"] is None
        await suspending
        assert volume(core)["secondary"]["cut"]["verdict"] == "consistent"


# ------------------------------------------------------------------------------------- groups


async def test_a_group_is_mixed_unless_all_are_at_one_point() -> None:
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


# ----------------------------------------------------------------------------------- counters


def counted(counters: Counters) -> dict[str, int]:
    """As of now: a histogram goes on."""
    return {
        name: sum(value.counts) if isinstance(value, Histogram) else int(value)
        for name, value in counters._asdict().items()
    }


async def test_every_figure_that_the_metrics_read_is_counted() -> None:
    async with running() as core:
        before = counted(core.controller.counters())
        assert await core.write("data", 0, b"x" * 512) == 0
        assert await core.write("data", 0, b"x" * (1 << 20)) == 0
        await core.controller.suspend(["data"])
        assert await core.write("data", 0, b"y" * 512) == 0
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await core.controller.checkpointer.checkpoint()
        await core.controller.mark(["data"])
        hold = await core.controller.quiesce(["data"], 5.0, "me")
        core.controller.release(hold.id, "owner gone")
        after = counted(core.controller.counters())
        assert [name for name, count in after.items() if count <= before[name]] == []


# ------------------------------------------------------------------------- errors, and past cuts


async def test_the_time_of_an_error_is_that_of_the_first_status_that_shows_it() -> None:
    async with running() as core:
        image = core.disk.take("/a/data.img")
        await core.controller.places.look()
        core.clock.now += 1.0
        first = core.clock.wall()
        assert volume(core)["primary"]["error_time"] == first
        core.clock.now += 1.0
        assert volume(core)["primary"]["error_time"] == first
        core.disk.give("/a/data.img", image)
        await core.controller.places.look()
        assert volume(core)["primary"]["error_time"] is None


async def test_a_secondary_failed_when_its_cut_was_made() -> None:
    async with running() as core:
        core.secondary().fail("write")
        await core.write("data", 0, b"x")
        shown = volume(core)["secondary"]
        assert shown["error"]
        assert shown["error_time"] == shown["cut"]["time"]
        assert volume(core)["consistent_cut_time"] is None, "nobody asked for that cut"


async def test_a_cut_that_a_canary_finds_broken_later_was_no_consistent_one() -> None:
    async with running() as core:
        broken = (await core.controller.suspend(["data"]))["cut"]
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        core.clock.now += 60
        later = (await core.controller.suspend(["data"]))["cut"]
        for cut in (broken, later):
            await core.controller.cuts.grade(cut, False, 1, "a record is missing")
        assert volume(core)["consistent_cut_time"] is None


async def test_a_consistent_cut_is_remembered_after_the_resync_and_a_restart() -> None:
    disk = new_disk()
    async with running(disk=disk) as core:
        assert volume(core)["consistent_cut_time"] is None
        await core.controller.suspend(["data"])
        at = volume(core)["secondary"]["cut"]["time"]
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert volume(core)["consistent_cut_time"] == at
    async with running(disk=disk) as again:
        assert volume(again)["consistent_cut_time"] == at
