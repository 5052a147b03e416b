"""Comparing the legs of pairs while they are in use.

Pieces are compared in a worker, without a hold, so a change in flight may look like a difference. A
difference therefore counts only if it is still there with the volume held and the secondary at the
last number that it may hold. That hold is short and rarely needed.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.core.patience import PRIMARY, SECONDARY
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.images.holes import equal_holes
from duplexd.images.place import misplaced
from duplexd.images.unreadable import UnreadableError, read
from duplexd.replication.watched import WatchedLeg
from duplexd.runtime.watch import HungError, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls

    Progress = Callable[[str, int, int], None]  # volume, bytes done, bytes in all

T = TypeVar("T")

PIECE_BYTES = 1 << 20
RECHECKS_MAX = 3
COMPARABLE = (pair_states.DUPLEX, pair_states.SUSPENDED)
_PROGRESS_BYTES = 64 * PIECE_BYTES


class Compared(NamedTuple):
    """Of the next `length` bytes: where the legs first differ, or None; and how many of them were
    looked at.
    """

    length: int
    first_difference: int | None
    looked_bytes: int


class _Legs(NamedTuple):
    """The images that are compared. A reload or a swap may give the pair others meanwhile, and
    close these.
    """

    primary: Leg
    secondary: Leg

    def watched(self, pair: Pair, watch: Watch[Waited]) -> _Legs:
        """The same, for a worker."""
        return _Legs(
            WatchedLeg(pair, self.primary, PRIMARY, watch),
            WatchedLeg(pair, self.secondary, SECONDARY, watch),
        )

    def check(self, pair: Pair) -> None:
        """Raises WrongStateError if the pair has others now."""
        if pair.primary is not self.primary or pair.secondary is not self.secondary:
            raise WrongStateError(
                f"{pair.name}: its images changed while they were compared; compare them again"
            )


class Verification:
    """Compares pairs of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        legs: LegCalls,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._leases = leases
        self._followers = followers
        self._legs = legs
        self._hold_s = limits.recheck_hold_seconds

    async def verify(self, pairs: Sequence[Pair], progress: Progress | None) -> Json:
        """Compare all of a DUPLEX pair, and of a SUSPENDED one what did not change since its cut.

        Raises WrongStateError for others, and where the secondary is not usable: it is not a copy
        of any moment, so it must not be called equal to one. A leg that cannot be read, or whose
        path no longer names the open image, makes the pair unequal, whatever else it holds, and
        whether it is usable or not: that says more.
        """
        wrong = [f"{pair.name} is {pair.state}" for pair in pairs if pair.state not in COMPARABLE]
        if wrong:
            raise WrongStateError(
                f"only DUPLEX and SUSPENDED pairs can be compared: {', '.join(wrong)}"
            )
        elsewhere = {
            pair: await self._in_worker(pair, _Legs(pair.primary, pair.copy_of), _misplaced)
            for pair in pairs
        }
        for pair, why in elsewhere.items():
            if not why:
                _refuse_unusable(pair)
        results = [await self._one(pair, why, progress) for pair, why in elsewhere.items()]
        return {"volumes": results, "equal": all(result["equal"] for result in results)}

    async def _one(self, pair: Pair, why: str, progress: Progress | None) -> Json:
        legs = _Legs(pair.primary, pair.copy_of)
        offset, looked, first, shown = 0, 0, None, 0
        end = 0 if _unusable(pair) else pair.size
        while offset < end:
            try:
                found = await self._piece(pair, legs, offset)
            except UnreadableError as error:
                legs.check(pair)  # it may only have been closed
                why = "; ".join(filter(None, (why, error.strerror)))
                break
            offset += found.length
            looked += found.looked_bytes
            if first is None:
                first = found.first_difference
            if progress is not None and offset - shown >= _PROGRESS_BYTES:
                progress(pair.name, offset, pair.size)
                shown = offset
        if not why:
            _refuse_unusable(pair)  # it may have become so meanwhile
        if progress is not None:
            progress(pair.name, pair.size, pair.size)
        return {
            "name": pair.name,
            "equal": first is None and not why,
            "compared_bytes": looked,
            "changed_bytes": offset - looked,
            "first_difference": first,
            "why": why or None,
        }

    async def _piece(self, pair: Pair, legs: _Legs, offset: int) -> Compared:
        found = await self._in_worker(pair, legs, partial(_compare, pair, offset))
        legs.check(pair)
        if found.first_difference is None:
            return found
        return await self._recheck(pair, legs, offset)

    async def _in_worker(self, pair: Pair, legs: _Legs, call: Callable[[_Legs], T]) -> T:
        """The result of a call with these legs. Raises TimedOutError for one that hangs."""
        watch: Watch[Waited] = Watch()
        watched = legs.watched(pair, watch)
        try:
            return await self._legs.walk(self, watch, lambda: call(watched))
        except HungError as hung:
            raise TimedOutError(
                f"{pair.name}: {hung.filename}: {hung.strerror}; it was not compared"
            ) from hung

    async def _recheck(self, pair: Pair, legs: _Legs, offset: int) -> Compared:
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
                found = await self._in_worker(pair, legs, partial(_compare, pair, offset))
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


