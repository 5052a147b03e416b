"""The marks of images say how far the journal was durable: soon after it is, never before; and a
state directory that ends earlier is noticed by that.
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from duplexd.engine import mark_numbers
from duplexd.engine.opening import why_absent
from duplexd.images.probe import Mark
from duplexd.journal.tally import unpack
from duplexd.limits import EngineLimits
from duplexd.runtime.tally_file import TallyFile
from tests.sim.disk import SimDisk
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from duplexd.config.daemon_file import Config
    from tests.sim.image import Image

TICK_S = EngineLimits().sync_interval_s
OLD, NEW, LATEST = (bytes([number]) * 4096 for number in (1, 2, 3))
BOTH = {"data": "sync", "wal": "sync"}
FIRST, SECOND, NOT_SAMPLED = 0, 1 << 20, (3 << 20) + 5 * 4096


def numbers(core: Core, name: str = "data") -> list[int]:
    """In the marks of the images of a volume."""
    pair = core.pair(name)
    marks = [Mark.unpack(leg.read_mark()) for leg in (pair.primary, pair.secondary) if leg]
    return [mark.number for mark in marks if mark is not None]


# ------------------------------------------------------------------------------------ the marks


async def test_soon_after_a_change_the_marks_of_its_images_say_that_it_is_durable() -> None:
    async with running(BOTH) as core:
        before = numbers(core, "wal")
        assert await core.write("data", 0, NEW) == 0
        last = core.controller.timeline.written
        await asyncio.sleep(4 * TICK_S)
        assert min(numbers(core)) >= last
        assert numbers(core, "wal") == before, "it was not written to"
        core.disk.met = lambda operation, path: pytest.fail(f"{operation} {path} when idle")
        await asyncio.sleep(3 * TICK_S)
        core.disk.met = None


async def test_a_mark_says_nothing_that_is_not_durable() -> None:
    async with running() as core:
        writer = core.controller.timeline.writer
        seen: list[int] = []

        def look(operation: str, _path: str) -> None:
            if operation == "write_mark":
                seen.append(writer.synced)

        core.disk.before = look
        for place in range(20):
            assert await core.write("data", place * 4096, NEW) == 0
            await asyncio.sleep(TICK_S / 3)
            assert max(numbers(core)) <= writer.synced
        assert seen, "the marks went along"
        core.disk.before = None


async def test_a_checkpoint_says_it_of_all_images_that_were_written_to() -> None:
    async with running(BOTH) as core:
        before = numbers(core, "wal")
        assert await core.write("data", 0, NEW) == 0
        await core.controller.checkpointer.checkpoint()
        assert numbers(core) == [core.controller.checkpointer.sequence] * 2
        assert numbers(core, "wal") == before


async def test_a_few_images_are_marked_at_once_and_each_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mark_numbers, "_EACH_TIME", 2)
    names = dict.fromkeys("abcde", "")
    async with running(names) as core:
        marked: list[str] = []

        def note(operation: str, path: str) -> None:
            marked.extend([path] if operation == "write_mark" else [])

        core.disk.before = note
        for turn in range(3):
            for name in names:
                assert await core.write(name, turn * 4096, NEW) == 0
            last = len(marked)
            await asyncio.sleep(3 * TICK_S)
            assert len(marked) - last <= 4, "two, and two when the claim behind them is synced"
        assert set(marked) == {f"/a/{name}.img" for name in names}
        core.disk.before = None


async def test_an_image_that_cannot_be_marked_costs_nothing() -> None:
    async with running(BOTH) as core:
        core.disk.fail("/a/data.img", 5, operation="write_mark")
        for name in BOTH:
            assert await core.write(name, 0, NEW) == 0
        last = core.controller.timeline.written
        await asyncio.sleep(4 * TICK_S)
        assert min(numbers(core, "wal")) >= last
        assert (core.pair().failed, set(core.states().values())) == ("", {"DUPLEX"})


@pytest.mark.parametrize("power", [False, True])
def test_a_secondary_at_its_cut_is_left_alone(power: bool) -> None:
    """Who reads it there, as tar does, would find it changed."""
    disk, configured, touched = new_disk(), settings(BOTH), list[str]()

    def note(operation: str, path: str) -> None:
        touched.extend([operation] if path == "/b/data.img" and operation != "sync" else [])

    async def suspended(core: Core) -> None:
        disk.before = note
        for place in range(4):
            assert await core.write("data", place * 4096, NEW) == 0
            await asyncio.sleep(2 * TICK_S)
            await core.controller.checkpointer.checkpoint()
        assert core.states()["data"] == "SUSPENDED"
        disk.before = None

    async def begun() -> None:
        core = await Core.begin(disk, configured)
        for place in range(4):
            assert await core.write("data", place * 4096, OLD) == 0
            await asyncio.sleep(TICK_S)
        await core.controller.suspend(["data"])
        await suspended(core)
        await core.crash(power)

    async def begun_again() -> None:
        disk.before = note
        core = await Core.begin(disk, configured)
        await suspended(core)
        primary, secondary = numbers(core)
        assert secondary < primary, "that goes on"
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await core.controller.checkpointer.checkpoint()
        assert min(numbers(core)) >= primary
        await core.controller.stop()

    run(begun())
    run(begun_again())
    assert touched == []


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_that_takes_a_mark_leaves_the_image_what_it_is(seed: int) -> None:
    """Its sync had begun before this start marked it: a new image failed, and all is done again."""
    disk, three = SimDisk(seed), settings({**BOTH, "new": "sync"})
    for directory in ("/a", "/b"):
        disk.make_directory(directory)

    async def first() -> None:
        async with running(BOTH, disk=disk) as core:
            for name in BOTH:
                assert await core.write(name, FIRST, OLD) == 0

    async def second() -> None:
        disk.fail("/b/new.img", errno.EIO, operation="write_mark")
        core = await Core.begin(disk, three)
        await core.crash(power=True)
        disk.heal("/b/new.img")

    async def third() -> None:
        core = await Core.begin(disk, three)
        assert [pair.failed for pair in core.controller.volumes.all()] == [""] * 3
        assert {core.states()[name] for name in BOTH} <= {"DUPLEX", "PENDING"}
        await core.controller.stop()

    run(first())
    run(second())
    run(third())


# ------------------------------------------------------------------------- an older state directory


@asynccontextmanager
async def put_back(
    how: str, disk: SimDisk, copy: Mapping[str, Image], configured: Config
) -> AsyncIterator[Core]:
    """A start with an older copy of the state directory."""
    disk.put("/state", {**copy})
    core = await Core.begin(disk, configured)
    yield core
    await (core.controller.stop() if how == "stopped" else core.crash(power=how == "power"))


async def life(how: str, disk: SimDisk, configured: Config, copied: list[dict[str, Image]]) -> None:
    """Write, copy the state directory, write again; then it ends."""
    core = await Core.begin(disk, configured)
    disk.now_ns = lambda: int(core.clock.wall() * 1e9)
    for name in core.states():
        assert await core.write(name, FIRST, OLD) == 0
        assert await core.write(name, SECOND, OLD) == 0
    assert await core.flush() == 0
    await asyncio.sleep(4 * TICK_S)
    copied.append(disk.copies("/state"))
    core.clock.now += 0.5
    assert await core.write("data", FIRST, NEW) == 0
    assert await core.write("data", SECOND, NEW) == 0
    assert await core.flush() == 0
    if how == "stopped":
        await core.controller.stop()
        return
    await asyncio.sleep(4 * TICK_S)
    await core.crash(power=how == "power")


@pytest.mark.parametrize("how", ["killed", "power", "stopped"])
def test_an_older_copy_of_the_same_start_is_noticed_and_nothing_is_written(how: str) -> None:
    disk, configured = new_disk(), settings()
    copied: list[dict[str, Image]] = []
    run(life(how, disk, configured, copied))
    before = disk.content("/a/data.img"), disk.content("/b/data.img")
    right = disk.copies("/state")

    async def older() -> None:
        for _ in range(3):  # its own starts and records do not make it know more
            async with put_back("stopped", disk, disk.copies("/state"), configured) as core:
                pair = core.pair()
                assert "the state directory is an older copy" in pair.failed, pair.failed
                assert core.states() != {"data": "DUPLEX"} or pair.failed
                for _ in range(20):
                    await core.controller.timeline.durable()
        assert (disk.content("/a/data.img"), disk.content("/b/data.img")) == before

    disk.put("/state", copied[0])
    run(older())
    disk.put("/state", right)

    async def as_it_was() -> None:
        async with running(disk=disk) as core:
            assert await core.read("data", FIRST, 4096) == (0, NEW)
            assert await core.read("data", SECOND, 4096) == (0, NEW)

    run(as_it_was())


def test_adopting_ends_it() -> None:
    disk, configured = new_disk(), settings()
    copied: list[dict[str, Image]] = []
    run(life("killed", disk, configured, copied))

    async def adopted() -> None:
        async with put_back("killed", disk, copied[0], configured) as core:
            await core.controller.adopt(["data"])
            assert await core.read("data", FIRST, 4096) == (0, NEW)
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
            assert await core.write("data", FIRST, LATEST) == 0
            await asyncio.sleep(4 * TICK_S)
        for _ in range(2):
            async with running(disk=disk) as core:
                assert await core.read("data", FIRST, 4096) == (0, LATEST)
                assert core.pair().failed == ""

    run(adopted())


def test_another_volume_that_was_written_to_since_is_refused_though_its_marks_say_nothing() -> None:
    """One that was not is served: what its images hold is what the copy says."""
    disk, configured = new_disk(), settings({**BOTH, "idle": "sync"})
    copied: list[dict[str, Image]] = []

    async def old_marks() -> None:
        core = await Core.begin(disk, configured)
        disk.now_ns = lambda: int(core.clock.wall() * 1e9)
        for name in core.states():
            assert await core.write(name, FIRST, OLD) == 0
        await core.controller.checkpointer.checkpoint()
        copied.append(disk.copies("/state"))
        marks = disk.copies("/a/wal.img") | disk.copies("/b/wal.img")
        core.clock.now += 0.5
        assert await core.write("data", FIRST, NEW) == 0
        assert await core.write("wal", NOT_SAMPLED, NEW) == 0
        await asyncio.sleep(4 * TICK_S)
        await core.crash(power=False)
        for path, image in marks.items():
            leg = disk.open(path)
            leg.write_mark(image.mark, durable=True)
            leg.close()

    run(old_marks())

    async def start() -> None:
        async with put_back("killed", disk, copied[0], configured) as core:
            whys = {name: core.pair(name).failed for name in configured.volumes}
            assert "the journal was at number" in whys["data"]
            assert "other images show that the state directory is an older copy" in whys["wal"]
            assert whys["idle"] == ""

    run(start())


def test_a_volume_that_the_older_copy_does_not_know_stays_refused_by_later_starts() -> None:
    disk, both = new_disk(), settings(BOTH)
    copied: list[dict[str, Image]] = []

    async def with_another() -> None:
        core = await Core.begin(disk, settings())
        copied.append(disk.copies("/state"))
        await core.controller.reload(both)
        assert await core.write("wal", FIRST, NEW) == 0
        await asyncio.sleep(4 * TICK_S)
        await core.crash(power=False)

    run(with_another())
    disk.put("/state", copied[0])

    async def starts() -> None:
        for _ in range(2):
            async with put_back("stopped", disk, disk.copies("/state"), both) as core:
                assert "older copy" in core.pair("wal").failed
                for number in range(30):
                    await core.write("data", number * 4096, OLD)

    run(starts())


def test_a_start_that_dies_before_its_marker_leaves_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own markers may make the journal as long as the marks say, before OPEN is there."""
    disk, configured = new_disk(), settings()
    copied: list[dict[str, Image]] = []
    run(life("killed", disk, configured, copied))
    disk.put("/state", copied[0])

    async def dies() -> None:
        monkeypatch.setattr("duplexd.engine.controller.reconcile", None)
        with pytest.raises(TypeError):
            await Core.begin(disk, configured)
        monkeypatch.undo()

    async def starts_again() -> None:
        for path in ("/a/data.img", "/b/data.img"):
            leg = disk.open(path)
            mark = Mark.unpack(leg.read_mark())
            assert mark is not None
            leg.write_mark(mark._replace(number=1).pack(), durable=True)
            leg.close()
        async with running(disk=disk) as core:
            assert "older copy" in core.pair().failed

    run(dies())
    disk.crash(power=False)
    run(starts_again())


