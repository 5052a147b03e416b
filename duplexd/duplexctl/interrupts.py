"""What SIGINT, SIGTERM and SIGHUP do to a command that must not lose its answer.

They are acted upon, or remembered, until the answer is written. A signal that is ignored, as in the
background of a shell or under nohup, stays ignored.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: a terminal that closed


class Interrupts:
    """From `begin` to `end` none of them ends the process.

    Each goes to `act`, which is called between any two steps of the main thread, or into `came`
    while there is no `act`.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self.act: Callable[[int], object] | None = None
        self._before: dict[int, Handler] = {}

    def begin(self) -> None:
        """From now on."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if number not in self._before and before != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)

    def end(self) -> None:
        """They do again what they did before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.act is None:
            self.came.append(number)
        else:
            self.act(number)
