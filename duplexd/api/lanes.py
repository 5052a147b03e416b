"""How much of the event loop those who look may have: status, metrics, events and the like.

A status of a thousand volumes takes the loop that serves them 20 ms or more, and who may look
can ask for it without end. So requests that look are answered one after the other, in four lanes by
what the peer may do, and each lane has a small share of the loop's time. A lane has credit for that
time: a client that asks now and then never waits, one that floods waits for its credit, and after
some seconds is answered 429 with Retry-After. Within a lane the peers take turns, so that one user
costs its lane what it costs itself. Commands of operators are in no lane: they are what writes may
be waiting for, and an operator can hold writes anyway.

Considered: a limit of requests a second. It would have to be that of the largest installation, for
a status of ten volumes costs a hundredth of one of a thousand. Time is what is short here, so time
is what is counted: that of the processor, for on a busy machine a request may take long and cost
the loop nothing.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from duplexd.api.access import Role
from duplexd.api.wire import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.api.access import Peer
    from duplexd.limits import ApiLimits


TURN_SECONDS_MAX = 1.0


class BusyError(HttpError):
    """It has waited for its turn long enough: answered 429, with `retry_after` in seconds."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = str(math.ceil(seconds))
        detail = (
            f"others ask so much that this request has waited for {seconds:g} s (look_seconds_max);"
            " ask less often, or follow /v1/events"
        )
        super().__init__(429, detail)


class Turn:
    """The time of one request; `leave` it as soon as the loop's work for it is done."""

    __slots__ = ("_began", "_lane", "_timer")

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self._lane: Lane | None = lane
        self._began = lane.now()
        # what takes so long waits for something else than the loop, and no lane waits for it
        self._timer = loop.call_later(TURN_SECONDS_MAX, self._end, 0.0)

    def leave(self) -> None:
        """Let the next one go; once is enough."""
        if self._lane is not None:
            self._end(self._lane.since(self._began))

    def _end(self, took_s: float) -> None:
        self._timer.cancel()
        if self._lane is not None:
            self._lane.left(took_s)
            self._lane = None


class Lane:
    """Turns of peers with the same rights. `processor_s`: the time that this thread has used."""

    def __init__(
        self,
        share: float,
        credit_s: float,
        wait_s: float,
        processor_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._processor_s = processor_s
        self._share = share
        self._credit_max_s = credit_s
        self._wait_s = wait_s
        self._credit_s = credit_s
        self._counted_at = self._loop.time()
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, who: object) -> Turn:
        """Wait for a turn. Raises BusyError; a cancelled one has none."""
        if self._busy or self._waiting or self._debt_s() > 0:
            await self._wait(who)
        self._busy = True
        return Turn(self, self._loop)

    def now(self) -> tuple[int, float]:
        """The thread that drives the loop, and the time that the processor worked for it."""
        return threading.get_ident(), self._processor_s()

    def since(self, began: tuple[int, float]) -> float:
        """What a turn has cost the loop. If another thread drives it by now, nothing: the
        processor's times of two threads have nothing to do with each other, and the time on the
        clock is that of the disk that the first one waits for. A second of it would make all who
        look wait for a second divided by the share.
        """
        (then, then_s), (thread, now_s) = began, self.now()
        return now_s - then_s if thread == then else 0.0

    def left(self, took_s: float) -> None:
        """A turn that took the loop so long is over."""
        self._busy = False
        self._debt_s()
        self._credit_s -= took_s
        self._go_on()

    async def _wait(self, who: object) -> None:
        ticket: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(who, deque()).append(ticket)
        self._go_on()
        try:
            async with asyncio.timeout(self._wait_s):
                await ticket
        except (TimeoutError, asyncio.CancelledError) as error:
            self._forget(who, ticket)
            if ticket.done() and not ticket.cancelled():  # its turn had come, just now
                if isinstance(error, TimeoutError):
                    return  # the loop was late, not this request: it may be answered
                self._busy = False
            self._go_on()
            if isinstance(error, TimeoutError):
                raise BusyError(self._wait_s) from None
            raise

    def _forget(self, who: object, ticket: asyncio.Future[None]) -> None:
        queue = self._waiting.get(who)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._waiting[who]

    def _debt_s(self) -> float:
        """How much of the loop's time has to pass before the next turn."""
        now = self._loop.time()
        earned_s = (now - self._counted_at) * self._share
        self._credit_s = min(self._credit_max_s, self._credit_s + earned_s)
        self._counted_at = now
        return max(0.0, -self._credit_s / self._share)

    def _go_on(self) -> None:
        """Give the next turn, now or when there is credit again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy or not self._waiting:
            return
        if (debt_s := self._debt_s()) > 0:
            self._timer = self._loop.call_later(debt_s, self._go_on)
            return
        who = next(iter(self._waiting))
        queue = self._waiting.pop(who)
        ticket = queue.popleft()
        if queue:
            self._waiting[who] = queue  # behind the others
        if ticket.done():  # it gave up in this turn of the loop
            self._go_on()
            return
        self._busy = True
        ticket.set_result(None)


class Lanes:
    """The lanes of a server: of root and the daemon's user, of operators, observers, and those who
    have no role. Each has two, because signs of life (/healthz) must not wait for what takes long.
    """

    def __init__(
        self, limits: ApiLimits, processor_s: Callable[[], float] = time.thread_time
    ) -> None:
        operator_s, observer_s = limits.operator_credit_seconds, limits.observer_credit_seconds
        credits_s = {
            (Role.OPERATE, True): operator_s,
            (Role.OPERATE, False): operator_s,
            (Role.OBSERVE, False): observer_s,
            (Role.NONE, False): observer_s,
        }
        self._lanes = {
            (*kind, healthz): Lane(
                limits.look_share, credit_s, limits.look_seconds_max, processor_s
            )
            for kind, credit_s in credits_s.items()
            for healthz in (True, False)
        }

    async def enter(self, peer: Peer, method: str, path: str) -> Turn | None:
        """Wait for a turn; None at once for a command of an operator. Raises BusyError."""
        if peer.role is Role.OPERATE and not looks(method, path):
            return None
        return await self._lanes[peer.role, peer.owns, path == "/healthz"].enter(peer.who)


def looks(method: str, path: str) -> bool:
    """Whether a request only looks; one for the contents of a volume waits for a disk instead."""
    return method in {"GET", "HEAD"} and "/volumes/" not in path


def once_a_turn(make: Callable[[], bytes]) -> Callable[[float], bytes]:
    """What `make` made last, if that was after the time at which somebody asked; else made anew.

    So all who wait for the same are given one, and nobody is given an old one.
    """
    made: list[tuple[float, bytes]] = []

    def of(asked_at: float) -> bytes:
        if not made or made[0][0] < asked_at:
            now = asyncio.get_running_loop().time()
            made[:] = [(now, make())]
        return made[0][1]

    return of
