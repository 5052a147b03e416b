"""Drives a `protocol.Round`: sends its requests, reports what came back, keeps the time.

What decides is in `protocol.py`, without a loop or a clock; here is what moves: one request per
member and phase, each a task, and one timer. The hold is measured here, too: from the first CLOSE
on, by this process's monotonic clock. So a hold that takes too long is given up before the members'
leases end, as those begin later. The lease of one member alone is that member's own business: its
deadline counts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.client import protocol
from duplexd.client.member import BY_ANOTHER, End, Member, Plan
from duplexd.client.protocol import (
    CLOSING,
    CUTTING,
    DONE,
    HELD,
    OPENING,
    RELEASING,
    RESOLVING,
    SUSPENDING,
    Round,
    Send,
)
from duplexd.errors import DuplexdError, LeaseLostError, TimedOutError, UnreachableError, UsageError
from duplexd.limits import HOLD_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from duplexd.client.http import Http
    from duplexd.json_object import Json

SETTLE_PAUSE_S = 0.25  # between two attempts to reach members that do not answer
_TIMED = {
    CLOSING: "closing",
    HELD: "held",
    CUTTING: "cutting",
    OPENING: "opening",
    RESOLVING: "settling",
    RELEASING: "releasing",
}


class Drive:
    """One cut of a group over `links`, its members.

    While the caller has it held, `on_over` is called when the hold ends by itself: with True when
    it was lost, with False when another command suspended under the lease of a member alone.
    """

    def __init__(self, plan: Plan, links: Mapping[str, Http]) -> None:
        self.plan = plan
        self.round = Round(links)
        self.members = {name: Member(link, plan) for name, link in links.items()}
        self.error: DuplexdError | None = None  # the first
        self.seconds: dict[str, float] = {}  # by phase
        self.deadline = 0.0
        self.on_over: Callable[[bool], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._bug: BaseException | None = None
        self._phase = ""
        self._since = self._began = monotonic()

    @property
    def alone(self) -> bool:
        """Whether there is one member, whose journal orders everything."""
        return self.plan.alone

    @property
    def only(self) -> Member:
        """The member alone."""
        return next(iter(self.members.values()))

    @property
    def lease(self) -> str:
        """By what name `release` finds the hold: the cut's id, the lease's own of one member."""
        return str(self.only.lease["id"]) if self.alone else self.plan.cut_id

    @property
    def volumes(self) -> list[str]:
        """What is held, or was."""
        title = self.plan.group.title
        return [
            title(name, each) for name, member in self.members.items() for each in member.volumes
        ]

    @property
    def left(self) -> list[str]:
        """Volumes that were cut, and had left the cut when their member was last heard of."""
        return [
            self.plan.group.title(name, volume)
            for name, member in self.members.items()
            for volume in member.volumes
            if volume not in member.standing
        ]

    @property
    def made(self) -> dict[str, Json]:
        """What members said of the cut that they made."""
        return {name: each.made for name, each in self.members.items() if each.made is not None}

    @property
    def nothing_cut(self) -> bool:
        """Whether no member made its cut, by what all of them say in the end."""
        if self.alone:
            unanswered = isinstance(self.error, UnreachableError | TimedOutError)
            return not self.made and self.round.phase == DONE and not unanswered
        standing = any(member.standing for member in self.members.values())
        return not (self.made or self.round.untold or standing)

    # ------------------------------------------------------------------------- what is wanted

    async def close(self) -> None:
        """Close all gates. Afterwards they are held, or nothing is and the error is raised."""
        self._began = monotonic()
        self._expire_in(self.plan.hold_max_s, self._late_s)
        self._send(self.round.close())
        await self._until(HELD, DONE)
        if self.round.phase == DONE:
            raise self.failure

    async def cut(self, tag: str) -> None:
        """Cut what is held, open, and resolve as far as members answer.

        One member alone need not be held. Raises what kept it from cutting.
        """
        self.plan.tag = tag
        unheld = self.alone and self.round.phase == CLOSING
        self._send(self.round.suspend() if unheld else self.round.cut())
        await self._until(DONE)
        if self.alone and not self.made and self.error is not None:
            raise self.error

    async def release(self) -> None:
        """Release without a cut, if it is held.

        Raises LeaseLostError if a member's hold had ended before; the others are released, too.
        """
        self._send(self.round.release())
        if self.round.phase == RELEASING:
            await self._until(DONE)
            if isinstance(self.error, LeaseLostError):
                raise self.lost

    async def give_up(self, why: str) -> None:
        """Open every gate, whatever has been done. Takes no longer than a hold may.

        Members that promised a cut are sent its outcome.
        """
        self._lose(LeaseLostError(why))
        # what is not done by then ends with the leases, or is left to `settle`
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self.plan.hold_max_s, 1.0)):
                await self._until(DONE)

    async def settle(self) -> None:
        """Find out the outcome of an undecided cut, and spread it, as far as members answer."""
        self._send(self.round.settle())
        await self._until(DONE)

    async def finish(self, seconds: float) -> None:
        """Ask members that did not answer again, for so long."""
        deadline = monotonic() + seconds
        while not self.alone and self.round.untold and monotonic() < deadline:
            await asyncio.sleep(SETTLE_PAUSE_S)
            await self.settle()

    async def renew(self, seconds: float) -> None:
        """Let the hold last `seconds` from now.

        Raises LeaseLostError if a member does not grant that: the hold is over then.
        """
        now = monotonic()
        if seconds <= 0 or now + seconds > self._began + HOLD_SECONDS_MAX:
            raise UsageError(
                f"a hold lasts at most {HOLD_SECONDS_MAX:g} s in all: clients give up on writes"
                " that wait longer"
            )
        try:
            async with asyncio.timeout(self.deadline - now):
                await asyncio.gather(*(each.renew(seconds) for each in self.members.values()))
        except (DuplexdError, TimeoutError) as error:
            why = str(error) or "no answer before it ended"
            self._lose(LeaseLostError(f"the hold could not be renewed: {why}"))
            raise self.lost from None
        if self.round.phase != HELD:
            raise self.lost
        self._expire_in(now + seconds - monotonic(), self._late_s)

    async def end(self) -> None:
        """Close every stream, and with it what is still held there. Afterwards nothing runs."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def failure(self) -> DuplexdError:
        """Why nothing was cut."""
        error = self.error or LeaseLostError("it was given up")
        nothing = "nothing was marked" if self.plan.mark else "nothing was suspended"
        return type(error)(str(error) if self.alone else f"{nothing}: {error}")

    @property
    def lost(self) -> LeaseLostError:
        """Why the hold was lost."""
        why = self.error or "it was released"
        name = self.plan.group.name
        return LeaseLostError(
            f"the hold of {name} was lost: {why}; "
            "nothing that was done under it counts, quiesce again"
        )

    @property
    def by_another(self) -> bool:
        """Whether somebody else released the hold of this member alone."""
        return self.alone and self.only.end_reason == BY_ANOTHER

    # -------------------------------------------------------------------------------- driving

    async def _until(self, *phases: str) -> None:
        while self.round.phase not in phases:
            self._changed.clear()
            await self._changed.wait()
            if self._bug is not None:
                raise self._bug

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._bug = bug
            self._changed.set()

    def _send(self, sends: list[Send]) -> None:
        """Send these; `round` has just learned something, so its phase may be another."""
        now = monotonic()
        if self.round.phase != self._phase:
            if self._phase in _TIMED:
                name = _TIMED[self._phase]
                self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self._phase, self._since = self.round.phase, now
            if self._phase in {OPENING, SUSPENDING} and self._timer is not None:
                self._timer.cancel()
            if self._phase == OPENING and self.plan.on_made is not None:
                self.plan.on_made(self.plan.cut_id)
        for send in sends:
            if send.request == protocol.CLOSE:
                self._spawn(self._follow(self.members[send.member]))
            self._spawn(self._perform(send))
        self._changed.set()

    async def _perform(self, send: Send) -> None:
        member = self.members[send.member]
        try:
            state = await member.perform(send.request)
        except DuplexdError as error:
            # a member that can't be asked to release does so by itself, at its deadline
            if self.round.open_requests.get(send.member) == send.request != protocol.RELEASE:
                self.error = self.error or error
            self._send(self.round.failed(send.member, send.request, str(error)))
        else:
            self.error = self.error or member.fault
            self._send(self.round.replied(send.member, send.request, state))

    async def _follow(self, member: Member) -> None:
        end = await member.follow()
        phase = self.round.phase
        if end is None or (end.consistent and phase in {OPENING, SUSPENDING}):
            return  # as this coordinator asked
        if self.alone and phase == HELD and end == End("suspended", True):
            member.end_reason = end.reason
            self.round.used()
            self._send([])
            if self.on_over is not None:
                self.on_over(False)
            return
        # what `_lose` does not find released by this coordinator was released by another
        reason = BY_ANOTHER if end.reason == "released" else end.reason
        if phase == HELD:
            member.end_reason = reason
        prefix = member.link.prefix
        self._lose(LeaseLostError(f"{prefix}the hold was lost: {reason}" if prefix else reason))

    def _lose(self, error: DuplexdError) -> None:
        if self.round.phase in {RELEASING, RESOLVING, SUSPENDING, DONE}:
            return
        self.error = self.error or error
        held = self.round.phase == HELD
        self._send(self.round.abandon(str(error)))
        if held and self.on_over is not None:
            self.on_over(True)

    @property
    def _late_s(self) -> float:
        """How much later than the lease of one member its hold is given up: its own word counts."""
        return self.only.link.limits.late_seconds_max if self.alone else 0.0

    def _expire_in(self, seconds: float, late_s: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.deadline = monotonic() + seconds
        self._timer = self._loop.call_later(seconds + late_s, self._expire)

    def _expire(self) -> None:
        phase = self.round.phase
        held = monotonic() - self._began
        waiting = ", ".join(sorted(self.round.open_requests))
        where = f"{phase}, no answer from {waiting}" if waiting else phase
        what = (
            "what is done meanwhile takes that long"
            if phase == HELD
            else "the group is that large or far away"
        )
        self._lose(
            TimedOutError(
                f"after {held:.2f} s the gates had been closed for as long as allowed ({where});"
                f" allow a longer hold_max (--hold, --hold-max), up to 10 s, if {what}"
            )
        )
