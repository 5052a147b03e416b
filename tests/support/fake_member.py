"""A member of a group of controllers, in the loop of the test: FakeController behind the real API.

What it serves is `duplexd.api` over `FakeController` (`engine`), so its answers, refusals and
streams are those of a daemon. Only what a test plants is not:

    member = await FakeMember("alpha", path, ("data",)).start()
    member.plant["cut"] = SILENT                    # no answer; the connection stays
    member.plant["open"] = HANG_UP                  # the connection is closed instead
    member.plant["status"] = problem(404, 3, "...")     # or any (status, object or bytes, headers)
    member.plant["agree"] = after(act)              # an async function is called first; what it
                                                    # returns is planted, None answers as usual
    member.end("deadline")                          # ends the hold; HANG_UP drops its connection
    member.controller["name"] = "gamma"             # what status and healthz say of the controller
    member.asked, member.bodies, member.connections # what was asked

Requests are named by the last word of their path: status, healthz, quiesce, renew, release, cut
(POST /v1/cuts/ID), show (GET /v1/cuts/ID), open, abort, agree, refuse, grade, unlease (DELETE).
A release that only measures the round trip is noted as `rehearsal`.

Holds have no deadline and no heartbeats, connections no idle limit: a test decides when they end.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from duplexd.api.access import Access
from duplexd.api.actions import Actions
from duplexd.api.connections import Connections
from duplexd.api.health import HealthOf, Outlook
from duplexd.api.http_request import Context
from duplexd.api.responses import JSON_TYPE, Slow
from duplexd.api.routes import ROUTES
from duplexd.api.routing import application
from duplexd.api.wire import Answer
from duplexd.limits import ApiLimits
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from duplexd.api.http_request import Link
    from duplexd.api.models.base import PairState
    from duplexd.api.routing import AnyAnswer
    from duplexd.api.wire import Request
    from duplexd.json_object import Json

SILENT = "silent"
HANG_UP = "hang up"
NEVER_SECONDS = 1e6
LIMITS = ApiLimits(
    request_seconds_max=NEVER_SECONDS, heartbeat_seconds=NEVER_SECONDS, stop_seconds_max=0.01
)


def problem(status: int, exit_code: int, detail: str) -> tuple[int, Json]:
    """To plant: an error."""
    return status, {"title": "x", "detail": detail, "exit_code": exit_code, "status": status}


class FakeMember:
    """See the module's docstring."""

    def __init__(
        self,
        name: str,
        path: Path,
        volumes: Iterable[str] = ("data",),
        access: Access | None = None,
    ) -> None:
        self.path = path
        self.engine = FakeController(volumes, {}, name)
        self.engine.hold_scale = NEVER_SECONDS
        self.engine.fence, self.engine.sequence = 6, 2  # no number of a first cut is another's
        self.controller: Json = self.engine.status()["controller"]  # what status says of it
        self.plant: dict[str, Any] = {}  # whatever a test wants to be answered
        self.asked: list[str] = []
        self.bodies: dict[str, Json] = {}
        self.connections = 0
        self._holder: Link | None = None
        self._server: asyncio.AbstractServer | None = None
        health = HealthOf(self.engine.status, {}, Outlook())
        context = Context(Actions(self.engine, LIMITS), LIMITS, lambda: bytes, lambda: True, health)
        self._answer = application(context, ROUTES)
        self._open = Connections(self._respond, access or Access(os.geteuid()), LIMITS)

    async def start(self) -> FakeMember:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connect, self.path)
        return self

    async def stop(self) -> None:
        """Close all connections."""
        assert self._server is not None
        self._server.close()
        for connection in self._open:
            connection.abort()
        await self._open.stop()

    def _connect(self) -> asyncio.Protocol:
        self.connections += 1
        return self._open.make()

    # ------------------------------------------------------------------------- state, for tests

    @property
    def name(self) -> str:
        """The name under which it answers for cuts. A test that changes it simulates another
        controller.
        """
        return self.engine.name

    @name.setter
    def name(self, name: str) -> None:
        self.engine.name = name

    @property
    def volumes(self) -> dict[str, PairState]:
        """State by volume."""
        return self.engine.volumes

    @volumes.setter
    def volumes(self, states: dict[str, PairState]) -> None:
        self.engine.volumes = states

    @property
    def states(self) -> dict[str, str]:
        """Vote by cut."""
        return self.engine.cuts.states

    @property
    def cut(self) -> str:
        """The latest cut."""
        return list(self.states)[-1] if self.states else ""

    @property
    def lease(self) -> asyncio.Future[str] | None:
        """How the latest hold ended."""
        leases = list(self.engine.leases.values())
        return leases[-1].ended if leases else None

    @property
    def held(self) -> bool:
        return self.lease is not None and not self.lease.done()

    def end(self, reason: str) -> None:
        """End the hold, if there is one."""
        if reason == HANG_UP and self._holder is not None:
            self._holder.abort()
        elif self.engine.leases:
            self.engine.end(list(self.engine.leases)[-1], reason)

    def status(self) -> Json:
        """What it answers to GET /v1/status."""
        return self.engine.status() | {"controller": self.controller}

    # --------------------------------------------------------------------------------- requests

    async def _respond(self, link: Link, request: Request) -> AnyAnswer:
        what = named(request)
        measures = what == "release" and self.asked[-1:] in (["healthz"], ["rehearsal"])
        self.asked.append("rehearsal" if measures else what)
        self.bodies[what] = json.loads(request.body) if request.body else {}
        if what == "quiesce":
            self._holder = link
        planted = self.plant.get(what)
        if callable(planted):
            planted = await planted()
        if planted is None:
            return self._as_named(await self._answer(link, request), what)
        if isinstance(planted, str):
            if planted == HANG_UP:
                link.abort()
            return Slow(_never())
        status, value, *headers = planted
        blob = value if isinstance(value, bytes) else json.dumps(value).encode()
        return Answer(status, JSON_TYPE, blob, tuple(headers))

    def _as_named(self, found: AnyAnswer, what: str) -> AnyAnswer:
        """With what a test says of the controller, such as another name or an old version."""
        if not isinstance(found, Answer) or what not in {"status", "healthz"}:
            return found
        value = json.loads(found.body)
        if "controller" in value:
            name = self.controller["name"]
            value["controller"] = self.controller if what == "status" else name
        return Answer(found.status, JSON_TYPE, json.dumps(value).encode())


async def _never() -> Json:
    await asyncio.Event().wait()
    raise AssertionError


def named(request: Request) -> str:
    """The name of a request, as `plant` and `asked` have it."""
    parts = request.path.strip("/").split("/")
    if parts[0] != "v1":
        return parts[0]
    if request.method == "DELETE":
        return "unlease"
    if parts[1] == "cuts" and len(parts) == 3:
        return "cut" if request.method == "POST" else "show"
    return parts[-1]
