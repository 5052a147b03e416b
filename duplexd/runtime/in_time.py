"""A look at files that may hang, before there is an event loop that could watch it.

`stat` of a path on a disk or server that does not answer waits as long as that does. Who only wants
to look leaves it to a thread, and goes on without an answer. The thread is left behind; it changes
nothing, and ends with its call or with the process.
"""

from __future__ import annotations

import errno
from threading import Thread
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Patience:
    """How long calls may hang in all: the first waits for all of it, later ones for what is left.
    So a hundred paths on one dead disk do not take a hundred times as long.
    """

    LAST_SECONDS = 0.05  # for a call when nothing is left: enough for a disk that answers

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left_seconds = seconds

    def call(self, call: Callable[[], T]) -> T:
        """The result of `call`. Raises what it raises; OSError ETIMEDOUT if it hangs."""
        running = _Running(call)
        wait_s = max(self._left_seconds, self.LAST_SECONDS)
        running.join(wait_s)
        if running.is_alive():
            self._left_seconds -= wait_s
            raise OSError(errno.ETIMEDOUT, f"does not answer for {self.seconds:g} s")
        return running.result()


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

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
