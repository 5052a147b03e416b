"""All connections of the HTTP API, over the Unix socket and TLS: how many, and how they end.

There is one limit for both, of which a part is kept for the Unix socket: clients over TLS must not
be able to lock the administrator of this machine out. Each hold has a connection of its own, so the
limit is above that of leases.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.api.http_connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.api.access import Access, Peer
    from duplexd.api.routing import Application
    from duplexd.limits import ApiLimits

FLUSH_SECONDS = 0.2  # for what was answered to reach its reader when the daemon stops


class Connections:
    """Makes connections and knows those that are open. Belongs to one event loop."""

    def __init__(self, application: Application, access: Access, limits: ApiLimits) -> None:
        self.application = application
        self.access = access
        self.limits = limits
        self._open: set[Connection] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def make(self) -> Connection:
        """For a socket that was accepted."""
        return Connection(self)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open))

    # ------------------------------------------------------------------- what connections call

    def limit_for(self, peer: Peer) -> int:
        """How many connections there may be with this one. Over TLS every peer has a name."""
        limits = self.limits
        return limits.connections_max - (limits.local_connections_min if peer.name else 0)

    def add(self, connection: Connection, limit: int) -> bool:
        """Note an open connection; False if it is one too many."""
        self._open.add(connection)
        self._none_left.clear()
        return len(self._open) <= limit

    def remove(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open.discard(connection)
        if not self._open:
            self._none_left.set()

    # ---------------------------------------------------------------------- what the server calls

    def admit(self, access: Access) -> None:
        """Take these roles from now on; drop the connections whose peer would have another."""
        self.access = access
        for connection in self:
            connection.admit_again(access)

    async def stop(self) -> None:
        """Give running answers a moment to end, then cancel them; leave no connection open."""
        for connection in self:
            connection.stop()
        tasks = {task for connection in self if (task := connection.task) is not None}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=self.limits.stop_seconds_max)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._none_left.wait()
        except TimeoutError:
            for connection in self:
                connection.abort()
            await self._none_left.wait()  # an abort takes a turn of the loop
