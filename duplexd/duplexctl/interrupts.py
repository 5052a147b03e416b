"""What SIGINT and SIGTERM do to a command that must not lose its answer: they are acted upon, or remembered, until it is written."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    Act = Callable[[int], object]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """From `begin` to `end` neither ends the process: each goes to `act`, or into `came` while there is none."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self.act: Act | None = None
        self._before: dict[int, Any] = {}

    def begin(self, act: Act | None = None, ignored: bool = True) -> None:
        """From now on `act` gets them, called between any two steps of the main thread. Without `ignored`, one that is ignored so far stays so."""
        self.act = act
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if number not in self._before and (ignored or before != signal.SIG_IGN):
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
