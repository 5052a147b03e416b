"""A leg that hangs on demand, over another leg, for tests with real threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tests.support.fault_leg import FaultLeg

if TYPE_CHECKING:
    from duplexd.images.leg import Leg
    from tests.sim.faults import Fault
    from tests.support.fault_leg import Operation

PATIENCE_SECONDS = 60.0


class HangingLeg(FaultLeg):
    """See `FaultLeg`. Calls of the operations in `hangs` wait until `release`, then do what they
    were called for, as a disk does that answers late.
    """

    __slots__ = ("_after", "_answers", "_hung", "hangs", "left")

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.hangs: set[Operation] = set()
        self._after = 0
        self._answers = threading.Event()
        self._hung = threading.Semaphore(0)
        self.left = threading.Semaphore(0)  # a call that had hung is about to go on

    def hang(self, *operations: Operation, after: int = 0) -> None:
        """From now on these hang, once so many of them have been done."""
        self.hangs = set(operations)
        self._after = after
        self._answers.clear()

    def release(self) -> None:
        """Nothing hangs any more."""
        self.hangs = set()
        self._answers.set()

    async def hung(self) -> None:
        """Wait until one more call hangs."""
        assert await asyncio.to_thread(self._hung.acquire, timeout=PATIENCE_SECONDS)

    def _due(self, operation: Operation) -> Fault | None:
        self._wait(operation)
        return super()._due(operation)

    def _wait(self, operation: Operation) -> None:
        if operation not in self.hangs:
            return
        self._after -= 1
        if self._after < 0:
            self._hung.release()
            self._answers.wait()
            self.left.release()
