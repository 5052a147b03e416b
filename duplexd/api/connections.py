"""All connections of the HTTP API, over the Unix socket and TLS: how many, and how they end.

There is one limit for both. Parts of it are kept, so that nobody locks out those who have more to
say; each hold has a connection of its own, so the limit is above that of leases.

| peer | of `connections_max` are kept for others | all of its kind | one of them |
|---|---|---|---|
| root, the daemon's user | none | | |
| operator on the Unix socket | `owner_connections_min` | | |
| operator over TLS | `local_connections_min` | | |
| observer | the same | `observers_max` | `observer_connections_max` |
| certificate without a role | the same | `roleless_max` | `roleless_connections_max` |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.api.access import Role
from duplexd.api.http_connection import Connection
from duplexd.api.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.api.access import Access, Peer
    from duplexd.api.routing import Application
    from duplexd.limits import ApiLimits

FLUSH_SECONDS = 0.2  # for what was answered to reach its reader when the daemon stops


class Connections:
    """Makes connections and knows those that are open. Belongs to one event loop.

    `tasks` are those that answer requests. Some have no connection any more: a command goes on to
    its end without its client, and a stop must not leave it half done.
    """

    def __init__(self, application: Application, access: Access, limits: ApiLimits) -> None:
        self.application = application
        self.access = access
        self.limits = limits
        self.lanes = Lanes(limits)
        self.tasks: set[asyncio.Task[None]] = set()
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

    def add(self, connection: Connection) -> str:
        """Note an open connection; why it is one too many, or ""."""
        self._open.add(connection)
        self._none_left.clear()
        for count, limit, name in self._counts(connection.peer):
            if count > limit:
                return f"{limit} connections are open ({name}); close some and try again"
        return ""

    def _counts(self, peer: Peer) -> Iterator[tuple[int, int, str]]:
        """How many are open, how many may be, and the name of that limit. See the table above."""
        limits = self.limits
        kept = limits.local_connections_min if peer.name else limits.owner_connections_min
        left = limits.connections_max - (0 if peer.owns else kept)
        yield len(self._open), left, "connections_max"
        if peer.role is Role.OPERATE:
            return
        alike = [each.peer for each in self._open if each.peer.role is peer.role]
        same = sum(each.who == peer.who for each in alike)
        if peer.role is Role.OBSERVE:
            yield same, limits.observer_connections_max, "observer_connections_max"
            yield len(alike), limits.observers_max, "observers_max"
        else:
            yield same, limits.roleless_connections_max, "roleless_connections_max"
            yield len(alike), limits.roleless_max, "roleless_max"

    def remove(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open.discard(connection)
        if not self._open:
            self._none_left.set()

    # ---------------------------------------------------------------------- what the server calls

    def admit(self, access: Access, verify_again: bool = False) -> None:
        """Take these roles from now on; drop the connections whose peer would have another. With
        `verify_again` also those over TLS: whom an authority vouched for that is trusted no more
        cannot be said of a connection.
        """
        self.access = access
        for connection in self:
            if verify_again and connection.peer.name:
                connection.abort()
            else:
                connection.admit_again(access)

    async def stop(self) -> None:
        """Give running answers a moment to end, then cancel them; leave no connection open."""
        for connection in self:
            connection.stop()
        tasks = set(self.tasks)
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