@pytest.mark.parametrize("mark", [b"[" * 3000, b"Infinity", str(1 << 64).encode()])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_mark_that_cannot_be_read_is_no_reason_to_end_a_start(side: str, mark: bytes) -> None:
    """Nor to take the image for the one that it was."""
    disk, configured = new_disk(), settings(BOTH)

    async def first() -> None:
        async with running(BOTH, disk=disk) as core:
            for name in BOTH:
                assert await core.write(name, FIRST, OLD) == 0

    async def again() -> None:
        leg = disk.open(f"/{side}/data.img")
        marked = Mark.unpack(leg.read_mark())
        assert marked is not None
        damaged = marked.pack().replace(b'"generation":1', b'"generation":' + mark)
        leg.write_mark(damaged, durable=True)
        leg.close()
        core = await Core.begin(disk, configured)
        assert core.states()["wal"] == "DUPLEX"
        assert "not known whose image this is" in why_absent(core.pair().secondary)
        assert disk.copies("/")[f"/{side}/data.img"].mark == damaged, "it is left as it is"
        await core.controller.stop()

    run(first())
    run(again())


class Noted(TallyFile):
    """What a start writes to it."""

    content = b""

    def begin(self, content: bytes) -> memoryview | None:
        self.content = content
        return memoryview(bytearray(content))


