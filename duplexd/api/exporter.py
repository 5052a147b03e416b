"""`[metrics] listen`: /metrics over TCP, for a Prometheus that has no certificate, and a page.

Who can connect may read every metric and what the page shows, and do nothing else: no route takes a
parameter. Its connections are counted apart from those of the control API, so that a scraper that
goes wild takes no place of an operator's; and by address, so that it takes none of another one's.
A request is answered only if it was meant for this machine (`own_host.py`): else web pages of
strangers could read all this in the browser of somebody who can connect.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.api import problems
from duplexd.api.access import Access
from duplexd.api.connections import Connections
from duplexd.api.local import Local
from duplexd.api.own_host import is_meant
from duplexd.api.routes import METRICS_TYPE
from duplexd.api.wire import Answer
from duplexd.net import listen
from duplexd.net.allow import origin_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.api.http_request import Link
    from duplexd.api.page_source import PageSource
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
        page: PageSource,
        limits: ApiLimits,
    ) -> None:
        self._address = address
        self._names = {socket.gethostname().lower(), address.host if address else ""} - {""}
        self._scrape = scrape
        self._page = page
        self._routes: dict[tuple[str, ...], Callable[[], Awaitable[Answer]]] = {
            ("metrics",): self._metrics,
            ("",): page.page,
            ("page.css",): page.style,
        }
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
        if self._doors:
            self._page.start()
        for door in self._doors:
            door.start()

    async def stop(self) -> None:
        """End all connections."""
        self._page.stop()
        for door in self._doors:
            await door.close()
        self._doors.clear()
        await self._connections.stop()

    async def _respond(self, _link: Link, request: Request) -> Answer:
        if not is_meant(request.host, self._names):
            detail = (
                f"this listener does not answer to {request.host!r}; connect by address, by the"
                " name of the machine, or by the name that is given in [metrics] listen"
            )
            return problems.respond(421, detail)
        route = self._routes.get(request.segments)
        if route is None:
            return problems.respond(404, f"no such path: {request.path}; there are / and /metrics")
        if request.method not in {"GET", "HEAD"}:
            detail = f"{request.method} is not possible on {request.path}; allowed: GET, HEAD"
            return problems.respond(405, detail, (("allow", "GET, HEAD"),))
        return await route()

    async def _metrics(self) -> Answer:
        return Answer(200, METRICS_TYPE, await asyncio.to_thread(self._scrape()))


class _Door(Local):
    """Accepts over TCP, where the kernel does not say who connects."""

    def _may_enter(self, client: socket.socket) -> bool:
        try:
            host = origin_of(client.getpeername()[0])
        except OSError:  # it has gone already
            return False
        return self._rates.allow(host, asyncio.get_running_loop().time())
