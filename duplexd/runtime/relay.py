"""An event loop that never waits for a disk, though its own thread writes to disks.

A write into the page cache takes microseconds, and passing it to another thread costs more than the
write itself. But it may also hang for minutes, if the disk does. So the thread that drives the loop
makes such calls between two turns of it. A second thread looks on; if a call takes too long, it
drives the loop from there on, and the first thread only reports its result, when it has one:

    driver     turn | turn | call | turn | call that hangs ............. result, ends
    look-out   ...                              | turn | call | turn
    another                                       ... looks on

A call costs no switch to another thread. The price is that the loop must not care which thread
drives it (`turns.py`), so signals are received by the main thread, which drives nothing. Measured
against it: a thread for writes (25 us for each call, at four changes in a batch a third of the
throughput), the same with a loop that waits for the thread for a while (5 us or 60 us, as the
scheduler likes), and uvloop, stopped and run again for each call (7 us).

The thread that removes the note of a call (`Watch.inside` works in the same way) drives on: one
atomic step, so there is never a second driver.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd.runtime.threads import Workers
from duplexd.runtime.watch import GivenUp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from duplexd.runtime.turns import TurnLoop

T = TypeVar("T")

# Between two looks at a call, while there are calls and while there are none. A call that is seen
# twice in a row hangs, so the loop stands still for twice that at most.
LOOK_SECONDS = 0.02
IDLE_LOOK_SECONDS = 0.1


class Relay(Workers):
    """Drives `loop`; its calls run in the thread that drives, one at a time unless one hangs.

    `submit` and `done` are called in the loop, `done` between two turns.
    """

    def __init__(self, loop: TurnLoop) -> None:
        self._loop = loop
        self._calls: deque[
            tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]
        ] = deque()
        self._note: list[int] = []  # the number of the call that the driver is in; at most one
        self._number = 0
        self._stopping = False
        self._ended = threading.Event()
        self._broken: BaseException | None = None

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        self._calls.append((call, done))

    def close(self) -> None:
        """Nothing to end: `drive` does that."""

    def drive(self, main: Coroutine[object, object, T]) -> T:
        """Drive the loop until `main` is done; its result. The calling thread only waits."""
        task = self._loop.create_task(_alone_to_its_end(main))
        task.add_done_callback(self._stop)
        self._begin(self._drive)
        self._begin(self._look_out)
        self._ended.wait()
        if self._broken is not None:
            raise self._broken
        return task.result()

    def _stop(self, _task: asyncio.Task[T]) -> None:
        self._stopping = True

    def _begin(self, run: Callable[[], None]) -> None:
        # A daemon thread: Python would wait at its exit for one that hangs.
        threading.Thread(target=run, name="loop", daemon=True).start()

    def _drive(self) -> None:
        loop, calls = self._loop, self._calls
        turn = loop.turn
        loop.enter()
        try:
            while not self._stopping:
                if calls:
                    call, done = calls.popleft()
                    if not self._call(call, done):
                        return
                turn(not calls)
        except BaseException as error:  # noqa: BLE001  the thread that waits in `drive` raises it
            self._broken = error
        loop.leave()
        self._ended.set()

    def _call(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> bool:
        """Make a call, and `done`; False if another thread drives now."""
        self._number += 1
        self._note.append(self._number)
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  `done` gets it
            # Not kept in this frame: the two would keep each other, and with them the leg that
            # hung, which stays locked as long as anything refers to it.
            return self._over(_nobody if type(error) is GivenUp else done, None, error)
        return self._over(done, result, None)

    def _over(
        self,
        done: Callable[[Any, BaseException | None], None],
        result: object,
        error: BaseException | None,
    ) -> bool:
        try:
            self._note.pop()
        except IndexError:
            if not self._stopping:
                self._loop.call_soon_threadsafe(done, result, error)
            return False
        try:
            done(result, error)
        except BaseException as burst:  # noqa: BLE001  the loop goes on
            context = {"message": f"unexpected error in {done!r}", "exception": burst}
            self._loop.call_exception_handler(context)
        return True

    def _look_out(self) -> None:
        """Look at the driver's call once in a while; drive on without it if it hangs."""
        seen = 0
        while not self._stopping:
            busy = self._number != seen
            seen = self._number
            time.sleep(LOOK_SECONDS if busy or self._note else IDLE_LOOK_SECONDS)
            if self._number != seen or not self._note:
                continue
            try:
                self._note.pop()
            except IndexError:
                continue
            self._begin(self._look_out)
            self._drive()
            return


def _nobody(_result: object, _error: BaseException | None) -> None:
    """The call was given up: nobody waits for it."""


async def _alone_to_its_end(main: Coroutine[object, object, T]) -> T:
    """The result of `main`; what it has left running is cancelled, as `asyncio.run` does."""
    try:
        return await main
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
