"""Comparing the legs of pairs while they are in use.

Pieces are compared in a worker, without a hold, so a change in flight may look like a difference. A
difference therefore counts only if it is still there with the volume held and the secondary at the
last number that it may hold. That hold is short and rarely needed.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.images.place import misplaced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.runtime.threads import Workers

    Progress = Callable[[str, int, int], None]  # volume, bytes done, bytes in all

PIECE_BYTES = 1 << 20
RECHECKS_MAX = 3
COMPARABLE = (pair_states.DUPLEX, pair_states.SUSPENDED)
_PROGRESS_PIECES = 64


class Compared(NamedTuple):
    """Where the legs first differ in a piece, or None; and how many bytes were looked at."""

    first_difference: int | None
    looked_bytes: int


class Verification:
    """Compares pairs of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        workers: Workers,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._leases = leases
        self._followers = followers
        self._workers = workers
        self._hold_s = limits.recheck_hold_seconds

    async def verify(self, pairs: Sequence[Pair], progress: Progress | None) -> Json:
        """Compare all of a DUPLEX pair, and of a SUSPENDED one what did not change since its cut.

        Raises WrongStateError for others. A leg whose path no longer names the open image makes the
        pair unequal, whatever the open image holds.
        """
        wrong = [f"{pair.name} is {pair.state}" for pair in pairs if pair.state not in COMPARABLE]
        if wrong:
            raise WrongStateError(
                f"only DUPLEX and SUSPENDED pairs can be compared: {', '.join(wrong)}"
            )
        results = [await self._one(pair, progress) for pair in pairs]
        return {"volumes": results, "equal": all(result["equal"] for result in results)}

    async def _one(self, pair: Pair, progress: Progress | None) -> Json:
        compared, skipped, first = 0, 0, None
        why = await self._workers.run(lambda: misplaced(pair.primary) or misplaced(pair.secondary))
        for offset in range(0, pair.size, PIECE_BYTES):
            length = min(PIECE_BYTES, pair.size - offset)
            found = await self._workers.run(partial(_compare, pair, offset, length))
            if found.first_difference is not None:
                found = await self._recheck(pair, offset, length)
            compared += found.looked_bytes
            skipped += length - found.looked_bytes
            if first is None:
                first = found.first_difference
            if progress is not None and (offset // PIECE_BYTES) % _PROGRESS_PIECES == 0:
                progress(pair.name, offset + length, pair.size)
        if progress is not None:
            progress(pair.name, pair.size, pair.size)
        return {
            "name": pair.name,
            "equal": first is None and not why,
            "compared_bytes": compared,
            "changed_bytes": skipped,
            "first_difference": first,
            "why": why or None,
        }

    async def _recheck(self, pair: Pair, offset: int, length: int) -> Compared:
        """Compare again with the volume held and its follower as far as it may go.

        Raises WrongStateError if the pair can no longer be compared, TimedOutError if its
        secondary trails too far behind.
        """
        for _ in range(RECHECKS_MAX):
            hold = await self._leases.quiesce([pair], self._hold_s, "verify")
            try:
                await self._arrival(pair, hold)
                found = await self._workers.run(lambda: _compare(pair, offset, length))
                if pair.state not in COMPARABLE:
                    raise WrongStateError(
                        f"{pair.name} became {pair.state} while it was compared; "
                        "compare it again when it is DUPLEX or SUSPENDED"
                    )
                if found.first_difference is None or not hold.lost:
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


def _compare(pair: Pair, offset: int, length: int) -> Compared:
    if _is_hole(pair.primary, offset, length) and _is_hole(pair.copy_of, offset, length):
        return Compared(None, length)
    ours, theirs = bytearray(length), bytearray(length)
    pair.primary.read_into(offset, memoryview(ours))
    pair.copy_of.read_into(offset, memoryview(theirs))
    changed = pair.changed if pair.state == pair_states.SUSPENDED else None
    if changed is not None and changed.overlaps(offset, length):
        return _compare_unchanged(changed, offset, ours, theirs)
    differs = None if ours == theirs else offset + _first_difference(ours, theirs)
    return Compared(differs, length)


def _is_hole(leg: Leg, offset: int, length: int) -> bool:
    return not any(is_data for _, _, is_data in leg.extents(offset, length))


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
    return Compared(first, looked)


def _first_difference(ours: bytearray, theirs: bytearray) -> int:
    both = enumerate(zip(ours, theirs, strict=True))
    return next(place for place, (mine, other) in both if mine != other)
