"""Worker threads: blocking calls leave the event loop here, and their results come back in bursts.

Not `run_in_executor`: it costs about 90 us of CPU for each call, with a future and a wake-up of the
loop each. Here a burst of completions costs one wake-up, and a caller on the hot path passes a
callback instead of awaiting a future.

A call that hangs does not hold up the others: the pool is given another thread for it (`replace`),
and the one that hangs ends when its call returns. The threads are daemon threads, because Python
would wait at its exit for those that hang.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from duplexd.runtime.watch import GivenUp

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Workers(Protocol):
    """Runs blocking calls elsewhere. All methods are called from the event loop's thread."""

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run `call` in a worker, then `done(result, error)` in the loop: later, never within this
        call.

        Calls start in the order of submission; with more than one worker they overlap and may end
        in any order.
        """

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. A cancelled waiter does not stop the call."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(cast("T", result))
            else:
                future.set_exception(error)

        self.submit(call, done)
        return await future

    def replace(self) -> None:
        """A call of this pool was given up (`runtime/watch.py`): others run in another thread. The
        `done` of that call is never called.
        """
        return

    def close(self) -> None:
        """Finish what was submitted, call every `done`, end the threads; those that were given up
        are left alone. Nothing may be submitted afterwards.
        """


class ThreadWorkers(Workers):
    """`Workers` on `count` threads of its own. Completions of one burst cost one wake-up of the
    loop.
    """

    __slots__ = (
        "_calls", "_closed", "_completions", "_count", "_ended", "_loop", "_name", "_started",
        "_woken",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, count: int) -> None:
        self._loop = loop
        self._calls: SimpleQueue[
            tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None
        ] = SimpleQueue()
        self._completions: deque[
            tuple[Callable[[Any, BaseException | None], None], Any, BaseException | None]
        ] = deque()
        self._woken = False
        self._closed = False
        self._name = name
        self._count = count
        self._started = 0
        self._ended: SimpleQueue[None] = SimpleQueue()  # one for each thread, in `close`
        for _ in range(count):
            self._add_thread()

    def _add_thread(self) -> None:
        Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._started += 1

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        if self._closed:
            raise RuntimeError("the workers are closed")
        self._calls.put((call, done))

    def replace(self) -> None:
        self._add_thread()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in range(self._count):
            self._calls.put(None)
        for _ in range(self._count):
            self._ended.get()
        while self._completions:
            self._deliver()

    def _work(self) -> None:
        take, finished = self._calls.get, self._completions.append
        while (item := take()) is not None:
            call, done = item
            try:
                finished((done, call(), None))
            except GivenUp:
                return
            except BaseException as error:  # noqa: BLE001  it is passed to the caller
                finished((done, None, error))
            del item, call, done  # nothing of it is kept while this thread waits for the next
            if not self._woken:
                self._woken = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: close() delivers
                    self._loop.call_soon_threadsafe(self._deliver)
        self._ended.put(None)

    def _deliver(self) -> None:
        # Lowered before the queue is looked at: a thread that appends after that look finds it
        # lowered and wakes the loop again.
        self._woken = False
        completions = self._completions
        try:
            for _ in range(len(completions)):
                done, result, error = completions.popleft()
                done(result, error)
        except BaseException:
            if completions:
                self._loop.call_soon(self._deliver)
            raise
