"""A look, every half minute, at the room that images and journal have, and whether `state_dir` is
still the directory that the daemon uses: what health says of disks.

It is a look from outside, by paths, which the engine does without. A path may hang, so the look is
made in workers, with a time-out. A path that hung is not looked at again until that call has
returned: a look each half minute would be a thread each half minute.
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
from duplexd.runtime.one_by_one import one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.core.findings import Finding
    from duplexd.engine.controller import Controller
    from duplexd.limits import DaemonLimits
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class Surroundings:
    """`around` is what the last look found. `paths`: of the images. `misplaced`: whether another
    directory is at `state_dir` by now, or none.
    """

    def __init__(
        self,
        state_dir: str,
        paths: Callable[[], Iterable[str]],
        workers: Workers,
        limits: DaemonLimits,
        misplaced: Callable[[], bool] = lambda: False,
    ) -> None:
        self._misplaced = misplaced
        self._state_dir = state_dir
        self._paths = paths
        self._workers = workers
        self._limits = limits
        self._inside: set[str] = set()  # that a worker looks at now, given up or not
        self._warned: set[str] = set()
        self._state_misplaced = False
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
        """Once, at all of them. A missing image does not count as a silent disk:
        the engine looks for it more often, and knows when another one has taken its place.
        """
        seconds = self._limits.room_answer_seconds_max
        images, silent = dict[str, ImageRoom](), dict[str, str]()

        def done(path: str, found: ImageRoom | OSError) -> None:
            if isinstance(found, ImageRoom):
                images[path] = found
            elif path == self._state_dir or not isinstance(found, FileNotFoundError):
                silent[path] = found.strerror or str(found)

        def hung(path: str) -> None:
            silent[path] = f"the disk has not answered for {seconds:g} s"

        paths = dict.fromkeys((self._state_dir, *self._paths()))
        for path in filter(self._inside.__contains__, paths):
            hung(path)
        asked = [path for path in paths if path not in silent]
        await one_by_one(self._workers, asked, self._look_at, seconds, done, hung)
        self._warn_of_memory(images)
        state = images.pop(self._state_dir, None)
        state_silent = silent.pop(self._state_dir, "")
        misplaced = self._state_misplaced
        self.around = Around(
            images, silent, state and state.free_bytes,
            state_silent="" if misplaced else state_silent, state_misplaced=misplaced,
        )  # fmt: skip

    def _look_at(self, path: str) -> ImageRoom | OSError:
        """In a worker."""
        self._inside.add(path)
        try:
            if path == self._state_dir:
                self._state_misplaced = self._misplaced()
            return self._room(path)
        except OSError as error:
            return error
        finally:
            self._inside.discard(path)

    def _room(self, path: str) -> ImageRoom:
        return ImageRoom(*room_of(path))

    def _warn_of_memory(self, found: Mapping[str, ImageRoom]) -> None:
        """Once of each path. Health does not say it: for a test that is what one wants."""
        for path, room in found.items():
            if room.device and path not in self._warned and is_memory(room.device):
                self._warned.add(path)
                log.warning("lies in memory: a restart of the machine loses it", path=path)


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
