"""What the endpoints of the control socket do with a request: its body, its parameters, its connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from duplexd.api import access, problems
from duplexd.api.connection import Link
from duplexd.api.stream import encode
from duplexd.errors import UsageError
from duplexd.limits import (
    CONTROL_BODY_BYTES_MAX,
    CONTROL_DRAIN_BYTES_MAX,
    CONTROL_REQUEST_SECONDS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from duplexd.api.actions import Actions

M = TypeVar("M", bound=BaseModel)


class Context:
    """What the endpoints work with."""

    __slots__ = ("actions", "metrics", "ready")

    def __init__(
        self,
        actions: Actions,
        metrics: Callable[[], Callable[[], bytes]],
        ready: Callable[[], bool],
    ) -> None:
        self.actions = actions
        self.metrics = (
            metrics  # called in the loop; what it returns does the formatting, in a thread
        )
        self.ready = ready


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


def number(request: Request, name: str, default: int | None = None) -> int:
    """A whole number among the parameters; one without default must be there."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 19:
        raise UsageError(f"{name} is a whole number")
    return int(text)


def answer(value: dict[str, Any]) -> Response:
    return Response(encode(value), media_type="application/json")
