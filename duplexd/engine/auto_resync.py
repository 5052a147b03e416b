"""`auto_resync = true`: pairs that a failed secondary suspended are resynced without a command.

Once a second it is looked which pairs are suspended by a secondary error; when they are tried is
decided by `core/attempts.py`. An attempt is the same as the command: it opens an image again that
was not there. Pairs that were suspended with a failing one, as its group, are good copies of one
moment. They are resynced with it, and stay as they are until it can be: a group of which one
secondary is gone is still the newest consistent copy there is. A suspend by command is someone's
cut, and never left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.attempts import GOOD, UNDER_WAY, WANTED, Attempts
from duplexd.engine.periodic import Periodic
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock

_STATES = {pair_states.DUPLEX: GOOD, pair_states.PENDING: UNDER_WAY}


class AutoResync:
    """`resync` begins a resync of volumes by name, as the command does."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        resync: Callable[[Sequence[str]], Awaitable[Json]],
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._volumes = volumes
        self._resync = resync
        self._events = events
        self._clock = clock
        self._attempts = Attempts(
            limits.auto_resync_pause_seconds_min,
            limits.auto_resync_pause_seconds_max,
            limits.auto_resync_calm_seconds,
        )
        seconds = limits.auto_resync_look_seconds
        self._periodic = Periodic("auto_resync", timeline, seconds, self.look)

    def enable(self, wanted: bool) -> None:
        """Begin to do it, or cease. A resync that it has begun goes on."""
        self._periodic.enable(wanted)

    async def stop(self) -> None:
        """End the task. A resync that it has begun goes on."""
        await self._periodic.stop()

    async def look(self) -> None:
        """Make the attempts that are due, one after the other."""
        pairs = self._volumes.all()
        sets = _sets(pairs)
        states = {
            pair.name: state
            for pair in pairs
            if (state := WANTED if pair.name in sets else _STATES.get(pair.state)) is not None
        }
        for name in self._attempts.due(states, self._clock.monotonic()):
            await self._try(name, [pair.name for pair in sets[name]])

    async def _try(self, name: str, names: Sequence[str]) -> None:
        try:
            await self._resync(names)
        except (DuplexdError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._events.emit(
                "resync-failed",
                volumes=list(names),
                error=why,
                path=error.filename or "" if isinstance(error, OSError) else "",
                next_attempt_s=self._attempts.pause_s(name),
            )


_WITH_OTHERS = (pair_states.BY_GROUP, pair_states.BY_JOURNAL)  # at one cut, none of them failed


def _sets(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs that are resynced together, by the name of the one whose secondary failed; or by
    that of the first, where that one is none of them any more.
    """
    suspended = [pair for pair in pairs if pair.state == pair_states.SUSPENDED]
    failed = [pair for pair in suspended if pair.reason == pair_states.BY_ERROR]
    frozen = [pair for pair in suspended if pair.reason in _WITH_OTHERS]
    sets: dict[str, list[Pair]] = {}
    for pair in failed:
        sets[pair.name] = [pair, *(each for each in frozen if each.cut is pair.cut)]
    taken = {pair.name for group in sets.values() for pair in group}
    for pair in frozen:
        if pair.name not in taken:
            sets[pair.name] = [each for each in frozen if each.cut is pair.cut]
            taken.update(each.name for each in sets[pair.name])
    return sets
