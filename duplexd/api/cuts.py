"""The endpoints of cuts that several controllers take together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from duplexd.api import access
from duplexd.api.models.requests import CutEmpty, CutRequest, GradeRequest, OpenRequest
from duplexd.api.requests import Context, answer, link_of, number, parse
from duplexd.core import cut_states as votes
from duplexd.errors import UsageError
from duplexd.limits import CUT_READ_BYTES_DEFAULT, CUT_READ_BYTES_MAX

if TYPE_CHECKING:
    from starlette.requests import Request


def _cut_id(request: Request) -> str:
    cut_id: str = request.path_params["cut"]
    if len(cut_id) != 16 or set(cut_id) - set("0123456789abcdef"):
        raise UsageError(f"{cut_id!r} is no id of a cut: 16 characters of 0-9 and a-f")
    return cut_id


async def get_cuts(context: Context, _request: Request) -> Response:
    return answer(context.actions.controller.cuts.all())


async def get_cut(context: Context, request: Request) -> Response:
    return answer(context.actions.controller.cuts.show(_cut_id(request)))


async def post_cut(context: Context, request: Request) -> Response:
    body = await parse(request, CutRequest)
    return answer(await context.actions.make_cut(link_of(request).peer, _cut_id(request), body))


async def post_open(context: Context, request: Request) -> Response:
    body = await parse(request, OpenRequest)
    return answer(
        await context.actions.open_cut(
            link_of(request).peer, _cut_id(request), body.lease, body.fence
        )
    )


async def _decide(context: Context, request: Request, how: str) -> Response:
    await parse(request, CutEmpty)
    return answer(await context.actions.decide_cut(link_of(request).peer, _cut_id(request), how))


async def post_abort(context: Context, request: Request) -> Response:
    return await _decide(context, request, votes.ABORT)


async def post_agree(context: Context, request: Request) -> Response:
    return await _decide(context, request, votes.AGREE)


async def post_refuse(context: Context, request: Request) -> Response:
    return await _decide(context, request, votes.REFUSE)


async def post_release(context: Context, request: Request) -> Response:
    await parse(request, CutEmpty)
    return answer(context.actions.release_cut(link_of(request).peer, _cut_id(request)))


async def post_grade(context: Context, request: Request) -> Response:
    body = await parse(request, GradeRequest)
    return answer(await context.actions.grade_cut(link_of(request).peer, _cut_id(request), body))


async def get_contents(context: Context, request: Request) -> Response:
    offset, length = number(request, "offset", 0), number(request, "length", CUT_READ_BYTES_DEFAULT)
    if not 0 < length <= CUT_READ_BYTES_MAX:
        raise UsageError(f"length is 1 to {CUT_READ_BYTES_MAX} bytes (CUT_READ_BYTES_MAX)")
    data = await context.actions.read_cut(
        _cut_id(request), request.path_params["volume"], offset, length
    )
    return Response(data, media_type=access.BYTES_TYPE)
