"""The Unix socket of the HTTP API: clients are accepted at a rate that the loop can bear.

asyncio accepts all that wait in the kernel's queue in one go, so a user that connects and leaves in
a loop had the event loop do nothing else. Here each user has so many connections a second. What is
beyond that is closed at once, which costs next to nothing, so that the queue moves on for others.
Root and the daemon's user are never closed, but wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from duplexd.api.http_connection import credentials
from duplexd.runtime.log import Seldom

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from duplexd.limits import ApiLimits

ACCEPT_PAUSE_SECONDS = 0.1  # after an accept that failed: no descriptors left, mostly
CLOSED_PAUSE_SECONDS = 0.0005  # after one that was closed at once
USERS_MAX = 1024  # whose rate is remembered

defects: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.api")
log = Seldom(defects)


class Rates:
    """Connections of each user or address: `burst` at once, then `per_second`."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left: dict[int | str, tuple[float, float]] = {}  # connections left, at that time

    def allow(self, who: int | str, now: float) -> bool:
        """Whether this one may have one more; it is counted then."""
        left, at = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_second)
        self._left[who] = (max(left - 1, 0.0), now) if left >= 1 else (left, now)
        if len(self._left) > USERS_MAX:
            del self._left[next(iter(self._left))]
        return left >= 1


class Local:
    """Accepts on a bound socket from `start` to `close`. `owns`: users that are never refused."""

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        owns: Callable[[int], bool],
        limits: ApiLimits,
    ) -> None:
        self._sock = sock
        self._factory = factory
        self._owns = owns
        self._limits = limits
        self._rates = Rates(limits.user_connections_burst, limits.user_connections_per_second)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._accept_forever())

    async def close(self) -> None:
        """Accept no client any more. Connections stay."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._sock.close()

    async def _accept_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                log.error("cannot accept a control connection", error=error.strerror or str(error))
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            await asyncio.sleep(await self._let_in(client))

    async def _let_in(self, client: socket.socket) -> float:
        """The pause until the next client. Nothing that one client does ends the accepting."""
        try:
            if self._may_enter(client):
                await self._enter(client)
                return 1 / self._limits.accepts_per_second_max
        except Exception:  # noqa: BLE001  it is logged
            defects.exception("unexpected error of a new control connection, which is closed")
        client.close()
        return CLOSED_PAUSE_SECONDS

    def _may_enter(self, client: socket.socket) -> bool:
        _pid, uid, _gid = credentials(client)
        if self._owns(uid) or self._rates.allow(uid, asyncio.get_running_loop().time()):
            return True
        log.warning("a user connects too often", uid=uid)
        return False

    async def _enter(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone already
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, client)
