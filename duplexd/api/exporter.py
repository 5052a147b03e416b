"""`[metrics] listen`: GET /metrics over TCP, for a Prometheus that has no certificate.

Who can connect may read every metric and do nothing else: there is one route, which takes no
parameter. Its connections are counted apart from those of the control API, so that a scraper that
goes wild takes no place of an operator's; and by address, so that it takes none of another one's.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.api import problems
from duplexd.api.access import Access
from duplexd.api.connections import Connections
from duplexd.api.local import Local
from duplexd.api.routes import METRICS_TYPE
from duplexd.api.wire import Answer
from duplexd.net import listen

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from duplexd.api.http_request import Link
    from duplexd.api.wire import Request
    from duplexd.limits import ApiLimits
    from duplexd.net.address import TcpAddress


class Exporter:
    """Listens from `bind` on and answers from `start` on, until `stop`; nowhere without an
    address. `scrape`: see `Scrape.prepare`.
    """

    def __init__(
        self,
        address: TcpAddress | None,
        scrape: Callable[[], Callable[[], bytes]],
        limits: ApiLimits,
    ) -> None:
        self._address = address
        self._scrape = scrape
        most = limits.exporter_connections_max
        each = max(1, most * 3 // 4)
        self._limits = replace(limits, roleless_max=most, roleless_connections_max=each)
        self._connections = Connections(self._respond, Access(-1), self._limits)
        self._doors: list[_Door] = []

    async def bind(self) -> None:
        """Raises ConfigurationError; WrongStateError for an address that cannot be had now."""
        if self._address is None:
            return
        bound = await asyncio.to_thread(listen.bind, self._address, "metrics.listen")
        self._doors = [
            _Door(each.sock, self._connections.make, lambda _uid: False, self._limits)
            for each in bound
        ]

    def start(self) -> None:
        """Accept who has connected, and who will."""
        for door in self._doors:
            door.start()

    async def stop(self) -> None:
        """End all connections."""
        for door in self._doors:
            await door.close()
        self._doors.clear()
        await self._connections.stop()

    async def _respond(self, _link: Link, request: Request) -> Answer:
        if request.segments != ("metrics",):
            return problems.respond(404, f"no such path: {request.path}; there is only /metrics")
        if request.method not in {"GET", "HEAD"}:
            detail = f"{request.method} is not possible on /metrics; allowed: GET, HEAD"
            return problems.respond(405, detail, (("allow", "GET, HEAD"),))
        return Answer(200, METRICS_TYPE, await asyncio.to_thread(self._scrape()))


class _Door(Local):
    """Accepts over TCP, where the kernel does not say who connects."""

    def _may_enter(self, client: socket.socket) -> bool:
        try:
            host: str = client.getpeername()[0]
        except OSError:  # it has gone already
            return False
        return self._rates.allow(host, asyncio.get_running_loop().time())
