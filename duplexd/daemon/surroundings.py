"""A look, every half minute, at the room that images and journal have: what health says of disks.

It is a look from outside, by paths, which the engine does without. A path may hang, so each look is
a call in a worker of its own with a time-out. A path that hung is not looked at again until that
call has returned: a look each half minute would be a thread each half minute.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from duplexd.api.health import Outlook
from duplexd.core.findings import Around, Expected, ImageRoom
from duplexd.daemon.complaints import Complaints
from duplexd.runtime.free_space import room_of
from duplexd.runtime.machine import is_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from duplexd.core.findings import Finding
    from duplexd.engine.controller import Controller
    from duplexd.json_object import Json
    from duplexd.limits import DaemonLimits
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

# There may be thousands of images, and all at once would keep the loop for 50 ms and more
LOOKS_AT_ONCE = 32
PAUSE_SECONDS = 0.002


class Surroundings:
    """`around` is what the last look found. `status` names the images."""

    def __init__(
        self, state_dir: str, status: Callable[[], Json], workers: Workers, limits: DaemonLimits
    ) -> None:
        self._state_dir = state_dir
        self._status = status
        self._workers = workers
        self._limits = limits
        self._looking: dict[str, asyncio.Task[ImageRoom]] = {}
        self._warned: set[str] = set()
        self.around = Around()

    async def look_forever(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("unexpected error of a look at the disks")
            await asyncio.sleep(self._limits.room_look_seconds)

    async def look(self) -> None:
        """Once, at all of them at the same time. A missing image does not count as a silent disk:
        the engine looks for it more often, and knows when another one has taken its place.
        """
        looking: dict[str, asyncio.Task[ImageRoom]] = {}
        for path in (*image_paths(self._status()), self._state_dir):
            looking[path] = self._look_at(path)
            if len(looking) % LOOKS_AT_ONCE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.wait(looking.values(), timeout=self._limits.room_answer_seconds_max)
        images, silent = dict[str, ImageRoom](), dict[str, str]()
        for path, task in looking.items():
            if not task.done():
                seconds = self._limits.room_answer_seconds_max
                silent[path] = f"the disk has not answered for {seconds:g} s"
            elif (error := task.exception()) is None:
                images[path] = task.result()
            elif path == self._state_dir or not isinstance(error, FileNotFoundError):
                silent[path] = getattr(error, "strerror", None) or str(error)
        self._warn_of_memory(images)
        state = images.pop(self._state_dir, None)
        state_silent = silent.pop(self._state_dir, "")
        self.around = Around(images, silent, state and state.free_bytes, state_silent=state_silent)

    def _look_at(self, path: str) -> asyncio.Task[ImageRoom]:
        """A look at it, or the one that has not ended yet."""
        running = self._looking.get(path)
        if running is None or running.done():
            work = self._workers.of(("room", path)).run(lambda: self._room(path))
            running = self._looking[path] = asyncio.ensure_future(work)
        return running

    def _room(self, path: str) -> ImageRoom:
        return ImageRoom(*room_of(path))

    def _warn_of_memory(self, found: Mapping[str, ImageRoom]) -> None:
        """Once of each path. Health does not say it: for a test that is what one wants."""
        for path, room in found.items():
            if room.device and path not in self._warned and is_memory(room.device):
                self._warned.add(path)
                log.warning("lies in memory: a restart of the machine loses it", path=path)


def image_paths(status: Json) -> Iterator[str]:
    """Of all images of a status."""
    for volume in status["volumes"]:
        for role in ("primary", "secondary"):
            if path := (volume.get(role) or {}).get("path"):
                yield path


async def watch(
    around: Surroundings, findings: Callable[[], Iterable[Finding]], limits: DaemonLimits
) -> None:
    """Look at the disks, and log what is not well, until it is cancelled."""
    await asyncio.gather(
        around.look_forever(), Complaints(findings).look_forever(limits.health_look_seconds)
    )


def outlook_on(controller: Controller, around: Surroundings, workers: Workers) -> Outlook:
    """What health knows beside the controller; of `[health]` what is in force at that time."""

    def expected() -> Expected:
        health = controller.config.health
        scrub_s = controller.config.scrub.every
        return Expected(health.suspended_max, health.cut_age_max, scrub_s, health.drill_age_max)

    async def threads() -> None:
        """A thread that nothing else may hold up: one of each pool would hang with its disk."""
        await workers.of("health").run(_answer)

    return Outlook(lambda: around.around, expected, threads)


def _answer() -> None:
    """What a worker has to do to show that there is one."""
