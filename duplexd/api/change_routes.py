"""The endpoint that says what changed between two cuts of volumes.

An answer is bounded, not streamed: the encoding takes the event loop, and a volume may have half a
million extents. Who wants more asks again, from `next_offset` on. Maps only grow until the next
cut, so the answers together cover what the first one would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.api.responses import Slow
from duplexd.errors import UsageError

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context

EXTENTS_MAX = 8192  # of one answer
CHANGES_QUERY: dict[str, dict[str, Any]] = {
    "target": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    "since": {"type": "string", "minLength": 1},
    "until": {"type": "string", "minLength": 1},
    "offset": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1, "default": 0},
    "extents": {"type": "integer", "minimum": 0, "maximum": EXTENTS_MAX, "default": EXTENTS_MAX},
}


async def get_changes(context: Context, call: Call) -> Slow:
    """`since`, `until`: the id of a cut, a tag, or `latest`."""
    targets, since = call.query.get("target", []), call.query.get("since", [])
    until = call.query.get("until", [])
    if not targets or len(since) != 1 or len(until) > 1:
        raise UsageError("name a target, one since, and at most one until")
    offset, extents = call.number("offset") or 0, call.number("extents")
    extents_max = EXTENTS_MAX if extents is None else extents
    names, changes = context.actions.resolve(targets), context.actions.controller.changes
    last = until[0] if until else None
    return Slow(changes.show(names, since[0], last, offset, extents_max))
