"""A blocking call in a worker that the event loop watches, and can give up.

A thread that hangs in a system call cannot be interrupted. So the worker notes what it waits for,
the loop looks at that note once in a while, and when the same call has been waited for too long,
the loop takes the note away and goes on without the thread. The thread ends when its call returns
at last, however that went: it finds its note gone, and raises `GivenUp` before it does anything
more. The thread that removes the note, one atomic step, decides for both. So nothing happens
twice, and nothing late, except the system call itself.

    watch: Watch[Leg] = Watch()

    def copy() -> None:                             # in the worker
        with watch.at(leg):
            leg.write(0, data)

    try:
        await patiently(workers, watch, copy, lambda leg: 5.0)
    except HungError as error:                      # an OSError; `error.what` is the leg
        ...
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")
R = TypeVar("R")

LOOK_SECONDS = 0.25  # between two looks at a call; the most that one is given up too late
# What counts of the time between two looks. Who could not look for longer did not run, nor did the
# worker: the process was stopped, the machine was, or had no processor for it.
COUNTED_SECONDS_MAX = 1.0


class HungError(OSError):
    """A call on `what` did not return in time, and was given up."""

    def __init__(self, what: object, seconds: float) -> None:
        super().__init__(errno.ETIMEDOUT, f"the disk has not answered for {seconds:g} s")
        self.what = what
        self.seconds = seconds


class GivenUp(BaseException):
    """The loop went on without this thread. No Exception, so that no handler of errors takes it."""


class Watch(Generic[T]):
    """What one worker waits for: a `T`, for example a leg. The worker calls `enter`, `leave`, `at`;
    the loop the rest.

    There is no clock on the worker's side: the loop sees that neither the number of calls nor what
    the present one is on has changed since it looked last. So a call may be given up one look later
    than its time-out, never earlier. Time in which nobody looked counts for COUNTED_SECONDS_MAX: a
    guest that is paused for a snapshot would lose its pairs otherwise.

    A worker on the hot path moves its note from one call to the next, `inside[0] = another`, which
    is one step instead of two, and an IndexError if the loop has gone on (`given_up`). Each must be
    an object of its own, because `calls` does not count them.
    """

    __slots__ = ("_calls_seen", "_looked", "_seen", "_waited_s", "calls", "given_up", "inside")

    def __init__(self) -> None:
        self.inside: list[T] = []  # the note: what the present call is on; at most one
        self.calls = 0
        self.given_up = False
        self._calls_seen = -1
        self._seen: T | None = None
        self._looked = 0.0
        self._waited_s = 0.0

    # ------------------------------------------------------------------------- in the worker

    def enter(self, what: T) -> None:
        """A system call on `what` begins."""
        self.calls += 1
        self.inside.append(what)

    def leave(self) -> None:
        """It has returned. Raises GivenUp if the loop has gone on."""
        try:
            self.inside.pop()
        except IndexError:
            raise GivenUp from None

    def at(self, what: T) -> _Call[T]:
        """`enter` and `leave` around a block, which may raise: GivenUp takes the place of that."""
        return _Call(self, what)

    # --------------------------------------------------------------------------- in the loop

    def waits_longer(self, seconds: float, now: float) -> bool:
        """Whether the same call has been waited for at least `seconds`. `now` is monotonic."""
        return self.waited_s(now) >= seconds

    def waited_s(self, now: float) -> float:
        """How long the present call has been seen to wait; -1 if there is none."""
        what = self.waits_for()
        if what is None:
            return -1.0
        if self.calls != self._calls_seen or what is not self._seen:
            self._calls_seen, self._seen, self._waited_s = self.calls, what, 0.0
        else:
            self._waited_s += min(now - self._looked, COUNTED_SECONDS_MAX)
        self._looked = now
        return self._waited_s

    def waits_for(self) -> T | None:
        """What the present call is on."""
        return next(iter(self.inside), None)

    def give_up(self, what: T) -> bool:
        """Go on without the worker, which waits for `what`. False if it does not any more: then
        nothing was given up.
        """
        self.given_up = True  # before the worker can notice
        try:
            self.inside.remove(what)
        except ValueError:
            self.given_up = False
        return self.given_up


class _Call(Generic[T]):
    """A context manager by hand: half the cost of a generator, and this is once for each call."""

    __slots__ = ("_watch", "_what")

    def __init__(self, watch: Watch[T], what: T) -> None:
        self._watch = watch
        self._what = what

    def __enter__(self) -> None:
        self._watch.enter(self._what)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._watch.leave()


class Replaceable(Protocol):
    """What is needed of `duplexd.runtime.threads.Workers`, which imports this file."""

    def submit(
        self, call: Callable[[], R], done: Callable[[R | None, BaseException | None], None]
    ) -> None:
        """Run `call` in a worker, then `done(result, error)` in the loop."""

    def replace(self) -> None:
        """A call was given up: others run in another thread."""


async def patiently(
    workers: Replaceable,
    watch: Watch[T],
    call: Callable[[], R],
    seconds_for: Callable[[T], float],
    look_s: float = LOOK_SECONDS,
) -> R:
    """The result of `call` in a worker, which enters and leaves `watch`.

    Raises what `call` raises; HungError, with the thread given up, when one system call on
    something takes longer than `seconds_for` it. If the waiter is cancelled, the call goes on; if
    it hangs, its thread is given up as well, or a disk that hangs would take one thread after the
    other from all disks.

    A watch is of one worker: after a HungError, another call needs another watch.
    """
    if watch.given_up:
        raise RuntimeError("a thread that was given up still uses this watch")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def done(result: R | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("R", result))
        else:
            future.set_exception(error)

    workers.submit(call, done)
    try:
        while not future.done():
            await asyncio.wait((future,), timeout=look_s)
            if not future.done():
                _give_up_what_hangs(workers, watch, seconds_for)
    except asyncio.CancelledError:
        _look_on(workers, watch, future, seconds_for, look_s)
        raise
    return future.result()


# No closures, and no error in a variable: either would be a cycle, and what the call is on, as an
# image that is locked, would stay open until the next collection.


def _give_up_what_hangs(
    workers: Replaceable, watch: Watch[T], seconds_for: Callable[[T], float]
) -> None:
    """Raises HungError if it has."""
    what = watch.waits_for()
    if what is None:
        return
    seconds = seconds_for(what)
    if watch.waits_longer(seconds, asyncio.get_running_loop().time()) and watch.give_up(what):
        workers.replace()
        raise HungError(what, seconds)


def _look_on(
    workers: Replaceable,
    watch: Watch[T],
    future: asyncio.Future[R],
    seconds_for: Callable[[T], float],
    look_s: float,
) -> None:
    """Nobody waits for the call any more."""
    if future.done():
        future.exception()  # it is no error that nobody has heard of
        return
    with suppress(HungError):
        _give_up_what_hangs(workers, watch, seconds_for)
        loop = asyncio.get_running_loop()
        loop.call_later(look_s, _look_on, workers, watch, future, seconds_for, look_s)
