"""Work that ends before its caller does, even if the caller is cancelled.

A cancellation means that the result is no longer wanted; it does not mean that the work may be
left half-way. A worker thread cannot be stopped in the middle of a write, and a sync of the legs
that was planned counts as done. If a cancelled caller returned at once, such work would go on
after the canceller has moved on: past the release of a lock, past the close of a file.
`asyncio.shield` alone has just that gap. So here the caller waits, and is cancelled afterwards.

Not for work that waits for another party without a deadline: its caller could not be cancelled at
all. A start of the daemon is such work, for a disk may hang: it is done in `Steps`, which a caller
that is cancelled leaves at once. What the step had open is closed when it has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

T = TypeVar("T")
A = TypeVar("A")

WAITS_SECONDS = 0.005  # what takes longer waits for a disk


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


async def several_at_once(
    things: Sequence[A], work: Callable[[A], Awaitable[None]], at_once: int
) -> None:
    """Do `work` for each of these things, begun in order, for at most `at_once` at a time.

    An error is raised when all of it has ended.
    """
    left = iter(things)

    async def some() -> None:
        for thing in left:
            await work(thing)

    parts = [some() for _ in range(min(at_once, len(things)))]
    for error in await asyncio.gather(*parts, return_exceptions=True):
        if error is not None:
            raise error


async def more_as_they_wait(
    things: Iterable[A],
    work: Callable[[A], Awaitable[None]],
    at_once_max: int = 1 << 30,
    seconds: float = WAITS_SECONDS,
) -> None:
    """Do `work`, which calls workers, for each of these things, begun in order: for one at a time,
    and for two more from then on whenever one takes longer than `seconds`; for at most
    `at_once_max`, where what hangs may keep others.

    What the page cache has is looked at without waiting, and then threads only take the
    interpreter's lock from each other: one opens 200 images in 45 ms, forty of them in 170 ms. What
    waits for a disk is begun together after a moment, and what hangs keeps no other.

    An error is raised when all that was begun has ended.
    """
    loop = asyncio.get_running_loop()
    left, running = deque(things), list[asyncio.Task[None]]()

    async def some() -> None:
        while left:
            waits = loop.call_later(seconds, begin, 2)
            try:
                await work(left.popleft())
            finally:
                waits.cancel()

    def begin(count: int) -> None:
        count = min(count, len(left), at_once_max - len(running))
        running.extend(loop.create_task(some()) for _ in range(count))

    begin(1)
    try:
        while unfinished := [task for task in running if not task.done()]:
            await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.clear()
        for task in running:
            task.cancel()
    for error in await asyncio.gather(*running, return_exceptions=True):
        if error is not None:
            raise error


class Steps:
    """Work in steps, one after the other."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: asyncio.Future[object] | None = None

    async def do(self, step: Awaitable[T]) -> T:
        """The result of a step. A cancelled caller does not wait for its end."""
        running = asyncio.ensure_future(step)
        self._running = cast("asyncio.Future[object]", running)
        return await asyncio.shield(running)

    def afterwards(self, close: Callable[[], None]) -> None:
        """Call `close` when no step runs: now, or at the end of the one that was left."""
        if self._running is None or self._running.done():
            close()
        else:
            self._running.add_done_callback(lambda _: close())
