"""Answers that end at once when their reader goes away: lines of JSON, or one object that takes long to make."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from duplexd.api.problems import problem_of
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from duplexd.api.connection import Link

    Json = dict[str, Any]
    Lines = AsyncGenerator[Json, None]

LINES_TYPE = "application/x-ndjson"


def encode(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode()


class Lasting:
    """An ASGI answer whose making is cancelled, and its end waited for, as soon as the client disconnects.

    The disconnect is noticed by reading (the kernel reports a closed or killed peer at once), not by a write that fails some time later.
    A DuplexdError before the first byte becomes a problem; after it, the last line of the stream: `{"event": "failed", "problem": {...}}`.
    """

    def __init__(self, work: Callable[[Send], Coroutine[Any, Any, None]], link: Link) -> None:
        self._work = work
        self._link = link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await _start(send, LINES_TYPE)
            await send({"type": "http.response.body", "body": b""})
            return
        self._link.streaming = True
        work = asyncio.ensure_future(self._work(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._link.streaming = False
        if not work.cancelled():
            work.result()


def lines_answer(lines: Lines, link: Link) -> Lasting:
    """Newline-delimited JSON. The generator is closed (its `finally` has run) when the answer is over for whatever reason."""

    async def write(send: Send) -> None:
        started = False
        try:
            async with aclosing(lines):
                async for line in lines:
                    if not started:
                        await _start(send, LINES_TYPE)
                        started = True
                    await send(
                        {
                            "type": "http.response.body",
                            "body": encode(line) + b"\n",
                            "more_body": True,
                        }
                    )
        except DuplexdError as error:
            if not started:
                raise
            last = {"event": "failed", "problem": problem_of(error)}
            await send(
                {"type": "http.response.body", "body": encode(last) + b"\n", "more_body": True}
            )
        if not started:
            await _start(send, LINES_TYPE)
        link.streaming = False  # before the last byte: the next request may follow it at once
        await send({"type": "http.response.body", "body": b""})

    return Lasting(write, link)


def object_answer(value: Coroutine[Any, Any, Json], link: Link) -> Lasting:
    """One JSON object."""

    async def write(send: Send) -> None:
        body = encode(await value)
        await _start(send, "application/json")
        link.streaming = False
        await send({"type": "http.response.body", "body": body})

    return Lasting(write, link)


async def _start(send: Send, media_type: str) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", media_type.encode())],
        }
    )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
