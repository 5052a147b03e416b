"""Work that ends before its caller does, even if the caller is cancelled.

A cancellation means that the result is no longer wanted; it does not mean that the work may be
left half-way. A worker thread cannot be stopped in the middle of a write, and a sync of the legs
that was planned counts as done. If a cancelled caller returned at once, such work would go on
after the canceller has moved on: past the release of a lock, past the close of a file.
`asyncio.shield` alone has just that gap. So here the caller waits, and is cancelled afterwards.

Not for work that waits for another party without a deadline: its caller could not be cancelled at
all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def to_its_end(work: Awaitable[T]) -> T:
    """The result of `work`, or what it raised.

    A cancellation, the first as any later one, leaves `work` running and this call waiting for it.
    When `work` has ended, CancelledError is raised; what `work` returned or raised is dropped then,
    and what it did stays done.
    """
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # asyncio would log an error that was never fetched
    raise cancelled
