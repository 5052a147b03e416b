"""A look, every few seconds, whether the paths of the open images still name them.

An open image stays usable after it was deleted, moved or replaced. So its pair looks as good as
before, until a backup or the next start finds something else at the path. Suspends, resyncs, verify
and checkpoints look there themselves; this is for the hours between, when nothing is written.

    the secondary of a DUPLEX pair   is suspended, as a checkpoint would do it
    a primary that was truncated     has failed, see `shortened`
    any other image                  an event and status say it. Clients go on with the primary that
                                     is open, and a secondary is at its cut wherever it lies

A look may hang, and that says nothing of the image: it may be the path alone. It is given up, the
image stays in use, and its path is not looked at again before that look has returned.

One worker looks at all images (`runtime/one_by_one.py`): with a call for each, these looks were
most of what an idle daemon does.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.pair_states import DUPLEX
from duplexd.images.absent import AbsentLeg
from duplexd.images.place import as_lost, misplaced, shortened
from duplexd.runtime.one_by_one import OneByOne
from duplexd.runtime.tasks import several_at_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.engine.failed_legs import FailedLegs
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls

_AT_ONCE = 2  # of those that are looked at again
LOOKS_A_SECOND_MAX = 100  # or thousands of images would keep an idle daemon busy


class _Look(NamedTuple):
    pair: Pair
    leg: Leg


class ImagePlaces:
    """Of one controller."""

    def __init__(
        self,
        volumes: Volumes,
        legs: LegCalls,
        failed_legs: FailedLegs,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._volumes = volumes
        self._legs = legs
        self._failed_legs = failed_legs
        self._events = events
        self._look_s, self._again_s = limits.image_look_seconds, limits.look_again_seconds_max
        self._found: dict[Leg, str] = {}
        self._places = OneByOne(legs.workers, _seen, _disk_of, self._note, _says_nothing)
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="image places")

    async def stop(self) -> None:
        """End the task, whatever it waits for."""
        tasks = [task for task in (self._task, self._again) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def error(self, leg: Leg) -> str:
        """What was found at the path of an open image; "" if nothing is wrong with it."""
        return self._found.get(leg, "")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(self._look_s, len(self._looks()) / LOOKS_A_SECOND_MAX))
            await self.look()

    async def look(self) -> None:
        """At all of them, once."""
        looks = self._looks()
        legs = {look.leg for look in looks}
        self._found = {leg: why for leg, why in self._found.items() if leg in legs}
        await self._look_at(looks)

    async def look_again(self) -> None:
        """At what was found wrong, for who asks now: it may be right again. One that does not
        answer soon keeps nobody waiting; what it says is shown to who asks later.
        """
        found = self._found
        wrong = [look for look in self._looks() if look.leg in found] if found else []
        if not wrong:
            return
        if self._again is None or self._again.done():
            looking = several_at_once([[look] for look in wrong], self._look_at, _AT_ONCE)
            self._again = asyncio.get_running_loop().create_task(looking, name="look again")
        await asyncio.wait({self._again}, timeout=self._again_s)

    def _looks(self) -> list[_Look]:
        return [
            _Look(pair, leg)
            for pair in self._volumes.all()
            for leg in (pair.primary, pair.secondary)
            if leg is not None and not isinstance(leg, AbsentLeg)
        ]

    async def _look_at(self, looks: Sequence[_Look]) -> None:
        await self._places.call_all(looks, self._legs.patience.secondary_s)

    def _note(self, look: _Look, seen: tuple[str, str] | None) -> None:
        if seen is None:
            return
        pair, leg = look
        why, short = seen
        if not why:
            self._found.pop(leg, None)
        elif short and leg is pair.primary:
            self._failed_legs.found(pair, leg, OSError(errno.EIO, short))
        elif leg is pair.secondary and pair.state == DUPLEX:
            self._failed_legs.misplaced(pair, leg, as_lost(leg, why, why == short))
        elif leg in (pair.primary, pair.secondary):
            if leg not in self._found:
                role = "primary" if leg is pair.primary else "secondary"
                self._events.emit(
                    "image-misplaced", volume=pair.name, role=role, path=leg.path, error=why
                )
            self._found[leg] = why


def _seen(look: _Look) -> tuple[str, str] | None:
    """In a worker: what `misplaced` says, and if that is something, `shortened`. None of one that
    was closed meanwhile, or whose disk fails: its next use finds that out.
    """
    try:
        why = misplaced(look.leg)
        return why, shortened(look.leg) if why else ""
    except OSError:
        return None


def _disk_of(look: _Look) -> str:
    return look.leg.device


def _says_nothing(_look: _Look) -> None:
    """A path that hangs says nothing of the image."""
