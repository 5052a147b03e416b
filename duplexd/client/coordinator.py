"""Drives a `protocol.Round`: sends what it wants sent, tells it what came back, and keeps the time.

What decides is in `protocol.py`, without a loop or a clock; here is what moves: one request per
member and phase, each a task, and one timer. The hold is measured here, too: from the first CLOSE
on, by this process's monotonic clock. So a hold that takes too long is given up before the members'
leases end, as those begin later. The lease of one member alone is that member's own business: its
deadline counts.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from duplexd.client import protocol
from duplexd.client.answers import check_sender, need
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
from duplexd.limits import HOLD_SECONDS_MAX, NAME_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.json_object import Json
    from duplexd.limits import ClientLimits

SETTLE_PAUSE_S = 0.25  # between two attempts to reach members that do not answer
_BY_ANOTHER = "released by somebody else"
_TIMED = {
    CLOSING: "closing",
    HELD: "held",
    CUTTING: "cutting",
    OPENING: "opening",
    RESOLVING: "settling",
    RELEASING: "releasing",
}


class End(NamedTuple):
    """The last line of a hold's stream. Not `consistent`: it ended before its owner ended it."""

    reason: str
    consistent: bool


class Drive:
    """One cut of a group over `links`, its members.

    While the caller has it held, `on_over` is called when the hold ends by itself: with True when
    it was lost, with False when another command suspended under the lease of a member alone.
    """

    def __init__(
        self, cut: str, group: Group, links: Mapping[str, Http], hold_max_s: float = 0.0
    ) -> None:
        self.cut_id = cut
        self.group = group
        self.hold_max_s = hold_max_s
        self.round = Round(links)
        self.tag = ""
        self.certificate = False  # of one member alone: to be asked for
        self.lease_given: str | None = None  # of one member alone: a hold of another command
        self.made: dict[str, Json] = {}  # what members said of the cut they made
        self.holds: dict[str, Json | None] = {}
        self.error: DuplexdError | None = None  # the first
        self.reason = "released"  # how the hold of a member alone ended
        self.seconds: dict[str, float] = {}  # by phase
        self.deadline = 0.0
        self.on_over: Callable[[bool], None] | None = None
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._leases: dict[str, Json] = {}
        self._ends: dict[str, asyncio.Future[End]] = {}
        # the volumes that stood at the cut when a member was last heard of
        self._standing: dict[str, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._bug: BaseException | None = None
        self._phase = ""
        self._since = self._began = monotonic()

    @property
    def alone(self) -> bool:
        """Whether there is one member, whose journal orders everything."""
        return self.round.alone

    @property
    def lease(self) -> str:
        """By what name `release` finds the hold: the cut's id, the lease's own of one member."""
        return str(self.only_lease["id"]) if self.alone else self.cut_id

    @property
    def only_lease(self) -> Json:
        """What one member alone says of its hold."""
        return next(iter(self._leases.values()))

    @property
    def volumes(self) -> list[str]:
        """What is held, or was."""
        return [self.group.title(*each) for each in self._volumes()]

    @property
    def left(self) -> list[str]:
        """Volumes that were cut, and had left the cut when their member was last heard of."""
        return [
            self.group.title(member, volume)
            for member, volume in self._volumes()
            if volume not in self._standing.get(member, ())
        ]

    def _volumes(self) -> list[tuple[str, str]]:
        return [
            (member, volume)
            for member in self._links
            for volume in self._leases.get(member, {}).get("volumes", ())
        ]

    @property
    def nothing_cut(self) -> bool:
        """Whether no member made its cut, by what all of them say in the end."""
        if self.alone:
            unanswered = isinstance(self.error, UnreachableError | TimedOutError)
            return not self.made and self.round.phase == DONE and not unanswered
        return not (self.made or self.round.untold or any(self._standing.values()))

    # ------------------------------------------------------------------------- what is wanted

    async def close(self) -> None:
        """Close all gates. Afterwards they are held, or nothing is and the error is raised."""
        self._began = monotonic()
        self._expire_in(self.hold_max_s, self._late_s)
        self._send(self.round.close())
        await self._until(HELD, DONE)
        if self.round.phase == DONE:
            raise self.failure

    async def cut(self, tag: str) -> None:
        """Cut what is held, open, and resolve as far as members answer.

        One member alone need not be held. Raises what kept it from cutting.
        """
        self.tag = tag
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
            async with asyncio.timeout(max(self.hold_max_s, 1.0)):
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
                leases = await asyncio.gather(
                    *(self._renew(member, seconds) for member in self._links)
                )
        except (DuplexdError, TimeoutError) as error:
            why = str(error) or "no answer before it ended"
            self._lose(LeaseLostError(f"the hold could not be renewed: {why}"))
            raise self.lost from None
        if self.round.phase != HELD:
            raise self.lost
        for member, lease in zip(self._links, leases, strict=True):
            self._leases[member] |= lease
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
        return type(error)(str(error) if self.alone else f"nothing was suspended: {error}")

    @property
    def lost(self) -> LeaseLostError:
        """Why the hold is no more."""
        why = self.error or "it was released"
        return LeaseLostError(
            f"the hold of {self.group.name} was lost: {why}; nothing was suspended, quiesce again"
        )

    @property
    def by_another(self) -> bool:
        """Whether somebody else released the hold of this member alone."""
        return self.alone and self.reason == _BY_ANOTHER

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
        """Send these; `round` has just been told something, so its phase may be another."""
        now = monotonic()
        if self.round.phase != self._phase:
            if self._phase in _TIMED:
                name = _TIMED[self._phase]
                self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self._phase, self._since = self.round.phase, now
            if self._phase in {OPENING, SUSPENDING} and self._timer is not None:
                self._timer.cancel()
        for send in sends:
            self._spawn(self._perform(send))
        self._changed.set()

    async def _perform(self, send: Send) -> None:
        try:
            state = await self._requests[send.request](self, send.member)
        except DuplexdError as error:
            # a member that can't be asked to release does so by itself, at its deadline
            if self.round.open_requests.get(send.member) == send.request != protocol.RELEASE:
                self.error = self.error or error
            self._send(self.round.failed(send.member, send.request, str(error)))
        else:
            self._send(self.round.replied(send.member, send.request, state))

    def _lose(self, error: DuplexdError) -> None:
        if self.round.phase in {RELEASING, RESOLVING, SUSPENDING, DONE}:
            return
        self.error = self.error or error
        held = self.round.phase == HELD
        self._send(self.round.abandon(str(error)))
        if held and self.on_over is not None:
            self.on_over(True)

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

    # ------------------------------------------------------------------------------- requests

    @property
    def _limits(self) -> ClientLimits:
        return next(iter(self._links.values())).limits

    @property
    def _late_s(self) -> float:
        """How much later than the lease of one member its hold is given up: its own word counts."""
        return self._limits.late_seconds_max if self.alone else 0.0

    async def _close(self, member: str) -> None:
        held: asyncio.Future[Json] = self._loop.create_future()
        self._ends[member] = self._loop.create_future()
        self._spawn(self._follow(member, held))
        self._leases[member] = await held

    async def _follow(self, member: str, held: asyncio.Future[Json]) -> None:
        """Read a hold's stream until it ends: the hold lasts exactly as long."""
        link = self._links[member]
        body: Json = {"targets": list(self.group.members[member]), "hold_s": self.hold_max_s}
        if not self.alone:
            body["cut"] = self.cut_id
        end = End("its connection ended", False)
        try:
            async with aclosing(link.lines("POST", "/v1/quiesce", body)) as lines:
                async for line in lines:
                    if line.get("event") == "held":
                        held.set_result(need(line, link, "lease"))
                    elif line.get("event") == "ended":
                        reason = str(line.get("reason"))
                        end = End(reason, need(line, link, "verdict") == "consistent")
        except DuplexdError as error:
            if not held.done():
                held.set_exception(error)
                return
            end = End(str(error).removeprefix(link.prefix), False)
        if not held.done():
            held.set_exception(
                UnreachableError(f"{link.prefix}broke off before the hold began; see its log")
            )
            return
        self._ends[member].set_result(end)
        self._over(member, end)

    def _over(self, member: str, end: End) -> None:
        phase = self.round.phase
        if end.consistent and phase in {OPENING, SUSPENDING}:
            return  # as this coordinator asked
        if end.consistent and phase == HELD and self.alone and end.reason == "suspended":
            self.reason = end.reason
            self.round.used()
            self._send([])
            if self.on_over is not None:
                self.on_over(False)
            return
        # what `_lose` does not find released by this coordinator was released by another
        reason = _BY_ANOTHER if end.reason == "released" else end.reason
        if phase == HELD:
            self.reason = reason
        prefix = self._links[member].prefix
        self._lose(LeaseLostError(f"{prefix}the hold was lost: {reason}" if prefix else reason))

    async def _cut(self, member: str) -> None:
        body = self._lease(member) | {
            "tag": self.tag,
            "group": self.group.name[:NAME_CHARACTERS_MAX],
            "members": list(self._links),
        }
        made = await self._links[member].call("POST", self._path(), body)
        self._check_sender(made, member)
        need(made, self._links[member], "sequence")
        self.made[member] = made | {"volumes": []}

    async def _open(self, member: str) -> str:
        """The gates open at once; the answer comes when the secondaries are durable."""
        link = self._links[member]
        answer = await link.call_patiently("POST", self._path("open"), self._lease(member))
        self._check_sender(answer, member)
        self._standing[member] = need(answer, link, "volumes")
        self.holds[member] = answer.get("hold")
        self.made[member] |= {"volumes": answer.get("images", [])}
        if answer.get("why"):
            self.error = self.error or LeaseLostError(f"{link.prefix}{answer['why']}")
        return str(need(answer, link, "state"))

    async def _suspend(self, member: str) -> str:
        """All in one: what one member is asked to do it does, whoever goes away."""
        link = self._links[member]
        body: Json = {"targets": list(self.group.members[member]), "tag": self.tag}
        body["certificate"] = self.certificate
        if member in self._leases:
            body |= self._lease(member)
        elif self.lease_given is not None:
            body["lease"] = self.lease_given
        answer = await link.call_patiently("POST", "/v1/suspend", body)
        for key in ("verdict", "cut", "controllers", "volumes"):
            need(answer, link, key)
        self.made[member] = answer
        return str(answer["verdict"])

    async def _release(self, member: str) -> None:
        if self.alone:
            await self._release_lease(member)
            return
        # a member that does not answer for so long has released by itself
        link = self._links[member]
        answer = await link.call("POST", self._path("release"), {}, self.hold_max_s)
        if not need(answer, link, "released"):
            self.error = self.error or LeaseLostError(f"{link.prefix}the hold had ended before")

    async def _release_lease(self, member: str) -> None:
        """The stream's last line says how the hold ended, also if that was a moment ago."""
        if member not in self._leases:
            return  # not held yet; `end` closes the stream, which releases
        path = f"/v1/leases/{quote(self.lease, safe='')}"
        seconds, ours = self._limits.release_seconds_max, False
        with suppress(DuplexdError):
            answer = await self._links[member].call("DELETE", path, None, seconds)
            ours = bool(answer.get("released"))
        ended, _ = await asyncio.wait((self._ends[member],), timeout=seconds)
        end = self._ends[member].result() if ended else End("no answer to its release", False)
        self.reason = _BY_ANOTHER if end.reason == "released" and not ours else end.reason
        if not end.consistent or self.reason == _BY_ANOTHER:
            self.error = self.error or LeaseLostError(self.reason)

    async def _abort(self, member: str) -> str:
        return await self._decide(member, "abort")

    async def _agree(self, member: str) -> str:
        return await self._decide(member, "agree")

    async def _refuse(self, member: str) -> str:
        return await self._decide(member, "refuse")

    async def _decide(self, member: str, what: str) -> str:
        link = self._links[member]
        answer = await link.call("POST", self._path(what), {}, link.limits.answer_seconds_max)
        self._check_sender(answer, member)
        self._standing[member] = need(answer, link, "volumes")
        return str(need(answer, link, "state"))

    async def _renew(self, member: str, seconds: float) -> Json:
        lease = self._lease(member)
        path = f"/v1/leases/{quote(lease['lease'], safe='')}/renew"
        body = {"hold_s": seconds, "fence": lease["fence"]}
        return await self._links[member].call("POST", path, body)

    def _check_sender(self, answer: Json, member: str) -> None:
        if not self.alone:  # one alone may have any name
            check_sender(answer, self._links[member])

    def _lease(self, member: str) -> Json:
        lease, link = self._leases[member], self._links[member]
        return {"lease": need(lease, link, "id"), "fence": need(lease, link, "fence")}

    def _path(self, what: str = "") -> str:
        return f"/v1/cuts/{self.cut_id}" + (f"/{what}" if what else "")

    _requests: dict[str, Callable[[Drive, str], Coroutine[object, object, str | None]]] = {  # noqa: RUF012
        protocol.CLOSE: _close,
        protocol.CUT_ALL: _cut,
        protocol.OPEN: _open,
        protocol.SUSPEND: _suspend,
        protocol.RELEASE: _release,
        protocol.ABORT: _abort,
        protocol.AGREE: _agree,
        protocol.REFUSE: _refuse,
    }
