"""The routes of the control socket. `ROUTES` is the one table: the application and /openapi.json are both made of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from duplexd.control import access, lines, models, problems
from duplexd.control.connection import Link
from duplexd.control.openapi import document
from duplexd.control.stream import Lasting, encode, lines_answer, object_answer
from duplexd.errors import DuplexdError, UsageError
from duplexd.limits import CONTROL_BODY_BYTES_MAX, CONTROL_DRAIN_BYTES_MAX, CONTROL_REQUEST_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from duplexd.control.actions import Actions

    Endpoint = Callable[["Context", Request], Awaitable[Any]]

M = TypeVar("M", bound=BaseModel)


class Context:
    """What the endpoints work with."""

    __slots__ = ("actions", "metrics", "ready")

    def __init__(self, actions: Actions, metrics: Callable[[], Callable[[], bytes]], ready: Callable[[], bool]) -> None:
        self.actions = actions
        self.metrics = metrics  # called in the loop; what it returns does the formatting, in a thread
        self.ready = ready


@dataclass(frozen=True, eq=False)
class RouteEntry:
    """A route. `answers` are models of the JSON object, `lines` those of the lines of a stream; `query`: name to JSON schema."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[models.Request] | None = None
    answers: tuple[type[BaseModel], ...] = ()
    lines: tuple[type[BaseModel], ...] = ()
    query: dict[str, dict[str, Any]] = field(default_factory=dict)
    media_type: str = "application/json"

    @property
    def role(self) -> access.Role:
        """What the caller must have."""
        return access.needed(self.method, self.path, self.media_type)


def link_of(request: Request) -> Link:
    link: Link | None = request.scope.get("state", {}).get("link")
    return link or Link(access.Peer())


async def read_body(request: Request) -> bytes:
    """The body, within its limits of size and time. A longer one is read to its end, or it would not see the answer."""
    body = bytearray()
    dropped = 0
    try:
        async with asyncio.timeout(CONTROL_REQUEST_SECONDS_MAX):
            async for chunk in request.stream():
                if len(body) + len(chunk) > CONTROL_BODY_BYTES_MAX or dropped:
                    dropped += len(chunk)
                    if dropped > CONTROL_DRAIN_BYTES_MAX:
                        break
                else:
                    body += chunk
    except TimeoutError:
        detail = f"the request was not complete after {CONTROL_REQUEST_SECONDS_MAX:g} s (CONTROL_REQUEST_SECONDS_MAX)"
        raise HTTPException(408, detail, {"connection": "close"}) from None
    if dropped:
        detail = f"the body is larger than {CONTROL_BODY_BYTES_MAX} bytes (CONTROL_BODY_BYTES_MAX)"
        raise HTTPException(413, detail, {"connection": "close"})
    return bytes(body)


async def parse(request: Request, model: type[M]) -> M:
    body = await read_body(request)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(problems.invalid(error)) from None


def flag(request: Request, name: str, default: bool) -> bool:
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in {"true", "false"}:
        raise UsageError(f"{name} is true or false")
    return text == "true"


def answer(value: dict[str, Any]) -> Response:
    return Response(encode(value), media_type="application/json")


async def get_status(context: Context, request: Request) -> Response:
    return answer(context.actions.status(request.query_params.getlist("target")))


async def post_quiesce(context: Context, request: Request) -> Lasting:
    body = await parse(request, models.QuiesceRequest)
    link = link_of(request)
    return lines_answer(lines.hold_lines(context.actions, link.peer, body), link)


async def post_suspend(context: Context, request: Request) -> Response:
    body = await parse(request, models.SuspendRequest)
    return answer(await context.actions.suspend(link_of(request).peer, body.targets, body.tag, body.lease))


async def delete_lease(context: Context, request: Request) -> Response:
    return answer(context.actions.release(link_of(request).peer, request.path_params["lease"]))


async def post_resync(context: Context, request: Request) -> Response | Lasting:
    body = await parse(request, models.ResyncRequest)
    link = link_of(request)
    if body.wait:
        return lines_answer(lines.resync_lines(context.actions, link.peer, body.targets), link)
    return answer(await context.actions.resync(link.peer, body.targets))


async def post_verify(context: Context, request: Request) -> Lasting:
    body = await parse(request, models.VerifyRequest)
    link = link_of(request)
    if body.progress:
        return lines_answer(lines.verify_lines(context.actions, body.targets), link)
    return object_answer(context.actions.verify(body.targets), link)


async def get_events(context: Context, request: Request) -> Lasting:
    await read_body(request)  # a body that makes no sense here is no reason to cut the client off
    link = link_of(request)
    return lines_answer(lines.event_lines(context.actions, link, flag(request, "follow", True)), link)


async def get_metrics(context: Context, _request: Request) -> Response:
    body = await run_in_threadpool(context.metrics())
    return Response(body, media_type="text/plain; version=1.0.0; charset=utf-8")


async def get_healthz(_context: Context, _request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def get_readyz(context: Context, _request: Request) -> Response:
    if not context.ready():
        return problems.respond(503, "recovery has not finished; try again")
    return JSONResponse({"status": "ready"})


async def get_openapi(_context: Context, _request: Request) -> Response:
    return Response(json.dumps(document(ROUTES)), media_type="application/json")


_TARGET_QUERY = {"target": {"type": "array", "items": {"type": "string"}}}
_FOLLOW_QUERY = {"follow": {"type": "boolean", "default": True}}
_HOLD_LINES = (models.Held, models.Holding, models.HoldEnded, models.Failed)
_RESYNC_LINES = (models.ResyncProgress, models.ResyncDone, models.Failed)
_VERIFY_LINES = (models.VerifyProgress, models.Failed)

ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry("GET", "/v1/status", get_status, "The status, or that of some targets", None, (models.Status,), (), _TARGET_QUERY),
    RouteEntry("POST", "/v1/quiesce", post_quiesce, "Hold writes; closing releases", models.QuiesceRequest, (), _HOLD_LINES),
    RouteEntry("POST", "/v1/suspend", post_suspend, "Cut at one point", models.SuspendRequest, (models.Suspended,)),
    RouteEntry("DELETE", "/v1/leases/{lease}", delete_lease, "Release a hold", None, (models.Released,)),
    RouteEntry("POST", "/v1/resync", post_resync, "Bring secondaries back", models.ResyncRequest, (models.ResyncStarted,), _RESYNC_LINES),
    RouteEntry("POST", "/v1/verify", post_verify, "Compare the legs", models.VerifyRequest, (models.Verified,), _VERIFY_LINES),
    RouteEntry("GET", "/v1/events", get_events, "The state, then changes", None, (), (models.Event, models.Failed), _FOLLOW_QUERY),
    RouteEntry("GET", "/metrics", get_metrics, "Figures for Prometheus", media_type="text/plain"),
    RouteEntry("GET", "/healthz", get_healthz, "The daemon answers", None, (models.Health,)),
    RouteEntry("GET", "/readyz", get_readyz, "The daemon serves volumes", None, (models.Health,)),
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
