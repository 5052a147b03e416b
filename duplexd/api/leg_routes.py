"""The endpoints of commands on the images of pairs: roles, repairs, and going back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.models.line_model import Failed
from duplexd.api.models.repair_model import Repaired
from duplexd.api.models.request_model import AdoptRequest, RepairRequest, SwapRequest
from duplexd.api.models.restore_model import RestoreRequest, Restoring
from duplexd.api.models.roles_model import Roles
from duplexd.api.models.rollback_model import RollbackProgress, RollbackRequest, RolledBack
from duplexd.api.responses import Lines, answer
from duplexd.api.rollback_lines import rollback_lines
from duplexd.api.routing import RouteEntry

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context
    from duplexd.api.wire import Answer


async def post_swap(context: Context, call: Call) -> Answer:
    return answer(await context.actions.swap(call.peer, call.parse(SwapRequest)))


async def post_repair(context: Context, call: Call) -> Answer:
    return answer(await context.actions.repair(call.peer, call.parse(RepairRequest)))


async def post_rollback(context: Context, call: Call) -> Answer | Lines:
    body = call.parse(RollbackRequest)
    if not body.progress:
        return answer(await context.actions.rollback(call.peer, body))
    seconds = context.limits.progress_seconds
    return Lines(rollback_lines(context.actions, call.peer, body, seconds))


async def post_restore(context: Context, call: Call) -> Answer:
    return answer(await context.actions.restore(call.peer, call.parse(RestoreRequest)))


async def post_adopt(context: Context, call: Call) -> Answer:
    return answer(await context.actions.adopt(call.peer, call.parse(AdoptRequest).targets))


_ROLLBACK_LINES = (RollbackProgress, Failed)

LEG_ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry("POST", "/v1/swap", post_swap, "Let images change roles", SwapRequest, (Roles,)),
    RouteEntry(
        "POST",
        "/v1/repair",
        post_repair,
        "Make legs that differ equal again",
        RepairRequest,
        (Repaired,),
    ),
    RouteEntry(
        "POST",
        "/v1/rollback",
        post_rollback,
        "Let volumes go back to a cut",
        RollbackRequest,
        (RolledBack,),
        _ROLLBACK_LINES,
    ),
    RouteEntry(
        "POST",
        "/v1/restore",
        post_restore,
        "Let a backup be written to volumes",
        RestoreRequest,
        (Restoring,),
    ),
    RouteEntry(
        "POST", "/v1/adopt", post_adopt, "Take primary images as they are", AdoptRequest, (Roles,)
    ),
)
