"""The routes of the control socket. `ROUTES` is the one table: the application and /openapi.json are both made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from duplexd.api import access, cuts, lines, problems
from duplexd.api.models.cuts import CutList, CutMade, CutReleased, CutStatus, Suspended
from duplexd.api.models.lines import (
    Event,
    Failed,
    Held,
    HoldEnded,
    Holding,
    Released,
    ResyncDone,
    ResyncProgress,
    ResyncStarted,
    Verified,
    VerifyProgress,
)
from duplexd.api.models.requests import (
    CutEmpty,
    CutRequest,
    GradeRequest,
    OpenRequest,
    QuiesceRequest,
    RenewRequest,
    ResyncRequest,
    SuspendRequest,
    VerifyRequest,
)
from duplexd.api.models.status import Health, LeaseStatus, Status
from duplexd.api.openapi import document
from duplexd.api.requests import answer, flag, link_of, number, parse, read_body
from duplexd.api.stream import Lasting, lines_answer, object_answer
from duplexd.errors import DuplexdError
from duplexd.limits import CUT_READ_BYTES_DEFAULT, CUT_READ_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel
    from starlette.requests import Request

    from duplexd.api.models import base
    from duplexd.api.requests import Context

    Endpoint = Callable[[Context, Request], Awaitable[Any]]


@dataclass(frozen=True, eq=False)
class RouteEntry:
    """A route. `answers` are models of the JSON object, `lines` those of the lines of a stream; `query`: name to JSON schema."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[base.Request] | None = None
    answers: tuple[type[BaseModel], ...] = ()
    lines: tuple[type[BaseModel], ...] = ()
    query: dict[str, dict[str, Any]] = field(default_factory=dict)
    media_type: str = "application/json"

    @property
    def role(self) -> access.Role:
        """What the caller must have."""
        return access.needed(self.method, self.path, self.media_type)


async def get_status(context: Context, request: Request) -> Response:
    return answer(context.actions.status(request.query_params.getlist("target")))


async def post_quiesce(context: Context, request: Request) -> Lasting:
    body = await parse(request, QuiesceRequest)
    link = link_of(request)
    return lines_answer(lines.hold_lines(context.actions, link.peer, body), link)


async def post_suspend(context: Context, request: Request) -> Response:
    body = await parse(request, SuspendRequest)
    suspended = await context.actions.suspend(
        link_of(request).peer, body.targets, body.tag, body.lease, body.fence, body.certificate
    )
    return answer(suspended)


async def post_renew(context: Context, request: Request) -> Response:
    body = await parse(request, RenewRequest)
    return answer(
        context.actions.renew(
            link_of(request).peer, request.path_params["lease"], body.fence, body.hold_s
        )
    )


async def delete_lease(context: Context, request: Request) -> Response:
    fence = number(request, "fence") if "fence" in request.query_params else None
    return answer(
        context.actions.release(link_of(request).peer, request.path_params["lease"], fence)
    )


async def post_resync(context: Context, request: Request) -> Response | Lasting:
    body = await parse(request, ResyncRequest)
    link = link_of(request)
    if body.wait:
        return lines_answer(lines.resync_lines(context.actions, link.peer, body.targets), link)
    return answer(await context.actions.resync(link.peer, body.targets))


async def post_verify(context: Context, request: Request) -> Lasting:
    body = await parse(request, VerifyRequest)
    link = link_of(request)
    if body.progress:
        return lines_answer(lines.verify_lines(context.actions, body.targets), link)
    return object_answer(context.actions.verify(body.targets), link)


async def get_events(context: Context, request: Request) -> Lasting:
    await read_body(request)  # a body that makes no sense here is no reason to cut the client off
    link = link_of(request)
    return lines_answer(
        lines.event_lines(context.actions, link, flag(request, "follow", True)), link
    )


async def get_metrics(context: Context, _request: Request) -> Response:
    body = await run_in_threadpool(context.metrics())
    return Response(body, media_type="text/plain; version=1.0.0; charset=utf-8")


async def get_healthz(context: Context, _request: Request) -> Response:
    return JSONResponse({"status": "ok", "controller": context.actions.controller.name})


async def get_readyz(context: Context, _request: Request) -> Response:
    if not context.ready():
        return problems.respond(503, "recovery has not finished; try again")
    return JSONResponse({"status": "ready"})


async def get_openapi(_context: Context, _request: Request) -> Response:
    return Response(json.dumps(document(ROUTES)), media_type="application/json")


