"""The endpoints of cuts that several controllers take together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.access import BYTES_TYPE
from duplexd.api.models.request_model import (
    CutEmpty,
    CutRequest,
    GradeRequest,
    OpenRequest,
    StandRequest,
)
from duplexd.api.responses import answer
from duplexd.api.wire import Answer
from duplexd.core import cut_states as votes
from duplexd.errors import UsageError
from duplexd.limits import CUT_READ_BYTES_DEFAULT, CUT_READ_BYTES_MAX

if TYPE_CHECKING:
    from duplexd.api.http_request import Call, Context


def _cut_id(call: Call) -> str:
    cut_id = call.parameters["cut"]
    if len(cut_id) != 16 or set(cut_id) - set("0123456789abcdef"):
        raise UsageError(f"{cut_id!r} is not the id of a cut; expected 16 characters of 0-9, a-f")
    return cut_id


async def get_cuts(context: Context, call: Call) -> Answer:
    names = context.actions.resolve(call.query.get("target", []))
    return answer(context.actions.controller.cuts.all(names))


async def get_cut(context: Context, call: Call) -> Answer:
    return answer(context.actions.controller.cuts.show(_cut_id(call)))


async def post_cut(context: Context, call: Call) -> Answer:
    body = call.parse(CutRequest)
    return answer(await context.actions.make_cut(call.peer, _cut_id(call), body))


async def post_open(context: Context, call: Call) -> Answer:
    body = call.parse(OpenRequest)
    opened = await context.actions.open_cut(call.peer, _cut_id(call), body.lease, body.fence)
    return answer(opened)


async def post_stand(context: Context, call: Call) -> Answer:
    body = call.parse(StandRequest)
    return answer(await context.actions.stand_cut(call.peer, _cut_id(call), body))


async def _decide(context: Context, call: Call, how: str) -> Answer:
    call.parse(CutEmpty)
    return answer(await context.actions.decide_cut(call.peer, _cut_id(call), how))


async def post_abort(context: Context, call: Call) -> Answer:
    return await _decide(context, call, votes.ABORT)


async def post_agree(context: Context, call: Call) -> Answer:
    return await _decide(context, call, votes.AGREE)


async def post_refuse(context: Context, call: Call) -> Answer:
    return await _decide(context, call, votes.REFUSE)


async def post_release(context: Context, call: Call) -> Answer:
    call.parse(CutEmpty)
    return answer(context.actions.release_cut(call.peer, _cut_id(call)))


async def post_grade(context: Context, call: Call) -> Answer:
    body = call.parse(GradeRequest)
    return answer(await context.actions.grade_cut(call.peer, _cut_id(call), body))


async def get_contents(context: Context, call: Call) -> Answer:
    offset, length = call.number("offset") or 0, call.number("length")
    length = CUT_READ_BYTES_DEFAULT if length is None else length
    if not 0 < length <= CUT_READ_BYTES_MAX:
        raise UsageError(f"invalid length: {length}; expected 1 to {CUT_READ_BYTES_MAX} bytes")
    volume = call.parameters["volume"]
    data = await context.actions.read_cut(_cut_id(call), volume, offset, length)
    return Answer(200, BYTES_TYPE, data)
