"""What can be asked of the daemon as a program: its configuration, another one in its place. And
how commands are logged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from duplexd.api.access import Peer
    from duplexd.api.models.request_model import ReloadRequest
    from duplexd.api.reloads import Reloads
    from duplexd.api.restarts import Restarts
    from duplexd.json_object import Json

_MARKING_MAX = 64  # marks of groups that are being made


class OfProcess:
    """The base of `Actions` for that."""

    def __init__(self, reloads: Reloads, restarts: Restarts) -> None:
        self._reloads = reloads
        self._restarts = restarts
        self._marking: deque[str] = deque(maxlen=_MARKING_MAX)  # ids of groups' marks
        self._log = structlog.get_logger("duplexd.api")

    def _command(self, peer: Peer, command: str, **fields: object) -> None:
        who = (
            {"certificate": peer.name}
            if peer.name
            else {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid}
        )
        # After the answer, where possible: writes wait for some of these commands. Those of marks
        # may come every second.
        is_of_mark = command == "mark" or fields.get("cut") in self._marking
        log = self._log.debug if is_of_mark else self._log.info
        asyncio.get_running_loop().call_soon(
            lambda: log("command", command=command, **who, **fields)
        )

    async def reload(self, peer: Peer, body: ReloadRequest) -> Json:
        """Read the configuration again, and apply it; all of it, or nothing. With `check` say what
        that would change, or raise what it would raise.

        Legal in any state.
        """
        if body.check:
            return {"applied": False, "changes": await self._reloads.check(body.text, body.path)}
        self._command(peer, "reload")
        return {"applied": True, "changes": await self._reloads.reload()}

    async def restart(self, peer: Peer, force: bool) -> Json:
        """Let another program take the daemon's place in the process, with its clients. Returns
        when that is certain to be tried; `last_restart` of the next program says that it is done.

        Legal in any state.
        """
        self._command(peer, "restart", force=force)
        return await self._restarts.restart(force)

    def last_restart(self) -> Json:
        """Which program this is, and the restart in place that it began with, if it did."""
        return self._restarts.show()
