"""Drives a `protocol.Round`: sends what it wants sent, tells it what came back, and keeps the time. One request per member and phase.

The hold is measured here, too: from the first CLOSE on, on this process's monotonic clock. What takes longer than allowed is given up before
the leases end, for those begin later.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from duplexd.client import protocol
from duplexd.client.answers import check_sender, need
from duplexd.client.protocol import CUTTING, DONE, HELD, OPENING, RELEASING, RESOLVING, Round, Send
from duplexd.errors import DuplexdError, LeaseLostError, TimedOutError, UnreachableError, UsageError
from duplexd.limits import CLIENT_ANSWER_SECONDS_MAX, HOLD_SECONDS_MAX, NAME_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups_file import Group

    Json = dict[str, Any]

SETTLE_PAUSE_S = 0.25  # between two attempts to reach members that do not answer
_TIMED = {
    protocol.CLOSING: "closing",
    HELD: "held",
    CUTTING: "cutting",
    OPENING: "opening",
    RESOLVING: "settling",
    RELEASING: "releasing",
}


class Drive:
    """One cut of a group over `links`, its members. `on_lost` is called when it is lost while the caller has it held."""

    def __init__(
        self, cut: str, group: Group, links: Mapping[str, Http], hold_max_s: float = 0.0
    ) -> None:
        self.cut_id = cut
        self.group = group
        self.hold_max_s = hold_max_s
        self.round = Round(links)
        self.tag = ""
        self.made: dict[str, Json] = {}  # what members said of the cut they made
        self.holds: dict[str, Json | None] = {}
        self._standing: dict[
            str, list[str]
        ] = {}  # the volumes that stood at the cut when a member was last heard of
        self.error: DuplexdError | None = None  # the first
        self.seconds: dict[str, float] = {}  # by phase
        self.deadline = 0.0
        self.on_lost: Callable[[], None] | None = None
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._leases: dict[str, Json] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._bug: BaseException | None = None
        self._phase = ""
        self._since = self._began = monotonic()

    @property
    def volumes(self) -> list[str]:
        """What is held, or was."""
        return [
            f"{member}:{volume}"
            for member in self._links
            for volume in self._leases.get(member, {}).get("volumes", ())
        ]

    @property
    def left(self) -> list[str]:
        """Volumes that were cut, and whose secondaries stood there no longer when their member was last heard of."""
        return [
            name
            for name in self.volumes
            if name.partition(":")[2] not in self._standing.get(name.partition(":")[0], ())
        ]

    @property
    def nothing_cut(self) -> bool:
        """Whether no member made its cut, by what all of them say in the end."""
        return not (self.made or self.round.untold or any(self._standing.values()))

    # ---------------------------------------------------------------------------------------------------------- what is wanted

    async def close(self) -> None:
        """Close all gates. Afterwards they are held, or nothing is and the error is raised."""
        self._began = monotonic()
        self._expire_in(self.hold_max_s)
        self._send(self.round.close())
        await self._until(HELD, DONE)
        if self.round.phase == DONE:
            raise self.failure

    async def cut(self, tag: str) -> None:
        """Cut, open, and resolve as far as members answer."""
        self.tag = tag
        self._send(self.round.cut())
        await self._until(DONE)

    async def release(self) -> None:
        """Let go without a cut, if it is held. Raises LeaseLostError if a member says that it had ended before; the others have let go, too."""
        self._send(self.round.release())
        if self.round.phase == RELEASING:
            await self._until(DONE)
            if isinstance(self.error, LeaseLostError):
                raise self.lost

    async def give_up(self, why: str) -> None:
        """Open every gate, whatever has been done; members that promised a cut are told what became of it. Takes no longer than a hold may."""
        self._lose(LeaseLostError(why))
        try:
            async with asyncio.timeout(max(self.hold_max_s, 1.0)):
                await self._until(DONE)
        except TimeoutError:
            pass  # leases end by themselves, and `settle` tells the rest

    async def settle(self) -> None:
        """Find out the outcome of a cut that was left undecided, and spread it, as far as members answer."""
        self._send(self.round.settle())
        await self._until(DONE)

    async def finish(self, seconds: float) -> None:
        """Ask members that did not answer again, for so long."""
        deadline = monotonic() + seconds
        while self.round.untold and monotonic() < deadline:
            await asyncio.sleep(SETTLE_PAUSE_S)
            await self.settle()

    async def renew(self, seconds: float) -> None:
        """Let the hold last `seconds` from now. Raises LeaseLostError if a member does not grant that: the hold is over then."""
        now = monotonic()
        if seconds <= 0 or now + seconds > self._began + HOLD_SECONDS_MAX:
            raise UsageError(
                f"a hold lasts at most {HOLD_SECONDS_MAX:g} s in all: clients give up on writes that wait longer"
            )
        try:
            async with asyncio.timeout(self.deadline - now):
                leases = await asyncio.gather(
                    *(self._renew(member, seconds) for member in self._links)
                )
        except (DuplexdError, TimeoutError) as error:
            self._lose(
                LeaseLostError(
                    f"the hold could not be renewed: {str(error) or 'no answer before it ended'}"
                )
            )
            raise self.lost from None
        if self.round.phase != HELD:
            raise self.lost
        self._leases = dict(zip(self._links, leases, strict=True))
        self._expire_in(now + seconds - monotonic())

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
        return type(error)(f"nothing was suspended: {error}")

    @property
    def lost(self) -> LeaseLostError:
        """Why the hold is no more."""
        return LeaseLostError(
            f"the hold of {self.group.name} was lost: {self.error or 'it was released'}; nothing was suspended"
        )

    # ----------------------------------------------------------------------------------------------------------------- driving

    async def _until(self, *phases: str) -> None:
        while self.round.phase not in phases:
            self._changed.clear()
            await self._changed.wait()
            if self._bug is not None:
                raise self._bug

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
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
            if self._phase == OPENING and self._timer is not None:
                self._timer.cancel()
        for send in sends:
            self._spawn(self._perform(send))
        self._changed.set()

    async def _perform(self, send: Send) -> None:
        try:
            state = await self._requests[send.request](self, send.member)
        except DuplexdError as error:
            if (
                self.round.open_requests.get(send.member) == send.request != protocol.RELEASE
            ):  # who can't be asked to let go does by itself
                self.error = self.error or error
            self._send(self.round.failed(send.member, send.request, str(error)))
        else:
            self._send(self.round.replied(send.member, send.request, state))

    def _lose(self, error: DuplexdError) -> None:
        if self.round.phase in {RELEASING, RESOLVING, DONE}:
            return
        self.error = self.error or error
        held = self.round.phase == HELD
        self._send(self.round.abandon(str(error)))
        if held and self.on_lost is not None:
            self.on_lost()

    def _expire_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.deadline = monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._expire)

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
        hint = f"allow a longer hold_max (--hold, --hold-max), up to 10 s, if {what}"
        self._lose(
            TimedOutError(
                f"after {held:.2f} s the gates had been closed for as long as they may be ({where}); {hint}"
            )
        )

    # ---------------------------------------------------------------------------------------------------------------- requests

    async def _close(self, member: str) -> None:
        held: asyncio.Future[Json] = self._loop.create_future()
        self._spawn(self._follow(member, held))
        self._leases[member] = await held

    async def _follow(self, member: str, held: asyncio.Future[Json]) -> None:
        """Read a hold's stream until it ends: the hold lasts exactly as long."""
        body = {
            "targets": list(self.group.members[member]),
            "hold_s": self.hold_max_s,
            "cut": self.cut_id,
        }
        reason = "its connection ended"
        try:
            async with aclosing(self._links[member].lines("POST", "/v1/quiesce", body)) as lines:
                async for line in lines:
                    if line.get("event") == "held":
                        held.set_result(need(line, member, "lease"))
                    elif line.get("event") == "ended":
                        if (
                            need(line, member, "verdict") == "consistent"
                            and self.round.phase == OPENING
                        ):
                            return  # opened in order; before that somebody else released it, unless `_lose` finds that this one did
                        reason = str(line.get("reason"))
                        reason = "released by somebody else" if reason == "released" else reason
        except DuplexdError as error:
            if not held.done():
                held.set_exception(error)
                return
            reason = str(error).removeprefix(f"{member}: ")
        if held.done():
            self._lose(LeaseLostError(f"{member}: the hold was lost: {reason}"))
        else:
            held.set_exception(
                UnreachableError(f"{member}: broke off before the hold began; see its log")
            )

    async def _cut(self, member: str) -> None:
        body = self._lease(member) | {
            "tag": self.tag,
            "group": self.group.name[:NAME_CHARACTERS_MAX],
            "members": list(self._links),
        }
        made = await self._links[member].call("POST", self._path(), body)
        self._check_sender(made, member)
        need(made, member, "sequence")
        self.made[member] = made | {"volumes": []}

    async def _open(self, member: str) -> str:
        """The gates open at once; the answer comes when the secondaries are durable, which takes as long as it takes."""
        answer = await self._links[member].call_patiently(
            "POST", self._path("open"), self._lease(member)
        )
        self._check_sender(answer, member)
        self._standing[member] = need(answer, member, "volumes")
        self.holds[member] = answer.get("hold")
        self.made[member] |= {"volumes": answer.get("images", [])}
        if answer.get("why"):
            self.error = self.error or LeaseLostError(f"{member}: {answer['why']}")
        return str(need(answer, member, "state"))

    async def _release(self, member: str) -> None:
        # a member that does not answer for so long has let go by itself
        answer = await self._links[member].call("POST", self._path("release"), {}, self.hold_max_s)
        if not need(answer, member, "released"):
            self.error = self.error or LeaseLostError(f"{member}: the hold had ended before")

    async def _abort(self, member: str) -> str:
        return await self._tell(member, "abort")

    async def _agree(self, member: str) -> str:
        return await self._tell(member, "agree")

    async def _refuse(self, member: str) -> str:
        return await self._tell(member, "refuse")

    async def _tell(self, member: str, what: str) -> str:
        answer = await self._links[member].call(
            "POST", self._path(what), {}, CLIENT_ANSWER_SECONDS_MAX
        )
        self._check_sender(answer, member)
        self._standing[member] = need(answer, member, "volumes")
        return str(need(answer, member, "state"))

    async def _renew(self, member: str, seconds: float) -> Json:
        lease = self._lease(member)
        path = f"/v1/leases/{quote(lease['lease'], safe='')}/renew"
        return await self._links[member].call(
            "POST", path, {"hold_s": seconds, "fence": lease["fence"]}
        )

    def _check_sender(self, answer: Json, member: str) -> None:
        if len(self._links) > 1:  # one alone may be of any name
            check_sender(answer, member)

    def _lease(self, member: str) -> Json:
        lease = self._leases[member]
        return {"lease": need(lease, member, "id"), "fence": need(lease, member, "fence")}

    def _path(self, what: str = "") -> str:
        return f"/v1/cuts/{self.cut_id}" + (f"/{what}" if what else "")

    _requests: dict[str, Callable[[Drive, str], Coroutine[Any, Any, str | None]]] = {  # noqa: RUF012
        protocol.CLOSE: _close,
        protocol.CUT_ALL: _cut,
        protocol.OPEN: _open,
        protocol.RELEASE: _release,
        protocol.ABORT: _abort,
        protocol.AGREE: _agree,
        protocol.REFUSE: _refuse,
    }
