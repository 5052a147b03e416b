"""What ctrl-C does not wait for, and what it does not keep from being done.

Calls that only read or sync run in a thread that nobody has to wait for: a check-sum or a check of
a large image takes minutes, and the executor of the event loop waits for its threads at the end of
the program. A thread of this kind is left behind by a cancellation, and ends with the process.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
_NICE = 10


async def in_background(call: Callable[[], T]) -> T:
    """Its result. Raises what it raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[], None]) -> None:
        with suppress(asyncio.InvalidStateError):  # it was cancelled
            how()

    def work() -> None:
        with suppress(OSError):
            os.nice(_NICE)  # of this thread alone: writes may wait for the others
        try:
            how = partial(done.set_result, call())
        except Exception as error:  # noqa: BLE001  it is passed to the caller
            how = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, how)

    Thread(target=work, name="backup", daemon=True).start()
    return await done


async def despite_an_interrupt(work: Coroutine[object, object, T]) -> T:
    """Its result, also if this task is cancelled meanwhile. Once: a second cancellation ends it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.done():
            raise
        return await task
