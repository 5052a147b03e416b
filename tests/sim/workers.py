"""Worker threads, simulated in the loop: calls run after a while, in a seeded random order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd.runtime.threads import Workers
from tests.sim.disk import PowerCut

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    call: Callable[[], Any]
    done: Callable[[Any, BaseException | None], None]
    called: bool = False
    result: Any = None
    error: BaseException | None = None


class SimWorkers(Workers):
    """See `duplexd.runtime.threads.Workers`. Up to `count` calls are under way at once (1: strictly
    one after the other).

    In each turn of the loop at most one of them, picked at random, advances: its call takes effect,
    or later its `done` is called. A call that meets a `PowerCut` kills the process: nothing is done
    after it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: Random, count: int = 2) -> None:
        self.dead = False
        self._loop = loop
        self._rng = rng
        self._count = count
        self._closed = False
        self._turning = False
        self._waiting: deque[_Job] = deque()
        self._under_way: list[_Job] = []

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        if self._closed:
            raise RuntimeError("the workers are closed")
        self._waiting.append(_Job(call, done))
        self._next_turn()

    @property
    def idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._waiting and not self._under_way

    def close(self) -> None:
        self._closed = True
        while self._fill():
            self._get_on(self._under_way[0])

    def _fill(self) -> bool:
        while self._waiting and len(self._under_way) < self._count:
            self._under_way.append(self._waiting.popleft())
        return bool(self._under_way)

    def _next_turn(self) -> None:
        if not self._turning and not self.dead:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._fill():
            self._next_turn()
            if self._rng.random() < 0.7:
                self._get_on(self._rng.choice(self._under_way))

    def _get_on(self, job: _Job) -> None:
        if job.called:
            self._under_way.remove(job)
            job.done(job.result, job.error)
            return
        job.called = True
        try:
            job.result = job.call()
        except PowerCut:
            self.dead = True
            self._waiting.clear()
            self._under_way.clear()
        except BaseException as error:  # noqa: BLE001 - the submitter of the call gets it
            job.error = error
