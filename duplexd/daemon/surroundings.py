"""A look, every half minute, at the room that images and journal have, and whether `state_dir` is
still the directory that the daemon uses, and whether clients find its Unix sockets: what health
says of paths.

It is a look from outside, by paths, which the engine does without. A path may hang, so the look is
made in workers, with a time-out. A path that hung is not looked at again until that call has
returned: a look each half minute would be a thread each half minute. Of a disk that hangs, two
calls stand for the others (`runtime/one_by_one.py`). Where the disk of an image is not known, which
is so of one that could not be opened, nothing is said of it that others have shown.
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
from duplexd.runtime.one_by_one import OneByOne

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.core.findings import Finding
    from duplexd.engine.controller import Controller
    from duplexd.limits import DaemonLimits
    from duplexd.net.listen import BoundSocket
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class Surroundings:
    """`images`: the paths of the images, and on which disk each lies, "" if that is not known.
    `misplaced`: whether another directory is at `state_dir` by now, or none. `sockets`: those that
    clients connect to.
    """

    def __init__(
        self,
        state_dir: str,
        images: Callable[[], Mapping[str, str]],
        workers: Workers,
        limits: DaemonLimits,
        misplaced: Callable[[], bool] = lambda: False,
        sockets: Callable[[], Iterable[BoundSocket]] = tuple,
    ) -> None:
        self._misplaced = misplaced
        self._state_dir = state_dir
        self._images = images
        self._sockets = sockets
        self._disks: Mapping[str, str] = {}
        self._bound: dict[str, BoundSocket] = {}
        self._removed: set[str] = set()
        self._limits = limits
        self._looks = OneByOne(
            workers, self._look_at, self._disk_of, self._answered, self._hangs, self._left
        )
        self._rooms: dict[str, ImageRoom] = {}
        self._silent: dict[str, str] = {}
        self._warned: set[str] = set()
        self._state_misplaced = False

    @property
    def around(self) -> Around:
        """What is known by now; of what has not been looked at yet, nothing."""
        images, silent, misplaced = dict(self._rooms), dict(self._silent), self._state_misplaced
        state, state_silent = images.pop(self._state_dir, None), silent.pop(self._state_dir, "")
        return Around(
            images, silent, state and state.free_bytes,
            state_silent="" if misplaced else state_silent, state_misplaced=misplaced,
            removed=frozenset(self._removed),
        )  # fmt: skip

    async def look_forever(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("unexpected error of a look at the disks")
            await asyncio.sleep(self._limits.room_look_seconds)

    async def look(self) -> None:
        """Once, at all of them."""
        self._disks = self._images()
        self._bound = {str(each.address): each for each in self._sockets()}
        paths = dict.fromkeys((self._state_dir, *self._bound, *self._disks))
        for gone in (self._rooms.keys() | self._silent.keys() | self._removed) - paths.keys():
            self._forget(gone)
        await self._looks.call_all(list(paths), self._limits.room_answer_seconds_max)
        self._warn_of_memory()

    def _answered(self, path: str, found: ImageRoom | OSError | bool) -> None:
        """A missing image does not count as a silent disk: the engine looks for it more often, and
        knows when another one has taken its place.
        """
        self._forget(path)
        if isinstance(found, bool):
            self._removed |= {path} if found else set()
        elif isinstance(found, ImageRoom):
            self._rooms[path] = found
        elif path == self._state_dir or not isinstance(found, FileNotFoundError):
            self._silent[path] = found.strerror or str(found)

    def _hangs(self, path: str) -> None:
        self._forget(path)
        seconds = self._limits.room_answer_seconds_max
        self._silent[path] = f"the disk has not answered for {seconds:g} s"

    def _left(self, path: str) -> None:
        self._forget(path)
        if self._disk_of(path):
            self._silent[path] = "other images on its disk have not answered"

    def _forget(self, path: str) -> None:
        self._rooms.pop(path, None)
        self._silent.pop(path, None)
        self._removed.discard(path)

    def _disk_of(self, path: str) -> str:
        alone = path == self._state_dir or path in self._bound
        return path if alone else self._disks.get(path, "")

    def _look_at(self, path: str) -> ImageRoom | OSError | bool:
        """In a worker. Of a socket, whether its file was removed."""
        try:
            if bound := self._bound.get(path):
                return bound.is_lost
            if path == self._state_dir:
                self._state_misplaced = self._misplaced()
            return self._room(path)
        except OSError as error:
            return error

    def _room(self, path: str) -> ImageRoom:
        return ImageRoom(*room_of(path))

    def _warn_of_memory(self) -> None:
        """Once of each path. Health does not say it: for a test that is what one wants."""
        for path, room in self._rooms.items():
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
