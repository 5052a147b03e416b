"""A start on disks that do not answer: an image that hangs costs its own volume, and some time.

With real threads, because only these can hang.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.engine.controller import Machine, start
from duplexd.engine.events import Events
from duplexd.replication.leg_calls import JournalHungError, StagingHungError
from duplexd.runtime.threads import ThreadWorkers
from tests.unit.engine.cores import MIB, Core, HandClock, new_disk, run, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller
    from tests.sim.disk import SimDisk

DATA = b"\x66" * 8192
BOTH = {"data": "sync", "apart": "sync"}
SYNCED = -1  # once for each segment, at the beginning of the replay


class PassingClock(HandClock):
    """Time passes by itself."""

    def monotonic(self) -> float:
        return time.monotonic()


PATIENCE_SECONDS = 0.8  # a busy machine does all that does not hang in less


class Hanging:
    """Operations on paths that begin so hang until `release`."""

    def __init__(self, disk: SimDisk, path: str, *operations: str) -> None:
        self._path = path
        self._operations = operations
        self._answers = threading.Event()
        self.hung = 0
        disk.met = self._look

    def _look(self, operation: str, path: str) -> None:
        if (
            path.startswith(self._path)
            and operation in self._operations
            and not self._answers.is_set()
        ):
            self.hung += 1
            assert self._answers.wait(60)

    def release(self) -> None:
        self._answers.set()


def impatient(config: Config, primary_s: float = PATIENCE_SECONDS) -> Config:
    update = {"secondary_timeout": PATIENCE_SECONDS, "primary_timeout": primary_s}
    controller = config.controller.model_copy(update=update)
    return config.model_copy(update={"controller": controller})


def killed() -> SimDisk:
    """What a daemon left that was killed with changes that are not on the images yet."""
    disk = new_disk()

    async def life() -> None:
        core = await Core.begin(disk, settings(BOTH))
        for name in BOTH:
            assert await core.write(name, 0, DATA) == 0
            assert await core.write(name, MIB, DATA) == 0
        await core.crash(power=False)

    run(life())
    return disk


@asynccontextmanager
async def started(
    disk: SimDisk, volumes: Mapping[str, str] = BOTH, primary_s: float = PATIENCE_SECONDS
) -> AsyncIterator[Controller]:
    loop = asyncio.get_running_loop()
    disks, journal, writer = (ThreadWorkers(loop, name, 2) for name in ("disk", "sync", "writer"))
    clock = PassingClock(disk)
    machine = Machine(disk, clock, disks, journal, writer)
    try:
        controller = await start(impatient(settings(volumes), primary_s), machine, Events(clock))
        try:
            yield controller
        finally:
            await controller.stop()
    finally:
        for workers in (disks, journal, writer):
            workers.close()


@pytest.mark.parametrize("operations", [("open",), ("read",), ("write", "zero", "reserve")])
def test_a_secondary_that_hangs_is_given_up_and_all_is_served(operations: tuple[str, ...]) -> None:
    disk = killed()
    hanging = Hanging(disk, "/b/data.img", *operations)

    async def scenario() -> None:
        async with started(disk) as controller:
            states = {pair.name: pair.state for pair in controller.volumes.all()}
            assert hanging.hung
            assert states["data"] == SUSPENDED
            assert states["apart"] != SUSPENDED
            assert not any(pair.failed for pair in controller.volumes.all())
            hanging.release()

    asyncio.run(scenario())


def test_a_secondary_whose_sync_takes_longer_than_a_write_may_is_not_given_up() -> None:
    """It has all of the replay to write."""
    disk = killed()
    hanging = Hanging(disk, "/b/data.img", "sync")

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(1.2, hanging.release)
        async with started(disk, primary_s=30) as controller:
            assert hanging.hung
            await controller.resync_wait(list(BOTH))
            assert {pair.state for pair in controller.volumes.all()} == {DUPLEX}

    asyncio.run(scenario())


@pytest.mark.parametrize("operations", [("open",), ("read",), ("write", "zero")])
def test_a_primary_that_hangs_is_replaced_by_its_secondary(operations: tuple[str, ...]) -> None:
    disk = killed()
    hanging = Hanging(disk, "/a/data.img", *operations)

    async def scenario() -> None:
        async with started(disk) as controller:
            pair = controller.volumes.by_name["data"]
            assert hanging.hung
            assert (pair.state, pair.record.swapped, pair.failed) == (SUSPENDED, True, "")
            assert controller.volumes.by_name["apart"].state != SUSPENDED
            hanging.release()

    asyncio.run(scenario())
    assert disk.content("/b/data.img")[: len(DATA)] == DATA


def test_a_start_without_trouble_is_the_same_with_threads() -> None:
    disk = killed()

    async def scenario() -> None:
        async with started(disk) as controller:
            await controller.resync_wait(list(BOTH))
            assert {pair.state for pair in controller.volumes.all()} == {DUPLEX}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/state/journal/", "open"),
        ("/state/journal/", "read"),
        ("/state/checkpoint", "replace_file"),
        ("/state/journal/", "sync"),  # at the beginning of the replay
    ],
)
def test_a_state_directory_that_hangs_ends_the_start(path: str, operation: str) -> None:
    disk = killed()
    hanging = Hanging(disk, path, operation)

    async def scenario() -> None:
        with pytest.raises(JournalHungError, match=rf"has not answered for {PATIENCE_SECONDS} s"):
            async with started(disk):
                pass

    asyncio.run(scenario())
    assert hanging.hung
    hanging.release()


class HangingReplay(Hanging):
    """The journal hangs when the images have been opened."""

    def _look(self, operation: str, path: str) -> None:
        if operation == "sync" and path.startswith("/state/journal/"):
            self._operations = ("read",)
        super()._look(operation, path)


def test_a_journal_that_hangs_in_the_replay_ends_the_start() -> None:
    disk = killed()
    hanging = HangingReplay(disk, "/state/journal/")

    async def scenario() -> None:
        with pytest.raises(JournalHungError, match="the journal cannot be read"):
            async with started(disk):
                pass

    asyncio.run(scenario())
    assert hanging.hung
    hanging.release()


class HangingEnd(Hanging):
    """What ends a start hangs: these operations once the images were replayed, which is when the
    journal is written again, or after `skip` of them.
    """

    def __init__(self, disk: SimDisk, path: str, operation: str, skip: int) -> None:
        super().__init__(disk, path, operation)
        self._skip = len(disk.list("/state/journal")) if skip == SYNCED else skip

    def _look(self, operation: str, path: str) -> None:
        if path.startswith(self._path) and operation in self._operations and self._skip > 0:
            self._skip -= 1
            return
        super()._look(operation, path)


@pytest.mark.parametrize(
    ("path", "operation", "skip", "says"),
    [
        ("/state/journal/", "writev", 0, "/state/journal: the journal cannot be written"),
        ("/state/journal/", "sync", SYNCED, "/state/journal: the journal cannot be written"),
        ("/state/staging/", "remove", 0, r"/state/staging/left-0\.stg: the staging log cannot"),
        ("/state/checkpoint", "replace_file", 1, "/state/checkpoint: the checkpoint cannot"),
    ],
)
def test_a_state_directory_that_hangs_at_the_end_of_a_start_ends_it(
    path: str, operation: str, skip: int, says: str
) -> None:
    disk = killed()
    disk.make_directory("/state/staging")
    disk.replace_file("/state/staging/left-0.stg", b"")
    hanging = HangingEnd(disk, path, operation, skip)

    async def scenario() -> None:
        with pytest.raises((JournalHungError, StagingHungError), match=says):
            async with started(disk):
                pass

    asyncio.run(scenario())
    assert hanging.hung
    hanging.release()


def test_a_journal_that_hangs_in_the_last_checkpoint_ends_the_start() -> None:
    """It is to say that an image failed."""
    disk = killed()
    disk.fail("/b/data.img", errno.EIO, after=1, operation="sync")  # not in the replay
    hanging = HangingEnd(disk, "/state/journal/", "writev", skip=2)

    async def scenario() -> None:
        with pytest.raises(JournalHungError, match="the journal cannot be written"):
            async with asyncio.timeout(30), started(disk):
                pass

    asyncio.run(scenario())
    assert hanging.hung
    hanging.release()
