"""Comparing the legs of pairs while they are in use."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from duplexd.core import gate, state
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.images.place import misplaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.gate import Lease
    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller

PIECE_BYTES = 1 << 20
RECHECK_HOLD_S = 5.0
RECHECKS_MAX = 3
COMPARABLE = (state.DUPLEX, state.SUSPENDED)


async def verify(
    controller: Controller, pairs: list[Pair], progress: Callable[[str, int, int], None] | None
) -> dict[str, Any]:
    """Compare: all of a DUPLEX pair; of a SUSPENDED one what did not change since its cut. Raises WrongStateError for others.

    Legs whose paths lead to other images than those in use are not equal, whatever these hold.
    """
    wrong = [f"{pair.name} is {pair.state}" for pair in pairs if pair.state not in COMPARABLE]
    if wrong:
        raise WrongStateError(
            f"only DUPLEX and SUSPENDED pairs can be compared: {', '.join(wrong)}"
        )
    results = [await _verify_one(controller, pair, progress) for pair in pairs]
    return {"volumes": results, "equal": all(result["equal"] for result in results)}


async def _verify_one(
    controller: Controller, pair: Pair, progress: Callable[[str, int, int], None] | None
) -> dict[str, Any]:
    compared, skipped, first = 0, 0, None
    why = await controller.workers.run(lambda: misplaced(pair.primary) or misplaced(pair.secondary))
    for offset in range(0, pair.size, PIECE_BYTES):
        length = min(PIECE_BYTES, pair.size - offset)
        different, looked = await controller.workers.run(partial(_compare, pair, offset, length))
        if different is not None:
            different, looked = await _recheck(controller, pair, offset, length)
        compared += looked
        skipped += length - looked
        if first is None:
            first = different
        if progress is not None and (offset // PIECE_BYTES) % 64 == 0:
            progress(pair.name, offset + length, pair.size)
    if progress is not None:
        progress(pair.name, pair.size, pair.size)
    return {
        "name": pair.name, "equal": first is None and not why, "compared_bytes": compared, "changed_bytes": skipped,
        "first_difference": first, "why": why or None,
    }  # fmt: skip


async def _recheck(
    controller: Controller, pair: Pair, offset: int, length: int
) -> tuple[int | None, int]:
    """A difference may be a change on its way: look again with the volume held and its follower where it may go.

    Raises WrongStateError if the pair is not to be compared any more, TimedOutError if its secondary trails too far behind.
    """
    for _ in range(RECHECKS_MAX):
        lease = await controller.holds.quiesce([pair], RECHECK_HOLD_S, "verify")
        try:
            await _arrival(controller, pair, lease)
            found = await controller.workers.run(lambda: _compare(pair, offset, length))
            if pair.state not in COMPARABLE:
                raise WrongStateError(
                    f"{pair.name} became {pair.state} while it was compared; compare it when that is over"
                )
            if found[0] is None or not lease.lost:
                return found
        finally:
            controller.holds.release(lease.id, gate.BY_OWNER)
    raise TimedOutError(
        f"{pair.name}: its secondary trails too far behind to be compared; try again with less load, or suspend it first"
    )


async def _arrival(controller: Controller, pair: Pair, lease: Lease) -> None:
    """Wait until the secondary holds all it may hold, or the hold is over."""
    tail = controller.sequence

    def there() -> bool:
        return (
            pair.mirrors
            or not pair.usable
            or pair.state not in COMPARABLE
            or pair.applied >= min(tail, pair.limit(tail))
        )

    waiting = asyncio.ensure_future(controller.jobs.until(there))
    either: set[asyncio.Future[Any]] = {waiting, lease.ended}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _compare(pair: Pair, offset: int, length: int) -> tuple[int | None, int]:
    """Where the legs first differ in this piece, or None; and how many bytes were looked at."""
    assert pair.secondary is not None
    if _is_hole(pair.primary, offset, length) and _is_hole(pair.secondary, offset, length):
        return None, length
    ours, theirs = bytearray(length), bytearray(length)
    pair.primary.read_into(offset, memoryview(ours))
    pair.secondary.read_into(offset, memoryview(theirs))
    changed = pair.changed if pair.state == state.SUSPENDED else None
    if changed is None or not changed.overlaps(offset, length):
        return (None if ours == theirs else offset + _first_difference(ours, theirs)), length
    return _compare_unchanged(changed, offset, ours, theirs)


def _is_hole(leg: Any, offset: int, length: int) -> bool:
    return not any(is_data for _, _, is_data in leg.extents(offset, length))


def _compare_unchanged(
    changed: ChangeMap, offset: int, ours: bytearray, theirs: bytearray
) -> tuple[int | None, int]:
    first, looked = None, 0
    step = min(changed.grain_bytes, PIECE_BYTES)
    for at in range(0, len(ours), step):
        if changed.overlaps(offset + at, min(step, len(ours) - at)):
            continue
        mine, other = ours[at : at + step], theirs[at : at + step]
        looked += len(mine)
        if first is None and mine != other:
            first = offset + at + _first_difference(mine, other)
    return first, looked


def _first_difference(ours: bytearray, theirs: bytearray) -> int:
    return next(
        place for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)) if mine != other
    )
