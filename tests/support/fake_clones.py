"""Clones of a controller that is not there: what was asked for, and answers of the right shape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class FakeClones:
    """`made`: volumes by name of the clone. `error` is raised by the next `make`."""

    def __init__(self) -> None:
        self.made: dict[str, list[str]] = {}
        self.cut = "00000000000000c1"  # of the latest
        self.error: Exception | None = None
        self.ended: asyncio.Future[str] | None = None  # what `ends` returns
        self.of: tuple[Sequence[str], str] = (), ""  # what that is of

    async def make(
        self, names: Sequence[str], cut_id: str, name: str, limit_bytes: int | None = None
    ) -> Json:
        if self.error is not None:
            raise self.error
        self.made.setdefault(name, []).extend(names)
        self.cut = cut_id
        rows = [_row(volume, cut_id, name, limit_bytes) for volume in names]
        return {"name": name, "cut": cut_id, "tag": "", "verdict": "consistent", "volumes": rows}

    async def drop(self, names: Sequence[str], name: str) -> Json:
        if name not in self.made:
            raise NotFoundError(f"no clone {name!r} of {', '.join(names)}")
        return {"name": name, "volumes": self.made.pop(name)}

    def ends(self, names: Sequence[str], name: str) -> list[asyncio.Future[str]]:
        self.ended = asyncio.get_running_loop().create_future()
        self.of = names, name
        return [self.ended]

    async def end(self, ends: Sequence[asyncio.Future[str]]) -> None:
        if self.ended in ends and self.of[1] in self.made:
            await self.drop(*self.of)

    def show(self, names: Sequence[str] | None = None) -> Json:
        clones = [
            _row(volume, self.cut, name, None)
            for name, volumes in self.made.items()
            for volume in volumes
            if names is None or volume in names
        ]
        return {"clones": clones}


def _row(volume: str, cut_id: str, name: str, limit_bytes: int | None) -> Json:
    return {
        "name": name,
        "volume": volume,
        "export": f"{volume}@{cut_id}+{name}",
        "cut": cut_id,
        "size": 1 << 20,
        "limit_bytes": limit_bytes or 1 << 30,
        "used_bytes": 0,
        "connections": 0,
        "since": 1.0,
        "first_fault": "",
    }
