"""Worker threads: blocking calls leave the event loop here, and their results come back in bursts.

Not `run_in_executor`: it costs about 90 us of CPU for each call, with a future and a wake-up of the
loop each. Here a burst of completions costs one wake-up, and a caller on the hot path passes a
callback instead of awaiting a future.

A disk that hangs must not take the threads that others need. So calls are sorted by what they may
hang in (`Workers.of`), and these rules decide which of them runs:

    - of one disk, at most `count` calls run at once; the others queue;
    - all together at most `shared` run, but a disk of which none runs never waits for that.

So a call on an idle disk begins at once, whatever hangs elsewhere, and there are at most `shared`
threads and one for each disk in use. Threads are started when there is no idle one, and end when
more than `shared` are idle.

A call that was given up (`runtime/watch.py`, `replace`) does not count any more; its thread ends
when the call returns. The threads are daemon threads, because Python would wait at its exit for
those that hang.

Considered and rejected: a pool for each device number. Images of one NFS or FUSE mount can hang one
by one, and a thousand logical volumes would have a thousand pools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

from duplexd.limits import WORKER_THREADS_SHARED, WORKERS_CLOSE_SECONDS_MAX
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

    def of(self, disk: object) -> Workers:  # noqa: ARG002
        """Those for calls that may hang in `disk`, for example a leg. They do not wait for calls on
        other disks, however many of these hang.
        """
        return self

    def replace(self) -> None:
        """A call of these workers was given up (`runtime/watch.py`): others run in another thread.
        The `done` of that call is never called.
        """
        return

    def close(self) -> None:
        """Finish what was submitted, call every `done`, end the threads; those that were given up
        are left alone, and those that hang after a while. Nothing may be submitted afterwards.
        """


class ThreadWorkers(Workers):
    """`Workers` on threads of its own: `count` for each disk, see above. Completions of one burst
    cost one wake-up of the loop. Calls that are submitted here are of one disk, the pool's own.
    """

    __slots__ = (
        "_close_seconds_max", "_closed", "_completions", "_count", "_ended", "_idle", "_lanes",
        "_lock", "_loop", "_name", "_own", "_running", "_shared", "_started", "_threads",
        "_waiting", "_woken",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        count: int,
        shared: int = WORKER_THREADS_SHARED,
        close_seconds_max: float = WORKERS_CLOSE_SECONDS_MAX,
    ) -> None:
        self._loop = loop
        self._close_seconds_max = close_seconds_max
        self._name = name
        self._count = count
        self._shared = max(shared, count)
        self._completions: deque[
            tuple[Callable[[Any, BaseException | None], None], Any, BaseException | None]
        ] = deque()
        self._woken = False
        self._closed = False
        self._lanes: WeakValueDictionary[object, _Lane] = WeakValueDictionary()
        self._own = _Lane(self)
        # What follows is changed with the lock: in the loop, and by a thread at the end of a call.
        self._lock = Lock()
        self._waiting: deque[_Lane] = deque()  # that could begin a call if fewer ran in all
        self._running = 0
        # Where threads wait, each in a queue of its own: in one for all, a call that begins would
        # wake the next one, too, for nothing. The last to have come begins first.
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._threads = 0  # those that were given up not counted
        self._started = 0
        self._ended: SimpleQueue[None] = SimpleQueue()  # one for each thread, in `close`

    # ------------------------------------------------------------------------------ in the loop

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        self._own.submit(call, done)

    def of(self, disk: object) -> Workers:
        lane = self._lanes.get(disk)
        if lane is None:
            lane = self._lanes[disk] = _Lane(self)
        return lane

    def replace(self) -> None:
        self._own.replace()

    def enqueue(self, job: _Job) -> None:
        """Of a lane: a call was submitted."""
        if self._closed:
            raise RuntimeError("the workers are closed")
        with self._lock:
            job.lane.calls.append(job)
            self._start(self._next(job.lane))

    def left(self, lane: _Lane) -> None:
        """Of a lane: a call was given up, and its thread with it."""
        with self._lock:
            self._threads -= 1
            self._start(self._over(lane))

    def close(self) -> None:
        if self._closed:
            return
        with self._lock:
            self._closed = True
            threads = self._threads
            for begun in self._idle:
                begun.put(None)
            self._idle.clear()
        until = monotonic() + self._close_seconds_max
        with contextlib.suppress(Empty):
            for _ in range(threads):
                self._ended.get(timeout=max(until - monotonic(), 0.0))
        while self._completions:
            self._deliver()

    # -------------------------------------------------------------- which call runs, with the lock

    def _next(self, lane: _Lane) -> _Job | None:
        """The call that may begin now that something changed in this lane. It counts as running."""
        if lane.calls and lane.running == 0:
            return self._begin(lane)
        if lane.calls and lane.running < self._count and not lane.listed:
            lane.listed = True
            self._waiting.append(lane)
        while self._waiting and self._running < self._shared:
            first = self._waiting.popleft()
            first.listed = False
            if first.calls and first.running < self._count:
                return self._begin(first)
        return None

    def _begin(self, lane: _Lane) -> _Job:
        lane.running += 1
        self._running += 1
        job = lane.calls.popleft()
        if lane.calls and lane.running < self._count and not lane.listed:
            lane.listed = True
            self._waiting.append(lane)
        return job

    def _over(self, lane: _Lane) -> _Job | None:
        """A call of this lane does not run any more; the one that may begin instead."""
        lane.running -= 1
        self._running -= 1
        return self._next(lane)

    def _start(self, job: _Job | None) -> None:
        """Let a thread do the job: an idle one, or a new one."""
        if job is None:
            return
        if self._idle:
            self._idle.pop().put(job)
            return
        try:
            self._start_thread(job)
        except RuntimeError:  # the process may not have more: the call waits for one it has
            if not self._threads:
                raise
            self._put_back(job)

    def _start_thread(self, job: _Job) -> None:
        name, begun = f"{self._name}-{self._started}", SimpleQueue[_Job | None]()
        begun.put(job)
        Thread(target=self._work, args=(begun,), name=name, daemon=True).start()
        self._started += 1
        self._threads += 1

    def _put_back(self, job: _Job) -> None:
        lane = job.lane
        lane.running -= 1
        self._running -= 1
        lane.calls.appendleft(job)
        if not lane.listed:
            lane.listed = True
            self._waiting.append(lane)

    # ------------------------------------------------------------------------------- in a thread

    def _work(self, begun: SimpleQueue[_Job | None]) -> None:
        finished = self._completions.append
        job = begun.get()
        while job is not None:
            lane, call, done = job
            try:
                finished((done, call(), None))
            except GivenUp:
                return
            except BaseException as error:  # noqa: BLE001  it is passed to the caller
                finished((done, None, error))
            del job, call, done  # nothing of it is kept while this thread waits for the next
            # It is idle before the loop hears that the call is over, and so gets the next one.
            with self._lock:
                job, closed = self._over(lane), self._closed
                waits = job is None and not closed
                surplus = waits and len(self._idle) >= self._shared
                if surplus:
                    self._threads -= 1
                elif waits:
                    self._idle.append(begun)
            del lane
            if not self._woken:
                self._woken = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: close() delivers
                    self._loop.call_soon_threadsafe(self._deliver)
            if surplus:
                return
            if waits:
                job = begun.get()
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


class _Job(NamedTuple):
    """A call that was submitted."""

    lane: _Lane
    call: Callable[[], Any]
    done: Callable[[Any, BaseException | None], None]


class _Lane(Workers):
    """The calls on one disk, in order. It exists as long as there are any, or somebody has it."""

    __slots__ = ("_pool", "calls", "listed", "running")

    def __init__(self, pool: ThreadWorkers) -> None:
        self._pool = pool
        self.calls: deque[_Job] = deque()  # that wait
        self.running = 0
        self.listed = False  # among those that wait for others to end

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        self._pool.enqueue(_Job(self, call, done))

    def of(self, disk: object) -> Workers:
        return self._pool.of(disk)

    def replace(self) -> None:
        self._pool.left(self)

    def close(self) -> None:
        """The pool closes them all."""
