"""The endpoints of clones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.api.models.clone_model import (
    CloneDrop,
    CloneDropped,
    CloneEnded,
    CloneHeld,
    CloneList,
    CloneMade,
    CloneRequest,
    CloneStands,
)
from duplexd.api.models.line_model import Failed
from duplexd.api.responses import Lines, answer
from duplexd.api.routing import RouteEntry
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from duplexd.api.access import Peer
    from duplexd.api.actions import Actions
    from duplexd.api.http_request import Call, Context
    from duplexd.api.wire import Answer
    from duplexd.json_object import Json


async def get_clones(context: Context, call: Call) -> Answer:
    actions, targets = context.actions, call.query.get("target", [])
    names = actions.resolve(targets) if targets else None
    return answer(actions.controller.clones.show(names))


async def post_clone(context: Context, call: Call) -> Answer | Lines:
    body = call.parse(CloneRequest)
    if not body.while_connected:
        return answer(await context.actions.make_clone(call.peer, body))
    return Lines(clone_lines(context.actions, call.peer, body, context.limits.heartbeat_seconds))


async def clone_lines(
    actions: Actions, peer: Peer, request: CloneRequest, heartbeat_seconds: float
) -> AsyncGenerator[Json, None]:
    """`made`, then `standing` every so many seconds, then `ended` if one of the clones has ended.

    Closing the generator drops them: their owner is gone.
    """
    made = await actions.make_clone(peer, request)
    ends = actions.clone_ends(made)
    try:
        yield {"event": "made"} | made
        while not any(end.done() for end in ends):
            await asyncio.wait(ends, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
            yield {"event": "standing"}
        yield {"event": "ended", "reason": next(end.result() for end in ends if end.done())}
    finally:
        if not all(end.done() for end in ends):
            await to_its_end(actions.end_clones(peer, made, ends))


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
    RouteEntry(
        "POST",
        "/v1/clones",
        post_clone,
        "Clone a cut",
        CloneRequest,
        (CloneMade,),
        (CloneHeld, CloneStands, CloneEnded, Failed),
    ),
    RouteEntry(
        "POST", "/v1/clones/drop", post_clone_drop, "Drop a clone", CloneDrop, (CloneDropped,)
    ),
)