def test_a_start_that_found_itself_behind_has_the_same_number_everywhere() -> None:
    """In the journal, in its tally, and in the fences of its leases."""
    disk, configured = new_disk(), settings()
    copied: list[dict[str, Image]] = []
    run(life("stopped", disk, configured, copied))

    async def again() -> None:
        async with running(disk=disk):
            """The images know of a start that the copy does not know."""

    async def behind() -> None:
        noted = Noted("")
        core = await Core.begin(disk, configured, tally=noted)
        writer, ledger = core.controller.timeline.writer, core.controller.timeline.ledger
        tally = unpack(noted.content, writer.ring.controller, core.clock.boot_id())
        assert tally is not None
        assert tally.starts == core.controller.leases.participant.start == ledger.starts
        assert ledger.starts == ledger.ahead.latest + 1 == 3
        await core.controller.stop()

    run(again())
    disk.put("/state", copied[0])
    run(behind())


async def test_a_set_of_one_moment_is_not_refused() -> None:
    disk, configured = new_disk(), settings()
    core = await Core.begin(disk, configured)
    assert await core.write("data", FIRST, OLD) == 0
    await asyncio.sleep(4 * TICK_S)
    everything = disk.copies("/")
    assert await core.write("data", FIRST, NEW) == 0
    await asyncio.sleep(4 * TICK_S)
    await core.crash(power=False)
    disk.put("/", everything)
    async with running(disk=disk) as core:
        assert await core.read("data", FIRST, 4096) == (0, OLD)
        assert core.pair().failed == ""


