"""What is done in the day, step by step. Whatever was refused, the day goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.system_calls.world import NAMES, REQUEST_SECONDS_MAX, VOLUME_BYTES, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Step = Callable[[World], Awaitable[object]]


LATER_SECONDS = 600


async def start(world: World) -> None:
    """Images, journal and checkpoint are made."""
    await world.start(traced=True)


async def write(world: World) -> None:
    """Each kind of change, on each volume."""
    for name in NAMES:
        await world.write(name, 0, 2)
        await world.zero(name, 4, 2)
        await world.zero(name, 0, 1, trim=True)
    await world.write("data", 8, fua=True)
    await world.flush("wal")


async def cut(world: World) -> None:
    """Cuts of the group and of the other volume."""
    await world.suspend("db", "data", "wal")
    await world.suspend("late")


async def write_after(world: World) -> None:
    """Changes that the secondaries lack."""
    for name in NAMES:
        await world.write(name, 1, 2)
        await world.zero(name, 6, 1, trim=True)
    await world.flush("data")


async def resync(world: World) -> None:
    """Bring the secondaries along."""
    await world.resync("db")
    await world.resync("late")


async def overwrite(world: World) -> None:
    """The same again and again, so that its map is shorter than the journal."""
    for _ in range(5):
        for name in NAMES:
            await world.write(name, 16, 2)
    await world.flush("data")


async def swap(world: World) -> None:
    """The images of a pair change roles."""
    await world.ask("POST", "/v1/swap", {"targets": ["data"]})
    await world.write("data", 20)
    await world.flush("data")


def empty(path: Path) -> None:
    """A new, empty image in the place of another, made some minutes later: nobody is as fast as the
    few milliseconds in which the time of an image is no evidence.
    """
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, VOLUME_BYTES)
    later = time.time() + LATER_SECONDS
    os.utime(path, (later, later))


async def fill(world: World) -> None:
    """More than the journal holds: segments are dropped, after a checkpoint."""
    for number in range(24):
        await world.write("data", number % 8 * 4, 2)
    await world.flush("data")


async def reload(world: World) -> None:
    """A volume more, and one less."""
    for volumes in ({"data": VOLUME_BYTES, "wal": VOLUME_BYTES, "more": VOLUME_BYTES}, None):
        world.files.volumes = volumes or dict.fromkeys(("data", "wal"), VOLUME_BYTES)
        world.files.write()
        before = len(world.daemon.lines())
        if not world.daemon.running:
            await world.status()  # raises
        world.daemon.signal(signal.SIGHUP)
        deadline = time.monotonic() + REQUEST_SECONDS_MAX
        while not any('"event": "reload' in line for line in world.daemon.lines()[before:]):
            await world.status()  # which is there as long as the daemon is
            assert time.monotonic() < deadline, "the reload does not end"
            await asyncio.sleep(0.005)


async def kill(world: World) -> None:
    """Killed while one pair is suspended. Then its disk dies, or that of another is exchanged."""
    await world.suspend("late")
    await world.write("late", 30)
    await world.write("data", 30)
    await world.write("wal", 30, fua=True)
    await world.quiet()  # else it would be killed before it has logged what failed
    secondary = await _secondary(world, "wal")
    world.daemon.kill()
    world.disconnect()
    world.replaced.add("wal")
    empty(secondary)


async def _secondary(world: World, name: str) -> Path:
    """The one of the configuration, unless the pair was swapped because its primary failed: to lose
    the other image then would be to lose both.
    """
    if not (world.daemon.running and world.met()):
        return world.files.secondary_of(name)
    return Path((await world.status())[name]["secondary"]["path"])


async def copy(world: World) -> None:
    """Copy all of a pair whose secondary is a new image."""
    await world.resync("wal")


async def roll_forward(world: World) -> None:
    """The suspended secondary becomes the primary, with all that came after its cut."""
    await world.write("late", 31)
    world.leave("late")
    kept = str(world.files.directory / "b" / "kept.img")
    request = {"targets": ["late"], "roll_forward": True, "keep_to": kept}
    await world.ask("POST", "/v1/swap", request)
    await world.write("late", 32)
    await world.flush("late")


async def stop(world: World) -> None:
    """In order."""
    world.disconnect()
    world.daemon.signal(signal.SIGTERM)
    await asyncio.to_thread(world.daemon.wait, REQUEST_SECONDS_MAX)


DAY: dict[str, Step] = {
    "start": start,
    "write": write,
    "cut": cut,
    "write after the cut": write_after,
    "resync by journal": resync,
    "cut again": cut,
    "overwrite": overwrite,
    "resync by map": resync,
    "swap": swap,
    "fill the journal": fill,
    "reload": reload,
    "cut, and be killed": kill,
    "start again": start,
    "copy to a new image": copy,
    "roll forward": roll_forward,
    "stop": stop,
}
