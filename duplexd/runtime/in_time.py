"""A look at files that may hang, before there is an event loop that could watch it.

`stat` of a path on a disk or server that does not answer waits as long as that does. Who only wants
to look leaves it to a thread, and goes on without an answer. The thread is left behind; it changes
nothing, and ends with its call or with the process.

Only sleep counts. A machine that has too much to do may take seconds for what usually takes a
tenth of one, and that is no fault of a disk: the thread runs then, or waits for a processor. But
what runs far longer than that may have no end.
"""

from __future__ import annotations

import errno
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PIECE_SECONDS = 0.1  # of sleep that is looked at
AWAKE_SECONDS_MAX = 60.0  # without enough sleep; what only wakes up for a moment counts, too


class Patience:
    """How long calls may hang in all: the first waits for all of it, later ones for what is left.
    So a hundred paths on one dead disk do not take a hundred times as long.
    """

    LAST_SECONDS = 0.05  # for a call when nothing is left: enough for a disk that answers

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left_seconds = seconds

    def call(self, call: Callable[[], T], awake_seconds: float = AWAKE_SECONDS_MAX) -> T:
        """The result of `call`. Raises what it raises; OSError ETIMEDOUT if it hangs, or has not
        ended when it was awake for so long.
        """
        running = _Running(call)
        wait_s = max(self._left_seconds, self.LAST_SECONDS)
        if running.outlasts(wait_s, awake_seconds):
            self._left_seconds -= wait_s
            raise OSError(errno.ETIMEDOUT, f"does not answer for {self.seconds:g} s")
        return running.result()


def left_behind() -> bool:
    """Whether a call hangs still. Then the process must end by `os._exit`: in the interpreter's end
    a thread that comes back is unwound, and aborts the process if it is in a library in Rust.
    """
    return any(isinstance(thread, _Running) for thread in enumerate_threads())


class _Running(Thread, Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(name="look", daemon=True)
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001  it is passed to the caller
            self._error = error

    def outlasts(self, seconds: float, awake_seconds: float) -> bool:
        """Whether the call has slept for `seconds`, or not slept for the others, and has not
        returned. Returns with the call.
        """
        piece, now = min(seconds, _PIECE_SECONDS), self._asleep()
        while seconds > 0 and awake_seconds > 0:
            self.join(piece)
            if not self.is_alive():
                return False
            before, now = now, self._asleep()
            if now is not None and now == before:
                seconds -= piece  # not what the clock says: the whole process may have been stopped
            else:
                awake_seconds -= piece
        return True

    def _asleep(self) -> str | None:
        """None if the thread runs, or could. Else what it got of processors, which is the same as
        long as it sleeps; "" without /proc.
        """
        task = f"/proc/self/task/{self.native_id}"
        try:
            with open(f"{task}/stat") as stat, open(f"{task}/schedstat") as times:
                runs = stat.read().rpartition(") ")[2].startswith("R")
                return None if runs else times.read()
        except OSError:
            return ""

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
