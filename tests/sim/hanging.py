"""System calls that hang, in worker threads that are given up.

Calls run in real threads here, because one that hangs has to stay in the middle of its code. But
never two at a time: a thread runs until its call is over or hangs, and who started it waits for
that. So a scenario stays as deterministic as with `SimWorkers`, and only scenarios with hanging
disks pay for the threads.

A call that hung goes on when its disk answers again, which may be long after the loop has given it
up: its system call takes effect then. When the process dies first, it may take effect or not.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from duplexd.runtime.watch import GivenUp
from tests.sim.disk import PowerCut
from tests.sim.workers import SimWorkers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

    from tests.sim.disk import SimDisk
    from tests.sim.workers import _Job


class _Runner:
    """A thread that takes one call after the other, and hands back control in between."""

    def __init__(self) -> None:
        self.hung = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._call: Callable[[], Any] | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self.thread.start()

    def start(self, call: Callable[[], Any] | None) -> None:
        """Run `call` until it is over or hangs; None ends the thread."""
        self._call = call
        self.go_on()

    def go_on(self) -> None:
        """The same, from where it hangs."""
        self._go.release()
        self._back.acquire()

    def pause(self) -> None:
        """In the thread: the disk does not answer, until `go_on`."""
        self.hung = True
        self._back.release()
        self._go.acquire()
        self.hung = False

    def _work(self) -> None:
        while True:
            self._go.acquire()
            call, self._call = self._call, None
            if call is None:
                break
            self.result = self.error = None
            try:
                self.result = call()
            except BaseException as error:  # noqa: BLE001  the submitter of the call gets it
                self.error = error
            del call
            self._back.release()
        self._back.release()


class Hangs:
    """The disks of one life that do not answer, and the threads that wait for them."""

    def __init__(self, disk: SimDisk, rng: Random) -> None:
        self._disk = disk
        self._rng = rng
        self._idle: list[_Runner] = []
        self._runners: dict[int, _Runner] = {}  # all, by thread
        self._waiting: list[tuple[str, _Runner, Callable[[_Runner], None]]] = []
        self._path = ""  # at which a runner has just stopped
        self._over = False
        self.hung = 0  # calls so far
        disk.wait = self.wait

    def wait(self, operation: str, path: str, dying: Callable[[], None] | None) -> None:
        """A system call on a disk that does not answer."""
        runner = self._runners.get(threading.get_ident())
        assert runner is not None, f"the event loop waits for a disk: {operation} {path}"
        self.hung += 1
        self._path = path
        runner.pause()
        if self._over:
            if dying is not None and self._rng.random() < 0.5:
                dying()
            raise PowerCut(f"{operation} {path}: the process died while it hung")

    def run(self, call: Callable[[], Any], hung: Callable[[_Runner], None]) -> _Runner | None:
        """The runner that has ended `call`; None if it hangs: `hung(runner)` is called when it is
        over at last.
        """
        runner = self._idle.pop() if self._idle else _Runner()
        self._runners[runner.thread.ident or 0] = runner
        runner.start(call)
        return self._after(runner, hung)

    def _after(self, runner: _Runner, hung: Callable[[_Runner], None]) -> _Runner | None:
        if runner.hung:
            self._waiting.append((self._path, runner, hung))
            return None
        self._idle.append(runner)
        return runner

    def answer(self, path: str) -> None:
        """The disk answers again."""
        self._disk.hanging.pop(path, None)
        waiting, self._waiting = self._waiting, []
        self._rng.shuffle(waiting)
        for at, runner, hung in waiting:
            if at != path:
                self._waiting.append((at, runner, hung))
                continue
            runner.go_on()
            if self._after(runner, hung) is not None:
                hung(runner)

    def end(self) -> None:
        """The process is dead."""
        self._over = True
        self._disk.hanging.clear()
        for _, runner, _ in self._waiting:
            runner.go_on()
        self._waiting.clear()

    def close(self) -> None:
        """Nothing is run any more."""
        for runner in self._runners.values():
            runner.start(None)
        self._runners.clear()
        self._disk.hanging.clear()  # what was still begun while the process died
        self._disk.wait = None


class HangingWorkers(SimWorkers):
    """`SimWorkers` whose calls may hang; those on other disks go on meanwhile."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rng: Random, count: int, hangs: Hangs
    ) -> None:
        super().__init__(loop, rng, count)
        self._hangs = hangs
        self._hung = 0
        self._given_up = 0
        self._lanes: WeakValueDictionary[object, HangingWorkers] = WeakValueDictionary()

    def of(self, disk: object) -> HangingWorkers:
        lane = self._lanes.get(disk)
        if lane is None:
            lane = HangingWorkers(self._loop, self._rng, self._count, self._hangs)
            self._lanes[disk] = lane
        return lane

    def replace(self) -> None:
        assert self._given_up < self._hung, "a call was given up that does not hang"
        self._given_up += 1
        self._next_turn()

    @property
    def idle(self) -> bool:
        here = super().idle and self._hung == self._given_up
        return here and all(lane.idle for lane in list(self._lanes.values()))

    def _fill(self) -> bool:
        taken = self._hung - self._given_up
        while self._waiting and len(self._under_way) + taken < self._count:
            self._under_way.append(self._waiting.popleft())
        return bool(self._under_way)

    def _get_on(self, job: _Job) -> None:
        if job.called:
            super()._get_on(job)
            return
        job.called = True
        runner = self._hangs.run(job.call, lambda runner: self._answered(job, runner))
        if runner is None:
            self._under_way.remove(job)
            self._hung += 1
            return
        self._ended(job, runner)

    def _answered(self, job: _Job, runner: _Runner) -> None:
        """A call that hung is over. If it was given up, nothing of it may be heard any more."""
        self._hung -= 1
        if isinstance(runner.error, GivenUp):
            self._given_up -= 1
            assert self._given_up >= 0, "a call gave itself up"
            return
        self._under_way.append(job)
        self._ended(job, runner)
        self._next_turn()

    def _ended(self, job: _Job, runner: _Runner) -> None:
        job.result, job.error = runner.result, runner.error
        runner.result = runner.error = None
        if isinstance(job.error, PowerCut):
            self.dead = True
            self._waiting.clear()
            self._under_way.clear()
