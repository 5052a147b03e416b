"""Comparing the legs of pairs while they are in use.

Pieces are compared in a worker, without a hold, so a change in flight may look like a difference. A
difference therefore counts only if it is still there with the volume held and the secondary at the
last number that it may hold. That hold is short and rarely needed.

A difference is recorded when it is found (`difference_record.py`). A comparison of everything says
at its end that there is no other one, or none.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.core.leg_differences import all_equal, joined
from duplexd.engine.compare import LARGE_PIECE_BYTES, Compared, Legs, compare, elsewhere
from duplexd.engine.difference_record import Comparison
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.images.unreadable import UnreadableError
from duplexd.runtime.watch import HungError, Watch
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.leg_differences import Run
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.engine.difference_record import DifferenceRecord
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls

    Progress = Callable[[str, int, int], None]  # volume, bytes done, bytes in all

T = TypeVar("T")

RECHECKS_MAX = 3
COMPARABLE = (pair_states.DUPLEX, pair_states.SUSPENDED)
_PROGRESS_BYTES = 64 << 20


class _Sum(NamedTuple):
    """Of the pieces so far."""

    offset: int = 0
    looked: int = 0
    first: int | None = None
    runs: Sequence[Run] = ()

    def plus(self, found: Compared, most: int) -> _Sum:
        first = found.first_difference if self.first is None else self.first
        runs = joined([*self.runs, *found.runs], most) if found.runs else self.runs
        return _Sum(self.offset + found.length, self.looked + found.looked_bytes, first, runs)


class Verification:
    """Compares pairs of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        legs: LegCalls,
        record: DifferenceRecord,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._leases = leases
        self._followers = followers
        self._legs = legs
        self._record = record
        self._hold_s = limits.recheck_hold_seconds
        self._runs_max = limits.differing_runs_max

    async def verify(self, pairs: Sequence[Pair], progress: Progress | None) -> Json:
        """Compare all of a DUPLEX pair, and of a SUSPENDED one what did not change since its cut.

        Raises WrongStateError for others, and where the secondary is not usable: it is not a copy
        of any moment, so it must not be called equal to one. A leg that cannot be read, or whose
        path no longer names the open image, makes the pair unequal, whatever else it holds, and
        whether it is usable or not: that says more.
        """
        for pair in pairs:
            _refuse_delayed(pair)
        wrong = [f"{pair.name} is {pair.state}" for pair in pairs if pair.state not in COMPARABLE]
        if wrong:
            raise WrongStateError(
                f"only DUPLEX and SUSPENDED pairs can be compared: {', '.join(wrong)}"
            )
        moved = {
            pair: await self._in_worker(pair, Legs(pair.primary, pair.copy_of), elsewhere)
            for pair in pairs
        }
        for pair, why in moved.items():
            if not why:
                _refuse_unusable(pair)
        results = [await self._one(pair, why, progress) for pair, why in moved.items()]
        return {"volumes": results, "equal": all_equal([result["equal"] for result in results])}

    async def _one(self, pair: Pair, why: str, progress: Progress | None) -> Json:
        legs = Legs(pair.primary, pair.copy_of)
        comparison = Comparison(pair, legs)
        total, shown, unreadable = _Sum(), 0, ""
        look = self._large_piece
        size = pair.size  # it may grow meanwhile
        end = 0 if _unusable(pair) else size
        while total.offset < end:
            try:
                found = await look(pair, legs, total.offset, end)
            except UnreadableError as error:
                if lost_leg(legs, error) is None:
                    legs.check(pair)  # it may only have been closed
                unreadable = error.strerror or str(error)
                break
            if found.runs:
                await self._record.differ(comparison, found.runs)
            look = self.piece if found.runs else self._large_piece
            total = total.plus(found, self._runs_max)
            if progress is not None and total.offset - shown >= _PROGRESS_BYTES:
                progress(pair.name, total.offset, size)
                shown = total.offset
        if not (why or unreadable):
            _refuse_unusable(pair)  # it may have become so meanwhile
        why = "; ".join(filter(None, (why and why + _remedy(pair), unreadable)))
        if not why and total.looked == size:
            await self._record.conclude(comparison, total.runs)
        if progress is not None:
            progress(pair.name, size, size)
        return self._result(pair, total, why)

    def _result(self, pair: Pair, total: _Sum, why: str) -> Json:
        """What was recorded before, and left out now because it changed since the cut, counts.
        `equal` is None where all was left out: nothing speaks for it.
        """
        first, runs, differs = total.first, total.runs, pair.record.differs
        if first is None and differs is not None:
            first, runs = differs.runs[0][0], differs.runs
        same, left_out = first is None and not why, total.offset - total.looked
        return {
            "name": pair.name,
            "equal": None if same and left_out and not total.looked else same,
            "compared_bytes": total.looked,
            "changed_bytes": left_out,
            "first_difference": first,
            "why": why or None,
            "differences": [list(run) for run in runs],
        }

    async def _large_piece(self, pair: Pair, legs: Legs, offset: int, end: int) -> Compared:
        """As `piece`, but a large one where all is equal. Else it is a small one: the hold is as
        short, and what differs before a block that cannot be read is found.
        """
        large = partial(compare, pair, offset, end, piece_bytes=LARGE_PIECE_BYTES)
        try:
            found = await self._in_worker(pair, legs, large)
        except UnreadableError as error:
            if lost_leg(legs, error) is not None:
                raise
        else:
            legs.check(pair)
            if found.first_difference is None:
                return found
        return await self.piece(pair, legs, offset, end)

    async def piece(self, pair: Pair, legs: Legs, offset: int, end: int) -> Compared:
        """Compare the next piece before `end`. Raises UnreadableError, and as `verify` does."""
        found = await self._in_worker(pair, legs, partial(compare, pair, offset, end))
        legs.check(pair)
        if found.first_difference is None:
            return found
        return await self._recheck(pair, legs, offset, end)

    async def _in_worker(self, pair: Pair, legs: Legs, call: Callable[[Legs], T]) -> T:
        """The result of a call with these legs. Raises TimedOutError for one that hangs. One that
        has lost writes, as the read says, has failed.
        """
        watch: Watch[Waited] = Watch()
        watched = legs.watched(pair, watch)
        try:
            return await self._legs.walk(self, watch, lambda: call(watched))
        except HungError as hung:
            raise TimedOutError(
                f"{pair.name}: {hung.filename}: {hung.strerror}; it was not compared"
            ) from hung
        except UnreadableError as error:
            lost = lost_leg(legs, error)
            if lost is not None and isinstance(error.__cause__, LostWritesError):
                self._legs.on_hung(pair, lost, error.__cause__)
            raise

    async def _recheck(self, pair: Pair, legs: Legs, offset: int, end: int) -> Compared:
        """Compare again with the volume held and its follower as far as it may go.

        Raises WrongStateError if the pair can no longer be compared, TimedOutError if its
        secondary trails too far behind.
        """
        for _ in range(RECHECKS_MAX):
            await self._leases.passed([pair])  # what the hold before this one kept waiting
            hold = await self._leases.quiesce([pair], self._hold_s, "verify")
            try:
                await self._arrival(pair, hold)
                before = _place(pair)
                found = await self._in_worker(pair, legs, partial(compare, pair, offset, end))
                legs.check(pair)
                # a resync may have begun and ended meanwhile
                if before == _place(pair) and (found.first_difference is None or not hold.lost):
                    return found
            finally:
                self._leases.release(hold.id, ends.BY_OWNER)
        raise TimedOutError(
            f"{pair.name}: its secondary trails too far behind to be compared; "
            "try again with less load, or suspend it first"
        )

    async def _arrival(self, pair: Pair, hold: Hold) -> None:
        """Wait until the secondary holds all it may hold, or the hold is over."""
        tail = self._timeline.written

        def there() -> bool:
            off = pair.mirrors or not pair.usable or pair.state not in COMPARABLE
            return off or pair.applied >= min(tail, pair.limit(tail))

        over = asyncio.Event()
        waiting = asyncio.ensure_future(self._followers.until(there))
        waiting.add_done_callback(lambda _: over.set())
        hold.ended.add_done_callback(lambda _: over.set())
        try:
            await over.wait()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)  # what it raised is no news


