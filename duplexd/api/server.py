"""The HTTP API of a daemon, from its sockets to its endpoints: what is assembled, started, stopped.

    server = ControlServer(controller, config.control, ApiLimits(), [lambda: nbd_metrics(server)])
    await server.start()                    # listens on the Unix socket and the TLS addresses
    server.admit(Admission.of(reloaded))    # other roles and certificates, after a reload
    await server.stop()                     # holds end, answers end, the socket is removed

It runs in the loop that serves volumes. So nothing in it may take long: what formats much (metrics)
does so in a thread, and TLS handshakes are rationed (remote.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from duplexd.api.access import Access
from duplexd.api.actions import Actions
from duplexd.api.connections import Connections
from duplexd.api.histogram import LoopLag
from duplexd.api.http_request import Context
from duplexd.api.remote import Remote
from duplexd.api.routes import ROUTES
from duplexd.api.routing import application
from duplexd.api.scrape import Scrape
from duplexd.net import listen, tls
from duplexd.net.address import UnixAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from duplexd.api.actions import Controller
    from duplexd.api.scrape import Source
    from duplexd.config.daemon_file import ControlConfig
    from duplexd.limits import ApiLimits


class Admission(NamedTuple):
    """Which clients get in, and their roles: the part of `[control]` that a reload may change."""

    access: Access
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: ControlConfig) -> Admission:
        """Reads the certificates. Raises ConfigurationError or ForbiddenError."""
        context = tls.server_context(settings.tls) if settings.tls is not None else None
        return cls(Access(os.geteuid(), settings.group_role, settings.tls), context)


class Listening(NamedTuple):
    """What a server that was started has open."""

    connections: Connections
    bound: listen.BoundSocket
    local: asyncio.AbstractServer
    remote: Remote | None


class ControlServer:
    """Serves the HTTP API from `start` to `stop`. `sources` give further metrics."""

    def __init__(
        self,
        controller: Controller,
        settings: ControlConfig,
        limits: ApiLimits,
        sources: Sequence[Source] = (),
    ) -> None:
        self._controller = controller
        self._settings = settings
        self._limits = limits
        self._lag = LoopLag()
        self._listening: Listening | None = None
        self.actions = Actions(controller, limits)
        self._scrape = Scrape(controller, self._lag, sources)
        controller.listeners.append(self._scrape.figures.note)

    @property
    def connections(self) -> Connections:
        """Those that are open."""
        assert self._listening is not None, "start comes first"
        return self._listening.connections

    def _ready(self) -> bool:
        return self._listening is not None and not self.actions.stopping

    async def start(self) -> None:
        """Listen.

        Raises ConfigurationError when the socket or an address cannot be had, ForbiddenError for a
        certificate that cannot be read; it listens nowhere then.
        """
        settings = self._settings
        admission = Admission.of(settings)
        group = listen.group_id("control.group", settings.group) if settings.group else None
        with contextlib.ExitStack() as undo:
            tcp = listen.bind_all(settings.tls.listen, "control.tls.listen") if settings.tls else []
            for each in tcp:
                undo.callback(each.close)
            address = UnixAddress(str(settings.socket))
            (bound,) = listen.bind(address, "control.socket", group, make_parents=True)
            undo.pop_all()
        self._listening = await self._listen(admission, bound, tcp)
        self._lag.start()

    async def _listen(
        self,
        admission: Admission,
        bound: listen.BoundSocket,
        tcp: list[listen.BoundSocket],
    ) -> Listening:
        context = Context(self.actions, self._limits, self._scrape.prepare, self._ready)
        endpoints = application(context, ROUTES)
        connections = Connections(endpoints, admission.access, self._limits)
        local = await asyncio.get_running_loop().create_unix_server(
            connections.make, sock=bound.sock, backlog=listen.LISTEN_BACKLOG
        )
        remote = None
        if admission.context is not None:
            socks = [each.sock for each in tcp]
            remote = Remote(socks, admission.context, connections.make, self._limits)
            remote.start()
        return Listening(connections, bound, local, remote)

    def admit(self, admission: Admission) -> None:
        """Take these roles and certificates from now on.

        Connections whose peer would have another role by them are dropped.
        """
        if self._listening is None:
            return
        remote = self._listening.remote
        if remote is not None and admission.context is not None:
            remote.context = admission.context
        self._listening.connections.admit(admission.access)

    async def stop(self) -> None:
        """End every hold (`stopping`) and stream, let running commands answer for a moment.

        The socket is removed first: a client that comes now must not find a daemon that goes.
        """
        self.actions.stop()
        self._lag.stop()
        if self._listening is None:
            return
        connections, bound, local, remote = self._listening
        bound.remove_file()
        local.close()
        if remote is not None:
            await remote.close()
        await connections.stop()
        self.actions.detach()
        if self._scrape.figures.note in self._controller.listeners:
            self._controller.listeners.remove(self._scrape.figures.note)
        self._listening = None
