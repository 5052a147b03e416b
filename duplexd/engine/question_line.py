"""Questions about extents stand in one line: what is a hole in all volumes together costs the loop
the time of one question, however many clients ask and however fragmented the images are.

To find extents a worker makes a system call for each, and takes the interpreter from the loop as
often; several such workers at once make each write of other volumes wait. So one question runs at a
time. Disks take turns, so a flood on one volume makes others wait for one question of it. One that
does not answer soon, because its disk is slow or hangs, loses the line: those of other disks go on
beside it, and its own wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Question = Callable[[], Coroutine[object, object, None]]


class QuestionLine:
    """Called from the loop. `slow_seconds`: how long other disks wait for one."""

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._waiting: dict[object, deque[Question]] = {}  # by disk, in the order of their turns
        self._asked: dict[object, asyncio.Task[None]] = {}  # by disk, one each
        self._running: object = None  # the disk that others wait for
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, disk: object, question: Question) -> None:
        """Run it when its turn has come. It raises nothing."""
        self._waiting.setdefault(disk, deque()).append(question)
        self._go_on()

    def _go_on(self) -> None:
        if self._running is not None:
            return
        disk = next((disk for disk in self._waiting if disk not in self._asked), None)
        if disk is None:
            return
        questions = self._waiting.pop(disk)
        question = questions.popleft()
        if questions:
            self._waiting[disk] = questions  # behind the others
        loop = asyncio.get_running_loop()
        self._running = disk
        self._timer = loop.call_later(self._slow_seconds, self._leave)
        self._asked[disk] = task = loop.create_task(question())
        task.add_done_callback(partial(self._answered, disk))

    def _leave(self) -> None:
        """The disk is slow: nobody waits for it any longer but its own questions."""
        self._running = self._timer = None
        self._go_on()

    def _answered(self, disk: object, _task: asyncio.Task[None]) -> None:
        del self._asked[disk]
        if self._running is disk:
            if self._timer is not None:
                self._timer.cancel()
            self._running = self._timer = None
        self._go_on()