def lost_leg(legs: Legs, error: UnreadableError) -> Leg | None:
    """Which of the images has lost writes that had succeeded, if that is why it cannot be read."""
    if not isinstance(error.__cause__, LostWritesError):
        return None
    return legs.primary if error.filename == legs.primary.path else legs.secondary


def _place(pair: Pair) -> tuple[str, Cut | None]:
    """Where its secondary should be. Raises WrongStateError if it can no longer be compared."""
    if pair.state not in COMPARABLE:
        raise WrongStateError(
            f"{pair.name} became {pair.state} while it was compared; "
            "compare it again when it is DUPLEX or SUSPENDED"
        )
    _refuse_delayed(pair)
    _refuse_unusable(pair)
    return pair.state, pair.cut


def _remedy(pair: Pair) -> str:
    """What to do about an image that is elsewhere: one of a pair that was frozen is not written to
    any more, so it need not be put back.
    """
    if pair.state != pair_states.SUSPENDED or pair.reason == pair_states.BY_COMMAND:
        return ""
    return (
        f"; the pair is SUSPENDED ({pair.reason}), so its secondary is frozen: "
        f"put an image of its size there, then `duplexctl resync {pair.name}`"
    )


def _unusable(pair: Pair) -> bool:
    return pair.state == pair_states.SUSPENDED and not pair.usable


def _refuse_delayed(pair: Pair) -> None:
    if pair.is_delayed:
        raise WrongStateError(
            f"{pair.name}: its secondary is delayed, so it differs from the primary by what "
            "changed since; suspend it, then compare"
        )


def _refuse_unusable(pair: Pair) -> None:
    if _unusable(pair):
        why = pair.cut.why if pair.cut is not None else ""
        because = f": {why}" if why else ""
        raise WrongStateError(
            f"{pair.name}: its secondary is not usable until it was copied{because}; resync it"
        )