@pytest.mark.parametrize("how", ["stopped", "killed", "power"])
def test_with_the_right_state_back_only_what_the_wrong_start_served_is_refused(how: str) -> None:
    """That start has the number that the first one of the right state would have."""
    disk, configured = new_disk(), settings({"data": "sync", "idle": "sync"})
    copied = []

    async def begin() -> Core:
        core = await Core.begin(disk, configured)
        disk.now_ns = lambda: int(core.clock.wall() * 1e9)
        return core

    async def first() -> None:
        core = await begin()
        for name in core.states():
            assert await core.write(name, FIRST, OLD) == 0
        await core.controller.checkpointer.checkpoint()
        copied.append(disk.copies("/state"))
        core.clock.now += 0.5
        assert await core.write("data", FIRST, NEW) == 0
        await core.controller.stop()

    async def wrong() -> None:
        core = await begin()
        assert core.pair("data").failed
        assert not core.pair("idle").failed
        await core.controller.stop()

    async def right() -> None:
        core = await begin()
        assert not core.pair("data").failed
        assert core.pair("idle").failed
        assert await core.write("data", SECOND, LATEST) == 0
        assert await core.flush() == 0
        await asyncio.sleep(4 * TICK_S)
        await (core.controller.stop() if how == "stopped" else core.crash(power=how == "power"))

    run(first())
    kept = disk.copies("/state")
    disk.put("/state", copied[0])
    run(wrong())
    disk.put("/state", kept)
    for _ in range(3):
        run(right())


def test_an_image_that_was_given_another_id_keeps_it() -> None:
    """What an adopt knows nothing of any more, though it stays open."""
    disk, configured = new_disk(), settings()

    async def stopped() -> None:
        core = await Core.begin(disk, configured)
        assert await core.write("data", FIRST, OLD) == 0
        await core.controller.stop()

    async def adopted() -> None:
        core = await Core.begin(disk, configured)
        core.refuse_swaps()
        assert await core.write("data", FIRST, OLD) == 0
        await core.controller.checkpointer.checkpoint()
        disk.fail("/a/data.img", errno.EIO, operation="sync")
        assert await core.write("data", SECOND, NEW) == 0
        with suppress(OSError):
            await core.controller.checkpointer.checkpoint()
        assert core.pair().failed
        disk.heal("/a/data.img")
        await core.controller.adopt(["data"])
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        for place in range(2, 6):
            assert await core.write("data", place * 4096, NEW) == 0
            await asyncio.sleep(2 * TICK_S)
        secondary = Mark.unpack(core.pair().copy_of.read_mark())
        recorded = core.pair().record.secondary_image
        assert secondary is not None
        assert recorded is not None
        assert secondary.id == recorded.id
        await core.crash(power=False)

    run(stopped())
    run(adopted())