_TARGET_QUERY = {"target": {"type": "array", "items": {"type": "string"}}}
_FOLLOW_QUERY = {"follow": {"type": "boolean", "default": True}}
_FENCE_QUERY = {"fence": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}}
_RANGE_QUERY = {
    "offset": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1, "default": 0},
    "length": {
        "type": "integer",
        "minimum": 1,
        "maximum": CUT_READ_BYTES_MAX,
        "default": CUT_READ_BYTES_DEFAULT,
    },
}
_HOLD_LINES = (Held, Holding, HoldEnded, Failed)
_RESYNC_LINES = (ResyncProgress, ResyncDone, Failed)
_VERIFY_LINES = (VerifyProgress, Failed)

ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry(
        "GET",
        "/v1/status",
        get_status,
        "The status, or that of some targets",
        None,
        (Status,),
        (),
        _TARGET_QUERY,
    ),
    RouteEntry(
        "POST",
        "/v1/quiesce",
        post_quiesce,
        "Hold writes; closing releases",
        QuiesceRequest,
        (),
        _HOLD_LINES,
    ),
    RouteEntry(
        "POST", "/v1/suspend", post_suspend, "Cut at one point", SuspendRequest, (Suspended,)
    ),
    RouteEntry(
        "DELETE",
        "/v1/leases/{lease}",
        delete_lease,
        "Release a hold",
        None,
        (Released,),
        (),
        _FENCE_QUERY,
    ),
    RouteEntry(
        "POST",
        "/v1/leases/{lease}/renew",
        post_renew,
        "Hold on for longer",
        RenewRequest,
        (LeaseStatus,),
    ),
    RouteEntry("GET", "/v1/cuts", cuts.get_cuts, "The latest cuts", None, (CutList,)),
    RouteEntry("GET", "/v1/cuts/{cut}", cuts.get_cut, "A cut", None, (CutStatus,)),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}",
        cuts.post_cut,
        "Cut under a lease, with others",
        CutRequest,
        (CutMade,),
    ),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}/open",
        cuts.post_open,
        "Open the gates, then vote",
        OpenRequest,
        (CutStatus,),
    ),
    RouteEntry(
        "POST", "/v1/cuts/{cut}/abort", cuts.post_abort, "Void unless ready", CutEmpty, (CutStatus,)
    ),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}/agree",
        cuts.post_agree,
        "All members are ready",
        CutEmpty,
        (CutStatus,),
    ),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}/refuse",
        cuts.post_refuse,
        "A member is void",
        CutEmpty,
        (CutStatus,),
    ),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}/release",
        cuts.post_release,
        "Let go without a cut",
        CutEmpty,
        (CutReleased,),
    ),
    RouteEntry(
        "POST",
        "/v1/cuts/{cut}/grade",
        cuts.post_grade,
        "Keep a canary's grade",
        GradeRequest,
        (CutStatus,),
    ),
    RouteEntry(
        "GET",
        "/v1/cuts/{cut}/volumes/{volume}",
        cuts.get_contents,
        "Bytes of a secondary at a cut",
        query=_RANGE_QUERY,
        media_type=access.BYTES_TYPE,
    ),
    RouteEntry(
        "POST",
        "/v1/resync",
        post_resync,
        "Bring secondaries back",
        ResyncRequest,
        (ResyncStarted,),
        _RESYNC_LINES,
    ),
    RouteEntry(
        "POST",
        "/v1/verify",
        post_verify,
        "Compare the legs",
        VerifyRequest,
        (Verified,),
        _VERIFY_LINES,
    ),
    RouteEntry(
        "GET",
        "/v1/events",
        get_events,
        "The state, then changes",
        None,
        (),
        (Event, Failed),
        _FOLLOW_QUERY,
    ),
    RouteEntry("GET", "/metrics", get_metrics, "Figures for Prometheus", media_type="text/plain"),
    RouteEntry("GET", "/healthz", get_healthz, "The daemon answers", None, (Health,)),
    RouteEntry("GET", "/readyz", get_readyz, "The daemon serves volumes", None, (Health,)),
    RouteEntry("GET", "/openapi.json", get_openapi, "This document"),
)


def _bind(context: Context, entry: RouteEntry) -> Callable[[Request], Awaitable[Any]]:
    async def call(request: Request) -> Any:
        access.check(link_of(request).peer, entry.role)
        return await entry.endpoint(context, request)

    return call


def application(context: Context) -> Starlette:
    """The ASGI application."""
    routes = [Route(entry.path, _bind(context, entry), methods=[entry.method]) for entry in ROUTES]
    app = Starlette(
        routes=routes,
        exception_handlers={
            DuplexdError: problems.on_duplexd_error,
            HTTPException: problems.on_http_error,
            ClientDisconnect: problems.on_gone,
            Exception: problems.on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app
