"""The endpoints of marks, and of all points that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.models.cut_model import CutStatus
from duplexd.api.models.mark_model import MarkRequest, PointList
from duplexd.api.responses import answer
from duplexd.api.routing import RouteEntry

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context
    from duplexd.api.wire import Answer


async def post_mark(context: Context, call: Call) -> Answer:
    return answer(await context.actions.mark(call.peer, call.parse(MarkRequest)))


async def get_points(context: Context, call: Call) -> Answer:
    names = context.actions.resolve(call.query.get("target", []))
    return answer(context.actions.controller.marks.points(names))


_TARGET_QUERY = {"target": {"type": "array", "items": {"type": "string"}}}

MARK_ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry(
        "POST",
        "/v1/marks",
        post_mark,
        "Mark a consistent point; nobody is suspended",
        MarkRequest,
        (CutStatus,),
    ),
    RouteEntry(
        "GET",
        "/v1/points",
        get_points,
        "Cuts and marks, and which are within reach",
        None,
        (PointList,),
        (),
        _TARGET_QUERY,
    ),
)