def _place(pair: Pair) -> tuple[str, Cut | None]:
    """Where its secondary should be. Raises WrongStateError if it can no longer be compared."""
    if pair.state not in COMPARABLE:
        raise WrongStateError(
            f"{pair.name} became {pair.state} while it was compared; "
            "compare it again when it is DUPLEX or SUSPENDED"
        )
    _refuse_unusable(pair)
    return pair.state, pair.cut


def _unusable(pair: Pair) -> bool:
    return pair.state == pair_states.SUSPENDED and not pair.usable


def _refuse_unusable(pair: Pair) -> None:
    if _unusable(pair):
        why = pair.cut.why if pair.cut is not None else ""
        because = f": {why}" if why else ""
        raise WrongStateError(
            f"{pair.name}: its secondary is not usable until it was copied{because}; resync it"
        )


def _misplaced(legs: _Legs) -> str:
    return misplaced(legs.primary) or misplaced(legs.secondary)


def _compare(pair: Pair, offset: int, legs: _Legs) -> Compared:
    """The next piece, or a longer range that is a hole on both."""
    hole = _hole(legs, offset, pair.size)
    if hole:
        return Compared(hole, None, hole)
    length = min(PIECE_BYTES, pair.size - offset)
    ours, theirs = read(legs.primary, offset, length), read(legs.secondary, offset, length)
    changed = pair.changed if pair.state == pair_states.SUSPENDED else None
    if changed is not None and changed.overlaps(offset, length):
        return _compare_unchanged(changed, offset, ours, theirs)
    differs = None if ours == theirs else offset + _first_difference(ours, theirs)
    return Compared(length, differs, length)


def _hole(legs: _Legs, offset: int, end: int) -> int:
    """How many bytes from `offset` on are a hole on both; 0 where that cannot be found out."""
    try:
        return equal_holes(*legs, offset, end) - offset
    except OSError:
        return 0  # the read that follows says which image it is


def _compare_unchanged(
    changed: ChangeMap, offset: int, ours: bytearray, theirs: bytearray
) -> Compared:
    first, looked = None, 0
    step = min(changed.grain_bytes, PIECE_BYTES)
    for at in range(0, len(ours), step):
        if changed.overlaps(offset + at, min(step, len(ours) - at)):
            continue
        mine, other = ours[at : at + step], theirs[at : at + step]
        looked += len(mine)
        if first is None and mine != other:
            first = offset + at + _first_difference(mine, other)
    return Compared(len(ours), first, looked)


def _first_difference(ours: bytearray, theirs: bytearray) -> int:
    both = enumerate(zip(ours, theirs, strict=True))
    return next(place for place, (mine, other) in both if mine != other)
