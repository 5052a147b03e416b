"""`mark_every`: groups of this daemon that are marked by themselves.

A group is marked when that is due; the next time is counted from when it was due, not from when it
was done, so that marks do not drift. What was missed, by a stop or because the journal had no room,
is not made up for: a mark is of now. That it fails is said once, until it succeeds again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.periodic import Periodic
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock


class Marking:
    """`mark` marks volumes by name, as the command does. `every`: seconds, by group."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        mark: Callable[[Sequence[str]], Awaitable[Json]],
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._volumes = volumes
        self._mark = mark
        self._events = events
        self._clock = clock
        self.every: Mapping[str, float] = {}
        self._due: dict[str, float] = {}  # by group, monotonic
        self._failing: set[str] = set()
        self._periodic = Periodic("mark_every", timeline, limits.mark_look_seconds, self.look)

    def take(self, every: Mapping[str, float]) -> None:
        """Mark these groups from now on, the first time at once."""
        now = self._clock.monotonic()
        old = self.every
        same = {name: at for name, at in self._due.items() if old.get(name) == every.get(name)}
        self._due = {name: same.get(name, now) for name in every}
        self._failing &= every.keys()
        self.every = dict(every)
        self._periodic.enable(bool(every))

    async def stop(self) -> None:
        """End the task. A mark that it has begun is made, or not."""
        await self._periodic.stop()

    async def look(self) -> None:
        """Make the marks that are due, one after the other."""
        for name, due in list(self._due.items()):
            now = self._clock.monotonic()
            if now >= due:
                every = self.every[name]
                self._due[name] = due + every if due + every > now else now + every
                await self._one(name)

    async def _one(self, name: str) -> None:
        try:
            await self._mark(self._volumes.groups.get(name, ()))
        except (DuplexdError, OSError) as error:
            if name not in self._failing:
                self._failing.add(name)
                self._events.emit("mark-failed", group=name, error=str(error))
            return
        self._failing.discard(name)
