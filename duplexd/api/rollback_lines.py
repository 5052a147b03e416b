"""The stream of a rollback: how far it is, then its result. Who goes away does not stop it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from duplexd.api.access import Peer
    from duplexd.api.actions import Actions
    from duplexd.api.models.rollback_model import RollbackRequest
    from duplexd.json_object import Json


async def rollback_lines(
    actions: Actions, peer: Peer, body: RollbackRequest, progress_seconds: float
) -> AsyncGenerator[Json, None]:
    """`progress` at most every so many seconds for each volume, then `done`."""
    shown: dict[str, Json] = {}
    work = asyncio.ensure_future(actions.rollback(peer, body))
    try:
        while not work.done():
            await asyncio.wait((work,), timeout=progress_seconds)
            for line in _progress(actions, body.targets):
                if shown.get(line["name"]) != line:
                    shown[line["name"]] = line
                    yield line
        yield {"event": "done"} | work.result()
    finally:
        work.cancel()


def _progress(actions: Actions, targets: list[str]) -> list[Json]:
    return [
        {
            "event": "progress",
            "name": volume["name"],
            "done_bytes": rollback["done_bytes"],
            "total_bytes": rollback["total_bytes"],
        }
        for volume in actions.status(targets)["volumes"]
        if (rollback := volume.get("rollback")) and rollback["state"] in {"running", "ready"}
    ]
