"""Leases: who holds writes, until when, and how long the writes waited.

Every hold has to end, whatever its owner does: NBD clients time out on requests that wait too long,
and a single I/O error can turn a file system read-only. So a lease ends at its deadline, with its
owner's connection, or when the daemon stops; only an end that its owner asked for is not `lost`.
Which commands a lease permits, with which fencing number, is decided in `core/participant.py`; this
file has the timers, the gates, and the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from typing import TYPE_CHECKING

from duplexd.core import lease as ends
from duplexd.core.cut_states import VOID
from duplexd.core.cuttable import check_can_be_cut
from duplexd.core.lease import Lease
from duplexd.core.participant import Participant
from duplexd.core.waits import Waits, by_name, together
from duplexd.errors import LimitError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.write_path import WritePath
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock


PASSED_POLL_SECONDS = 0.005


class Hold(Lease):
    """A lease of this run. `ended` gets the reason when it is over. `writes` are then those that
    waited for it: volume and time of arrival, not the changes, whose payloads would stay in memory.
    """

    __slots__ = ("ended", "timer", "writes")

    def __init__(
        self,
        pairs: Sequence[Pair],
        owner: str,
        hold_s: float,
        began: float,
        cut_id: str,
        mark: bool = False,
    ) -> None:
        super().__init__(secrets.token_hex(8), pairs, owner, hold_s, began, cut_id, mark)
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.writes: Sequence[tuple[str, float]] = ()

    def count(self) -> tuple[dict[str, Waits], dict[str, int]]:
        """How long the writes of each volume waited, and how many arrived in each phase. Computed
        on demand, because writes are waiting when a hold ends.
        """
        waited: dict[str, Waits] = {}
        phases = dict.fromkeys(ends.PHASES, 0)
        for name, arrived in self.writes:
            since = max(arrived, self.began)
            waited.setdefault(name, Waits()).add(self.began + self.held_s - since)
            phases[self.phase(since)] += 1
        return waited, phases

    def show(self, now: float) -> Json:
        """As status has it; `now` is monotonic seconds."""
        return {
            "id": self.id,
            "volumes": self.volumes,
            "owner": self.owner,
            "hold_s": self.hold_s,
            "fence": self.fence,
            "cut": None if self.mark else self.cut_id or None,
            "mark": self.cut_id if self.mark else None,
            "remaining_s": max(0.0, self.deadline - now),
        }


class Leases:
    """All leases of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        write_path: WritePath,
        clock: Clock,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._write_path = write_path
        self._clock = clock
        self._events = events
        self._limits = limits
        # The marker of this start is not written yet; fences are above those of the last one.
        start = timeline.ledger.ahead.next_start(timeline.ledger.starts)
        self.participant: Participant[Hold] = Participant(
            timeline.ledger.state_of, timeline.append, start
        )
        self.on_cut_hold_ended: Callable[[Hold], None] = _no_cut  # of a lease whose cut was made
        self.longest_allowed_s = limits.hold_seconds_max  # `hold_max` of the configuration
        self._ended_cuts: deque[str] = deque(maxlen=limits.cuts_kept_max)
        self.lost = 0

    @property
    def held(self) -> dict[str, Hold]:
        """Those that hold, by id."""
        return self.participant.leases

    def holds(self, pair: Pair) -> bool:
        """Whether some lease holds this volume."""
        return any(pair in hold.pairs for hold in self.held.values())

    def holder(self, pair: Pair) -> Hold | None:
        """A lease that holds this volume for somebody who relies on it longer than a mark takes."""
        held = (hold for hold in self.held.values() if not hold.mark)
        return next((hold for hold in held if pair in hold.pairs), None)

    async def quiesce(
        self,
        pairs: list[Pair],
        hold_s: float,
        owner: str,
        cut_id: str = "",
        mark: bool = False,
    ) -> Hold:
        """Close the gates: from now on changes wait. Returns when none is in flight. The lease ends
        no later than its deadline.

        With `cut_id` it is held for that cut of a group, or for that `mark`. Raises UsageError,
        LimitError, WrongStateError, LeaseLostError with nothing held. Cancelled: it is released.
        """
        self._check(pairs, hold_s)
        self._check_room(pairs, hold_s)
        if cut_id and not mark:
            check_can_be_cut(pairs)  # before any write waits for a cut that cannot be made
        hold = Hold(pairs, owner, hold_s, self._clock.monotonic(), cut_id, mark)
        self.participant.close(hold)
        self._write_path.close_gates(pairs)
        self._start_timer(hold, hold_s)
        if not mark:  # one a second is no news
            self._events.emit(
                "quiesced",
                volumes=hold.volumes,
                lease=hold.id,
                owner=owner,
                hold_s=hold_s,
                **_cut_field(hold),
            )
        try:
            await self._timeline.at_rest(lambda: None)
        except asyncio.CancelledError:
            self.end(hold, ends.OWNER_GONE)
            raise
        hold.drained = self._clock.monotonic()
        return hold

    def _check(self, pairs: list[Pair], hold_s: float) -> None:
        longest = self._limits.hold_seconds_max
        if not pairs:
            raise UsageError("name at least one volume or group")
        if not 0 < hold_s <= longest:
            raise UsageError(
                f"hold of {hold_s:g} s: expected more than 0 and at most {longest:g} seconds; "
                "clients give up on requests that wait longer"
            )
        if len(self.held) >= self._limits.leases_max:
            raise LimitError(
                f"there are {self._limits.leases_max} leases already (leases_max); "
                "release one first"
            )

    def _check_room(self, pairs: Sequence[Pair], hold_s: float) -> None:
        """See the table in `core/lease.py`."""
        longest, now = self._limits.hold_seconds_max, self._clock.monotonic()
        since = ((pair.name, self._write_path.held_since(pair)) for pair in pairs)
        held = {name: at for name, at in since if at is not None}
        room_s = ends.room_s(held.values(), now, longest)
        if hold_s > room_s:
            name = min(held, key=held.__getitem__)
            raise WrongStateError(
                f"writes of volume {name!r} wait for {now - held[name]:.3g} s already, for this or "
                f"other leases, and may wait for {longest:g} s in all: it cannot be held for "
                f"{hold_s:g} s more, at most for {max(0.0, room_s):.3g}; try again when it is free"
            )

    @contextlib.contextmanager
    def closed(self, pairs: Sequence[Pair]) -> Iterator[None]:
        """Within, changes of these volumes wait, without a lease. For what must not be cut short by
        a deadline, because a change in between would be lost: it waits for the journal only.
        """
        self._write_path.close_gates(pairs)
        try:
            yield
        finally:
            self._write_path.open_gates(pairs)

    async def passed(self, pairs: Sequence[Pair]) -> None:
        """Return when all writes have begun that waited for leases which have ended."""
        passing_since = self._write_path.passing_since
        while any(passing_since(pair) is not None for pair in pairs):  # noqa: ASYNC110 - it is rare
            await asyncio.sleep(PASSED_POLL_SECONDS)

    def _start_timer(self, hold: Hold, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        hold.timer = loop.call_later(seconds, self.end, hold, ends.DEADLINE)

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Hold:
        """Extend a hold to `hold_s` seconds from now, under a new fencing number.

        Raises UsageError, LeaseLostError, NotFoundError.
        """
        longest, now = self._limits.hold_seconds_max, self._clock.monotonic()
        hold = self.participant.find(lease_id, fence)
        held_s = now - hold.began
        if not 0 < hold_s <= longest - held_s:
            raise UsageError(
                f"cannot extend the hold by {hold_s:g} s: it has lasted {held_s:.3g} s, and a hold "
                f"lasts at most {longest:g} s; release it, and quiesce again"
            )
        self._check_room(hold.pairs, hold_s)
        hold = self.participant.renew(lease_id, fence)
        if hold.timer is not None:
            hold.timer.cancel()
        hold.deadline = now + hold_s
        self._start_timer(hold, hold_s)
        return hold

    def release(self, lease_id: str, reason: str = ends.BY_OWNER, fence: int | None = None) -> bool:
        """End a hold, named by its id or that of its cut; False if it had ended already.

        Raises NotFoundError for an unknown lease, LeaseLostError if another client has renewed it.
        """
        if lease_id in self.participant.ended or lease_id in self._ended_cuts:
            return False
        return self.end(self.participant.find(lease_id, fence), reason)

    def release_cut(self, cut_id: str, reason: str) -> str:
        """End the lease that is held for this cut, if there is one; its id or ""."""
        for hold in list(self.held.values()):
            if cut_id and hold.cut_id == cut_id:
                self.end(hold, reason)
                return hold.id
        return ""

    def end(self, hold: Hold, reason: str) -> bool:
        """Open the gates of a lease; False if it had ended. If its cut was made, but this is not
        the `open` of that cut, the cut becomes void.
        """
        if not self.participant.end(hold, reason):
            return False
        if hold.timer is not None:
            hold.timer.cancel()
        if not hold.ended.done():
            hold.ended.set_result(reason)
        if hold.cut_id:
            self._ended_cuts.append(hold.cut_id)
        now = self._clock.monotonic()
        hold.held_s = now - hold.began
        freed = self._write_path.open_gates(hold.pairs)
        hold.writes = [(arrival.change.volume.name, arrival.at) for arrival in freed]
        lost = hold.state == ends.LOST
        self.lost += lost
        if hold.cut_id and hold.cut_at is not None:
            self.on_cut_hold_ended(hold)
        if lost or not hold.mark:
            self._events.emit(
                "released",
                volumes=hold.volumes,
                lease=hold.id,
                reason=reason,
                held_s=hold.held_s,
                writes_held=len(hold.writes),
                **_cut_field(hold),
                **({"verdict": VOID} if lost else {}),
            )
        return True

    def figures(self, hold: Hold | None, pause_s: float = 0.0) -> Json:
        """How long writes waited under a lease that has ended; without a lease, for a cut that took
        `pause_s`.
        """
        if hold is None:
            waited, held_s = dict[str, Waits](), pause_s
            phases = dict.fromkeys(ends.PHASES, 0)
            spans = dict.fromkeys(ends.PHASES, 0.0) | {ends.CUTTING: pause_s}
        else:
            (waited, phases), held_s, spans = hold.count(), hold.held_s, hold.spans()
        waits = together(waited.values())
        return {
            "seconds_max": waits.max_s if waits.count else pause_s,
            "writes_held": waits.count,
            "p50_s": waits.quantile(0.5),
            "p99_s": waits.quantile(0.99),
            "held_s": held_s,
            "hold_max_s": self.longest_allowed_s,
            "within_limit": held_s <= self.longest_allowed_s,
            "phases": {
                name: {"seconds": spans[name], "writes": phases[name]} for name in ends.PHASES
            },
            "volumes": [{"name": name, **each} for name, each in by_name(waited).items()],
            "buckets": waits.pack(),
        }

    def stop(self) -> None:
        """End every hold: the daemon stops."""
        for hold in list(self.held.values()):
            self.end(hold, ends.STOPPING)


def _cut_field(hold: Hold) -> dict[str, str]:
    return {"cut": hold.cut_id} if hold.cut_id else {}


def _no_cut(_hold: Hold) -> None:
    """No cut was made."""
