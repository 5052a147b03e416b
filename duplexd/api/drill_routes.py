"""The endpoint of drills: their clones come from `clone_routes.py`, here they are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.models.drill_model import DrillRecorded, DrillRequest
from duplexd.api.responses import answer
from duplexd.api.routing import RouteEntry

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context
    from duplexd.api.wire import Answer


async def post_drill(context: Context, call: Call) -> Answer:
    return answer(await context.actions.record_drill(call.peer, call.parse(DrillRequest)))


DRILL_ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry("POST", "/v1/drills", post_drill, "Record a drill", DrillRequest, (DrillRecorded,)),
)
