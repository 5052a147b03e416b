"""One controller in a cut: what is asked of it over HTTP, and what it said.

One request for each of the coordinator's, each sent once. A hold is a stream: it lasts exactly as
long as the connection that asked for it, and its last line says how it ended.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from duplexd.client import protocol
from duplexd.client.answers import check_cut, check_sender
from duplexd.errors import DuplexdError, LeaseLostError, UnreachableError
from duplexd.limits import NAME_CHARACTERS_MAX
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.core.past_point import PastPoint
    from duplexd.json_object import Json
    from duplexd.runtime.hooks import HookRun

BY_ANOTHER = "released by somebody else"


@dataclass
class Plan:
    """What a cut is to be; `lease` and `certificate` are for one controller alone."""

    cut_id: str
    group: Group
    hold_max_s: float = 0.0
    tag: str = ""
    lease: str | None = None  # a hold of another command, under which to cut
    certificate: bool = False
    existing: bool = False  # a cut that all are at already is an answer, too
    reader: str = ""  # who is to keep the secondaries at the cut
    on_hook: Callable[[HookRun], object] | None = None  # gets what each hook did, at once
    at: PastPoint | None = None  # that has passed; of delayed secondaries
    onward: bool = False  # SUSPENDED ones go on to it from their cut
    on_made: Callable[[str], object] | None = None  # gets the cut's id when all have made it
    mark: bool = False  # it is a mark: nobody is suspended

    @property
    def alone(self) -> bool:
        """Whether there is one controller, whose journal orders everything."""
        return len(self.group.members) == 1


def new_cut_id() -> str:
    """16 hexadecimal digits that no other coordinator draws."""
    return os.urandom(8).hex()


class End(NamedTuple):
    """How a hold ended. Not `consistent`: before its owner ended it."""

    reason: str
    consistent: bool


class Member:
    """A controller, behind `link`."""

    def __init__(self, link: Http, plan: Plan) -> None:
        self.link = link
        self.lease: Json = {}
        self.made: Json | None = None  # what it said of the cut that it made
        self.hold: Json | None = None  # how long writes waited for it
        self.standing: list[str] = []  # volumes at the cut in its latest answer
        self.fault: LeaseLostError | None = None  # what it said that its answer does not
        self.end_reason = "released"
        self._plan = plan
        self._held: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def volumes(self) -> list[str]:
        """What it holds, or held."""
        return list(self.lease.get("volumes", ()))

    async def follow(self) -> End | None:
        """Read its hold's stream until it ends; None if it was never held."""
        plan, link = self._plan, self.link
        body: Json = {"targets": list(plan.group.members[link.name]), "hold_s": plan.hold_max_s}
        if not plan.alone:
            body["cut"] = plan.cut_id
        if plan.mark:
            body["mark"] = True
        end = End("its connection ended", False)
        try:
            async with aclosing(link.lines("POST", "/v1/quiesce", body)) as lines:
                async for line in lines:
                    if line["event"] == "held" and not self._held.done():
                        self._held.set_result(line["lease"])
                    elif line["event"] == "ended":
                        reason = printable(line["reason"])
                        end = End(reason, line["verdict"] == "consistent")
        except DuplexdError as error:
            if not self._held.done():
                self._held.set_exception(error)
                return None
            end = End(str(error).removeprefix(link.prefix), False)
        if not self._held.done():
            why = f"{link.prefix}broke off before the hold began; see its log"
            self._held.set_exception(UnreachableError(why))
            return None
        self._end.set_result(end)
        return end

    async def perform(self, request: str) -> str | None:
        """Send a request of the coordinator; the vote, if it asks for one. Raises DuplexdError."""
        match request:
            case protocol.CLOSE:
                self.lease = await self._held
            case protocol.CUT_ALL:
                await self._cut()
            case protocol.OPEN:
                return await self._open()
            case protocol.SUSPEND:
                return await self._suspend()
            case protocol.RELEASE:
                await (self._release_lease() if self._plan.alone else self._release())
            case _:
                return await self._decide(request)
        return None

    async def renew(self, seconds: float) -> None:
        """Let its lease last so long from now."""
        named = self._named_lease()
        path = f"/v1/leases/{quote(named['lease'], safe='')}/renew"
        body = {"hold_s": seconds, "fence": named["fence"]}
        self.lease |= await self.link.call("POST", path, body)

    async def _cut(self) -> None:
        plan = self._plan
        body = self._named_lease() | {
            "tag": plan.tag,
            "group": plan.group.name[:NAME_CHARACTERS_MAX],
            "members": list(plan.group.members),
        }
        made = await self.link.call("POST", self._path(), body)
        self._check_sender(made)
        self.made = made | {"volumes": []}

    async def _open(self) -> str:
        """The gates open at once; the answer comes when the secondaries are durable."""
        path, lease = self._path("open"), self._named_lease()
        answer = await self.link.call_patiently("POST", path, lease)
        state = self._vote(answer)
        self.hold = answer.get("hold")
        self.made = (self.made or {}) | {"volumes": answer.get("images", [])}
        if answer.get("why"):
            self.fault = LeaseLostError(f"{self.link.prefix}{printable(answer['why'])}")
        return state

    async def _suspend(self) -> str:
        """All in one: what one controller is asked to do it does, also if the asker goes away."""
        plan = self._plan
        body: Json = {"targets": list(plan.group.members[self.link.name]), "tag": plan.tag}
        body["certificate"] = plan.certificate
        if plan.at is not None:
            body |= plan.at.json()
        if plan.onward:
            body["onward"] = True
        if plan.existing:
            body["allow_existing"] = True
        if plan.reader:
            body["reader"] = plan.reader
        if self.lease:
            body |= self._named_lease()
        elif plan.lease is not None:
            body["lease"] = plan.lease
        if plan.on_made is None:
            answer = await self.link.call_patiently("POST", "/v1/suspend", body)
        else:
            answer = await self._suspend_and_say(body | {"progress": True}, plan.on_made)
        self.made, self.hold = answer, answer.get("hold")
        return str(answer["verdict"])

    async def _suspend_and_say(self, body: Json, on_made: Callable[[str], object]) -> Json:
        """The same; `on_made` is called before the secondaries are durable."""
        async with aclosing(self.link.lines_patiently("POST", "/v1/suspend", body)) as lines:
            async for line in lines:
                if line["event"] == "cut":
                    on_made(line["cut"])
                elif line["event"] == "done":
                    return {key: value for key, value in line.items() if key != "event"}
        raise UnreachableError(f"{self.link.prefix}broke off before the suspend ended; see its log")

    async def _release(self) -> None:
        # a member that does not answer for so long has released by itself
        seconds = self._plan.hold_max_s
        answer = await self.link.call("POST", self._path("release"), {}, seconds)
        if not answer["released"]:
            self.fault = LeaseLostError(f"{self.link.prefix}the hold had ended before")

    async def _release_lease(self) -> None:
        """The stream's last line says how the hold ended, also if that was a moment ago."""
        if not self.lease:
            return  # not held yet; that its stream is closed releases it
        path = f"/v1/leases/{quote(str(self.lease['id']), safe='')}"
        seconds, ours = self.link.limits.release_seconds_max, False
        with suppress(DuplexdError):
            answer = await self.link.call("DELETE", path, None, seconds)
            ours = bool(answer["released"])
        ended, _ = await asyncio.wait((self._end,), timeout=seconds)
        end = self._end.result() if ended else End("no answer to its release", False)
        self.end_reason = BY_ANOTHER if end.reason == "released" and not ours else end.reason
        if not end.consistent or self.end_reason == BY_ANOTHER:
            self.fault = LeaseLostError(self.end_reason)

    async def _decide(self, what: str) -> str:
        seconds = self.link.limits.answer_seconds_max
        return self._vote(await self.link.call("POST", self._path(what), {}, seconds))

    def _vote(self, answer: Json) -> str:
        self._check_sender(answer)
        check_cut(answer, self.link, self._plan.cut_id)
        self.standing = answer["volumes"]
        return str(answer["state"])

    def _check_sender(self, answer: Json) -> None:
        if not self._plan.alone:  # one alone may have any name
            check_sender(answer, self.link)

    def _named_lease(self) -> Json:
        return {"lease": self.lease["id"], "fence": self.lease["fence"]}

    def _path(self, what: str = "") -> str:
        return f"/v1/cuts/{self._plan.cut_id}" + (f"/{what}" if what else "")
