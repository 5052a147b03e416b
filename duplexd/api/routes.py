"""The routes of the HTTP API. `ROUTES` is the one table: the application, /openapi.json and
docs/json.md are all made of it, and `python -m duplexd.api.jsondoc` shows it.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import TYPE_CHECKING

from duplexd.api import access, problems
from duplexd.api import change_routes as changes
from duplexd.api import cut_routes as cuts
from duplexd.api import line_streams as lines
from duplexd.api.clone_routes import CLONE_ROUTES
from duplexd.api.drill_routes import DRILL_ROUTES
from duplexd.api.health import degraded, unready
from duplexd.api.leg_routes import LEG_ROUTES
from duplexd.api.mark_routes import MARK_ROUTES
from duplexd.api.models.change_model import Changes
from duplexd.api.models.cut_model import (
    CutList,
    CutMade,
    CutReleased,
    CutStatus,
    Standing,
    Suspended,
)
from duplexd.api.models.health_model import Health, Wellness
from duplexd.api.models.line_model import (
    CutAnnounced,
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
from duplexd.api.models.reader_model import ReaderBegan, ReaderEnded, ReaderEnds, ReaderRequest
from duplexd.api.models.reload_model import Reloaded
from duplexd.api.models.request_model import (
    CutEmpty,
    CutRequest,
    GradeRequest,
    OpenRequest,
    QuiesceRequest,
    ReloadRequest,
    RenewRequest,
    RestartRequest,
    ResyncRequest,
    StandRequest,
    SuspendRequest,
    VerifyRequest,
)
from duplexd.api.models.restart_model import Restarted, Restarting
from duplexd.api.models.status_model import LeaseStatus, Status
from duplexd.api.openapi import document
from duplexd.api.responses import JSON_TYPE, Lines, Slow, answer
from duplexd.api.routing import RouteEntry
from duplexd.api.wire import Answer
from duplexd.limits import CUT_READ_BYTES_DEFAULT, CUT_READ_BYTES_MAX

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context

METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


async def get_status(context: Context, call: Call) -> Answer:
    await context.actions.controller.look_again()
    if targets := call.query.get("target", []):
        return answer(context.actions.status(targets))
    return Answer(200, JSON_TYPE, context.whole_status(call.request.asked_at))


async def post_quiesce(context: Context, call: Call) -> Lines:
    body = call.parse(QuiesceRequest)
    heartbeat_seconds = context.limits.heartbeat_seconds
    return Lines(lines.hold_lines(context.actions, call.peer, body, heartbeat_seconds))


async def post_suspend(context: Context, call: Call) -> Answer | Lines | Slow:
    """With hooks it is given up when the client goes, as far as that is possible."""
    body = call.parse(SuspendRequest)
    if body.progress:
        return Lines(lines.suspend_lines(context.actions, call.peer, body))
    suspended = context.actions.suspend(call.peer, body)
    if context.actions.hooked.of(body.targets):
        return Slow(suspended)
    return answer(await suspended)


async def post_renew(context: Context, call: Call) -> Answer:
    body, lease = call.parse(RenewRequest), call.parameters["lease"]
    return answer(context.actions.renew(call.peer, lease, body.fence, body.hold_s))


async def delete_lease(context: Context, call: Call) -> Answer:
    fence = call.number("fence")
    return answer(context.actions.release(call.peer, call.parameters["lease"], fence))


async def post_resync(context: Context, call: Call) -> Answer | Lines:
    body = call.parse(ResyncRequest)
    if not body.wait:
        return answer(await context.actions.resync(call.peer, body))
    progress_seconds = context.limits.progress_seconds
    return Lines(lines.resync_lines(context.actions, call.peer, body, progress_seconds))


async def post_reader(context: Context, call: Call) -> Answer:
    return answer(await context.actions.add_reader(call.peer, call.parse(ReaderRequest)))


async def post_reader_release(context: Context, call: Call) -> Answer:
    return answer(await context.actions.release_reader(call.peer, call.parse(ReaderEnds)))


async def post_verify(context: Context, call: Call) -> Lines | Slow:
    body = call.parse(VerifyRequest)
    if not body.progress:
        return Slow(context.actions.verify(body.targets))
    progress_seconds = context.limits.progress_seconds
    return Lines(lines.verify_lines(context.actions, body.targets, progress_seconds))


async def post_reload(context: Context, call: Call) -> Answer:
    return answer(await context.actions.reload(call.peer, call.parse(ReloadRequest)))


async def post_restart(context: Context, call: Call) -> Answer:
    return answer(await context.actions.restart(call.peer, call.parse(RestartRequest).force))


async def get_restart(context: Context, _call: Call) -> Answer:
    return answer(context.actions.last_restart())


async def get_events(context: Context, call: Call) -> Lines:
    follow = call.flag("follow", True)
    return Lines(lines.event_lines(context.actions, call.link.abort, follow))


async def get_metrics(context: Context, _call: Call) -> Answer:
    return Answer(200, METRICS_TYPE, await asyncio.to_thread(context.scrape()))


async def get_healthz(context: Context, _call: Call) -> Answer:
    """Alive is: the loop that runs this, and the disk threads. See `health.py`."""
    seconds = context.limits.threads_answer_seconds_max
    if await context.health.threads_silent(seconds):
        return problems.respond(503, f"no disk thread has answered for {seconds:g} s")
    return answer({"status": "ok", "controller": context.actions.controller.name})


async def get_health(context: Context, call: Call) -> Answer:
    await context.actions.controller.look_again()
    return answer(context.health.show(context.actions.resolve(call.query.get("target", []))))


async def get_readyz(context: Context, _call: Call) -> Answer:
    """Ready is: started, not stopping, and the controller takes changes. See `health.py`."""
    if not context.ready():
        return problems.respond(503, "the daemon is starting or stopping; try again")
    status = context.actions.controller.status()
    if why := unready(status["controller"]):
        return problems.respond(503, why)
    return answer({"status": "ready", "degraded": degraded(status["volumes"])})


async def get_openapi(_context: Context, _call: Call) -> Answer:
    return Answer(200, JSON_TYPE, _openapi())


@cache
def _openapi() -> bytes:
    """Once: it takes the loop as long as a status of many volumes."""
    return json.dumps(document(ROUTES)).encode()


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
_SUSPEND_LINES = (CutAnnounced, Failed)
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
        "POST",
        "/v1/suspend",
        post_suspend,
        "Cut at one point",
        SuspendRequest,
        (Suspended,),
        _SUSPEND_LINES,
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
    RouteEntry(
        "GET",
        "/v1/cuts",
        cuts.get_cuts,
        "The latest cuts, or those of some targets",
        None,
        (CutList,),
        (),
        _TARGET_QUERY,
    ),
    RouteEntry(
        "GET",
        "/v1/changes",
        changes.get_changes,
        "What changed between two cuts",
        None,
        (Changes,),
        (),
        changes.CHANGES_QUERY,
        needed=("target", "since"),
    ),
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
        "POST",
        "/v1/cuts/{cut}/stand",
        cuts.post_stand,
        "Bring secondaries to a mark of several controllers, then vote",
        StandRequest,
        (Standing,),
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
        "Release without a cut",
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
        "/v1/readers",
        post_reader,
        "Name a reader of a cut",
        ReaderRequest,
        (ReaderBegan,),
    ),
    RouteEntry(
        "POST",
        "/v1/readers/release",
        post_reader_release,
        "End a named reader",
        ReaderEnds,
        (ReaderEnded,),
    ),
    *CLONE_ROUTES,
    *DRILL_ROUTES,
    *MARK_ROUTES,
    RouteEntry(
        "POST",
        "/v1/verify",
        post_verify,
        "Compare the legs",
        VerifyRequest,
        (Verified,),
        _VERIFY_LINES,
    ),
    *LEG_ROUTES,
    RouteEntry(
        "POST",
        "/v1/reload",
        post_reload,
        "Read the configuration again",
        ReloadRequest,
        (Reloaded,),
    ),
    RouteEntry(
        "POST",
        "/v1/restart",
        post_restart,
        "Let another program take over, with the clients",
        RestartRequest,
        (Restarting,),
    ),
    RouteEntry(
        "GET", "/v1/restart", get_restart, "The restart this began with", None, (Restarted,)
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
    RouteEntry(
        "GET", "/v1/health", get_health, "What is not well", None, (Wellness,), (), _TARGET_QUERY
    ),
    RouteEntry("GET", "/metrics", get_metrics, "Figures for Prometheus", media_type="text/plain"),
    RouteEntry("GET", "/healthz", get_healthz, "The daemon answers", None, (Health,)),
    RouteEntry("GET", "/readyz", get_readyz, "The daemon serves volumes", None, (Health,)),
    RouteEntry("GET", "/openapi.json", get_openapi, "This document"),
)
