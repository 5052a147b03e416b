"""The streams of the HTTP API: a hold, a resync and a verify with progress, the events.

Each is a generator that yields one object a line. It releases what it holds in its `finally`, which
runs when its reader goes away, because the connection closes the generator then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from duplexd.api.access import Peer
    from duplexd.api.actions import Actions
    from duplexd.api.models.request_model import QuiesceRequest, ResyncRequest, SuspendRequest
    from duplexd.api.protocols import Lease
    from duplexd.json_object import Json

    Lines = AsyncGenerator[Json, None]
    OnCut = Callable[[str], object]


async def hold_lines(
    actions: Actions, peer: Peer, request: QuiesceRequest, heartbeat_seconds: float
) -> Lines:
    """`held`, then `holding` every so many seconds, then `ended`.

    Closing the generator earlier ends the hold: its owner is gone.
    """
    lease = await actions.quiesce(
        peer, request.targets, request.hold_s, request.cut or "", request.mark
    )
    loop = asyncio.get_running_loop()
    try:
        first = {
            "id": lease.id,
            "volumes": list(lease.volumes),
            "hold_s": lease.hold_s,
            "fence": lease.fence,
            "cut": lease.cut_id or None,
        }
        yield {"event": "held", "lease": first}
        while not lease.ended.done():
            await asyncio.wait((lease.ended,), timeout=heartbeat_seconds)
            if not lease.ended.done():
                yield {
                    "event": "holding",
                    "remaining_s": round(max(0.0, lease.deadline - loop.time()), 3),
                }
        yield {
            "event": "ended",
            "lease": lease.id,
            "reason": lease.ended.result(),
            "verdict": _verdict(lease),
        }
    finally:
        if not lease.ended.done():
            actions.owner_gone(lease)


def _verdict(lease: Lease) -> str:
    return "void" if lease.lost else "consistent"


async def suspend_lines(actions: Actions, peer: Peer, request: SuspendRequest) -> Lines:
    """`cut` when it is made, then `done`, when the secondaries are durable.

    Closing it earlier leaves no cut half-way.
    """
    made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(actions.suspend(peer, request, made.set_result))
    try:
        await asyncio.wait((made, work), return_when=asyncio.FIRST_COMPLETED)
        if made.done():
            yield {"event": "cut", "cut": made.result()}
        yield {"event": "done"} | await work
    finally:
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def resync_lines(
    actions: Actions, peer: Peer, request: ResyncRequest, progress_seconds: float
) -> Lines:
    """`started`, then `progress` whenever there was any, then `done`.

    Closing it earlier leaves the resync running.
    """
    started = await actions.resync(peer, request)
    yield {"event": "started"} | started
    targets = [volume["name"] for volume in started["volumes"]]
    waiting = asyncio.ensure_future(actions.resync_wait(targets))
    last: list[Json] = []
    try:
        while not waiting.done():
            await asyncio.wait((waiting,), timeout=progress_seconds)
            progress = _copies(actions, targets)
            if progress != last:
                last = progress
                yield {"event": "progress", "volumes": progress}
        result = waiting.result()
        yield {
            "event": "done",
            "ok": not started["refused"]
            and all(volume["state"] == "DUPLEX" for volume in result["volumes"]),
            "readers": started.get("readers", []),
            "refused": started["refused"],
        } | result
    finally:
        waiting.cancel()


def _copies(actions: Actions, targets: list[str]) -> list[Json]:
    rows = []
    for volume in actions.status(targets)["volumes"]:
        copy = volume.get("copy") or {"done_bytes": 0, "total_bytes": 0, "eta_s": None}
        rows.append({"name": volume["name"], "state": volume["state"]} | copy)
    return rows


async def verify_lines(actions: Actions, targets: list[str], progress_seconds: float) -> Lines:
    """`progress` at most every so many seconds for each volume, then `done`.

    Closing it earlier stops the comparison.
    """
    latest: dict[str, tuple[int, int]] = {}
    shown: dict[str, tuple[int, int]] = {}

    def progress(name: str, done_bytes: int, total_bytes: int) -> None:
        latest[name] = (done_bytes, total_bytes)

    verifying = asyncio.ensure_future(actions.verify(targets, progress))
    try:
        while not verifying.done():
            await asyncio.wait((verifying,), timeout=progress_seconds)
            for name, (done, total) in list(latest.items()):
                if shown.get(name) != (done, total):
                    shown[name] = (done, total)
                    yield {
                        "event": "progress",
                        "name": name,
                        "done_bytes": done,
                        "total_bytes": total,
                    }
        yield {"event": "done"} | verifying.result()
    finally:
        if not verifying.done():
            verifying.cancel()
            await asyncio.gather(verifying, return_exceptions=True)


async def event_lines(actions: Actions, cut_off: Callable[[], None], follow: bool) -> Lines:
    """`state`, `synced`, then, with `follow`, every change.

    A reader that cannot keep up is cut off: it loses its connection, never an event.
    """
    listener = actions.hub.subscribe(cut_off)
    try:
        yield actions.present_state()
        yield {"event": "synced"}
        if actions.stopping:
            return
        if follow:
            async for event in listener:
                yield event
    finally:
        actions.hub.unsubscribe(listener)
