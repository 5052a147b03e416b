"""Legs that fail outside of a batch: in a read, a sync, a copy.

What happened is found by a worker or a timer, and has its consequences later, at rest. Until then
the images may have changed roles, so a leg is judged by what it is at that moment.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.markers import Missed
from duplexd.engine.hung import leave_hung
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.failures import Failures
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg


class FailedLegs:
    """`on_primary_failed(pair, error)` is called at rest. It makes another image the primary, or
    notes in `pair.failed` that the volume is not served.
    """

    def __init__(self, timeline: Timeline, volumes: Volumes, failures: Failures) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._failures = failures
        self.on_primary_failed: Callable[[Pair, OSError], None] = _nothing_done

    def found(self, pair: Pair, leg: Leg, error: OSError) -> None:
        """This leg of the pair does not answer any more, or has lost writes (LostWritesError)."""
        self._timeline.when_at_rest(lambda: self._silent(pair, leg, error))

    def misplaced(self, pair: Pair, leg: Leg, error: OSError) -> None:
        """The path of this secondary of a DUPLEX pair no longer names it."""

        def suspend() -> None:
            current = leg is pair.secondary and pair.state == pair_states.DUPLEX
            if current and not (pair.failed or self._timeline.failed):
                self.lost(pair, error)

        self._timeline.when_at_rest(suspend)

    def _silent(self, pair: Pair, leg: Leg, error: OSError) -> None:
        if self._timeline.failed:
            return
        if leg is pair.primary and not pair.failed:
            self.on_primary_failed(pair, error)
        elif leg is pair.secondary and isinstance(error, LostWritesError):
            self.lost(pair, error)
        elif leg is pair.secondary and pair.mirrors:
            members, at = self._volumes.group_of(pair), self._timeline.written
            self._failures.freeze(members, pair, at, error, (), {})
        elif pair.state == pair_states.SUSPENDED and pair.usable and pair.secondary_dirty:
            self.lost(pair, error)  # it was not synced at its cut yet
        elif pair.state in (pair_states.PENDING, pair_states.SUSPENDED):
            leave_hung(pair, error)  # of others, who follows for them suspends them first

    def lost(self, pair: Pair, error: OSError) -> None:
        """Of what is on the secondary nothing is known, so all of it has to be copied again. At
        rest.

        That must be in the journal: the kernel reports the error of a sync once, and the next sync
        succeeds. So it is where the path names another image: what was written will not be read.
        """
        if pair.state == pair_states.SIMPLEX:  # not served, so nothing was copied to it yet
            leave_hung(pair, error)
            return
        timeline, everything = self._timeline, pair.record.full_map()
        suspended = pair.state == pair_states.SUSPENDED
        if suspended and not pair.record.usable:
            leave_hung(pair, error)
            timeline.must(partial(timeline.append, Missed({pair.id: everything})))
            return
        duplex = pair.state == pair_states.DUPLEX
        members = self._volumes.group_of(pair) if duplex else {pair}
        at = pair.applied if suspended else timeline.written
        self._failures.freeze(members, pair, at, error, {pair}, {pair: everything})


def _nothing_done(_pair: Pair, _error: OSError) -> None:
    """Nobody has another primary."""
