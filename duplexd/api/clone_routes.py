"""The endpoints of clones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.models.clone_model import (
    CloneDrop,
    CloneDropped,
    CloneList,
    CloneMade,
    CloneRequest,
)
from duplexd.api.responses import answer
from duplexd.api.routing import RouteEntry

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context
    from duplexd.api.wire import Answer


async def get_clones(context: Context, call: Call) -> Answer:
    actions, targets = context.actions, call.query.get("target", [])
    names = actions.resolve(targets) if targets else None
    return answer(actions.controller.clones.show(names))


async def post_clone(context: Context, call: Call) -> Answer:
    return answer(await context.actions.make_clone(call.peer, call.parse(CloneRequest)))


async def post_clone_drop(context: Context, call: Call) -> Answer:
    return answer(await context.actions.drop_clone(call.peer, call.parse(CloneDrop)))


_TARGET_QUERY = {"target": {"type": "array", "items": {"type": "string"}}}

CLONE_ROUTES: tuple[RouteEntry, ...] = (
    RouteEntry(
        "GET",
        "/v1/clones",
        get_clones,
        "The clones, or those of some targets",
        None,
        (CloneList,),
        (),
        _TARGET_QUERY,
    ),
    RouteEntry("POST", "/v1/clones", post_clone, "Clone a cut", CloneRequest, (CloneMade,)),
    RouteEntry(
        "POST", "/v1/clones/drop", post_clone_drop, "Drop a clone", CloneDrop, (CloneDropped,)
    ),
)
