"""What an endpoint may answer with: a whole `wire.Answer`, `Lines` that last, or a `Slow` object.

The last two are made while the connection watches its client, and are cancelled when that goes: a
hold must not outlast its owner, and nobody needs a comparison that nobody reads.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.api import problems
from duplexd.api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from duplexd.json_object import Json

JSON_TYPE = "application/json"
LINES_TYPE = "application/x-ndjson"


def encode(value: Json) -> bytes:
    """As few bytes as JSON takes."""
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def answer(value: Json) -> Answer:
    """One object that is there already."""
    return Answer(200, JSON_TYPE, encode(value))


class Lines:
    """Newline-delimited JSON. The generator is closed when the answer ends, however it ends."""

    media_type = LINES_TYPE

    def __init__(self, lines: AsyncGenerator[Json, None]) -> None:
        self.lines = lines

    async def discard(self) -> None:
        """Nobody wants it."""
        await self.lines.aclose()


class Slow:
    """One object that takes long to make."""

    media_type = JSON_TYPE

    def __init__(self, work: Coroutine[None, None, Json]) -> None:
        self._work = work

    async def answer(self) -> Answer:
        """The object, or the problem that it became. A cancellation ends the work."""
        try:
            return answer(await self._work)
        except Exception as error:  # noqa: BLE001 - a bug costs its own answer, and is logged
            return problems.answer(problems.problem_of(error))

    async def discard(self) -> None:
        """Nobody wants it."""
        self._work.close()
