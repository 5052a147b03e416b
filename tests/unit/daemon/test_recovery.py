"""Starting the controller: what is reported meanwhile, and which errors are met by another try."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from duplexd.api.starting import Starting
from duplexd.daemon.assembly import Given
from duplexd.daemon.pools import Threads
from duplexd.daemon.recovery import Recovery
from duplexd.daemon.retry import Patience
from duplexd.daemon.service import Service
from duplexd.engine.controller import Machine
from duplexd.errors import DamageError, LimitError, WrongStateError
from duplexd.limits import DaemonLimits, EngineLimits, Limits
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.locked import open_locked
from duplexd.runtime.reserve import Reserve
from tests.support.prompt_workers import PromptWorkers
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from duplexd.engine.controller import Controller
    from duplexd.runtime.disk import Disk

# the deadline of a stop would end the process of the tests
ENDLESS = Limits(daemon=dataclasses.replace(DaemonLimits(), stop_seconds_max=1e6))
IMPATIENT = dataclasses.replace(DaemonLimits(), passing_seconds_max=0.0)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    found = Threads(asyncio.get_running_loop())
    yield found
    found.close()


class FullDisk(RealDisk):
    """Has no room for a checkpoint while the reserve is there. `behind`: another error says so."""

    def __init__(self, reserve: Reserve, behind: bool = False) -> None:
        super().__init__()
        self._reserve = reserve
        self._behind = behind

    def replace_file(self, path: str, data: bytes) -> None:
        if self._reserve.size:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            if self._behind:
                raise OSError(errno.EIO, "cannot be taken back", path) from full
            raise full
        super().replace_file(path, data)


class Attempt:
    """A start in `directory`, and what it leaves behind."""

    def __init__(self, directory: Path, threads: Threads, limits: EngineLimits) -> None:
        self.threads = threads
        self.limits = limits
        self.config = config(directory, 'on_start_error = "refuse"')
        self.starting = Starting("a")
        self.reserve = Reserve(str(directory / "reserve"))

    async def run(self, disk: Disk) -> Controller:
        machine = Machine(
            disk, RealClock(), self.threads.disk, self.threads.journal, PromptWorkers()
        )
        recovery = Recovery(
            self.config, machine, self.limits, self.starting, self.reserve, lambda _: None
        )
        return await recovery.run(Patience(IMPATIENT, lambda _: None))


@pytest.fixture
def attempt(tmp_path: Path, threads: Threads) -> Attempt:
    return Attempt(tmp_path, threads, dataclasses.replace(EngineLimits(), leases_max=1))


async def test_the_engine_has_the_limits_of_the_daemon(attempt: Attempt) -> None:
    controller = await attempt.run(RealDisk())
    await controller.quiesce(["v"], 5.0, "one")
    with pytest.raises(LimitError):
        await controller.quiesce(["v"], 5.0, "one too many")
    await controller.stop()


async def test_how_far_it_is_can_be_asked_meanwhile(attempt: Attempt) -> None:
    controller = await attempt.run(RealDisk())
    await controller.stop()
    assert attempt.starting.fraction >= 0.95
    assert attempt.starting.text == "recovering, 95 % (writing the first checkpoint)"


@pytest.mark.parametrize("behind", [False, True])
async def test_on_a_full_disk_the_reserve_makes_a_start_possible(
    attempt: Attempt, behind: bool
) -> None:
    attempt.reserve.make(4096)
    controller = await attempt.run(FullDisk(attempt.reserve, behind))
    await controller.stop()
    assert not attempt.reserve.size


async def test_without_a_reserve_a_full_disk_ends_the_daemon_and_is_named(
    attempt: Attempt, tmp_path: Path
) -> None:
    attempt.reserve.make(4096)
    other = Attempt(tmp_path, attempt.threads, attempt.limits)
    other.reserve = Reserve(str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"No space left on device: '.*/state/checkpoint'"):
        await other.run(FullDisk(attempt.reserve))


async def test_an_image_that_another_has_is_left_to_the_service_manager(
    attempt: Attempt, tmp_path: Path
) -> None:
    image = tmp_path / "p"
    image.write_bytes(bytes(4096))
    descriptor, _ = open_locked(str(image))
    with pytest.raises(WrongStateError, match=f"{image}: in use already"):
        await attempt.run(RealDisk())
    os.close(descriptor)
    controller = await attempt.run(RealDisk())
    await controller.stop()


async def test_damage_ends_the_daemon(attempt: Attempt, tmp_path: Path) -> None:
    journal = tmp_path / "state" / "journal"
    journal.mkdir(parents=True)
    (journal / "0000.seg").write_bytes(b"")  # and no checkpoint
    with pytest.raises(DamageError, match="the checkpoint is missing"):
        await attempt.run(RealDisk())


async def test_a_stop_gives_a_start_up_also_where_the_disk_hangs(
    attempt: Attempt, tmp_path: Path, threads: Threads
) -> None:
    service, go_on = Service(Given(config(tmp_path), ENDLESS, PromptWorkers())), threading.Event()
    try:
        hanging = [asyncio.ensure_future(threads.disk.run(go_on.wait)) for _ in range(16)]
        await asyncio.sleep(0)  # now they are submitted
        starting = asyncio.ensure_future(service._unless_stopped(attempt.run(RealDisk())))
        await asyncio.sleep(0)  # now its first step is, behind those
        service.stop(15)
        assert await asyncio.wait_for(starting, 60.0) is None
    finally:
        go_on.set()
    await asyncio.gather(*hanging)
