"""The HTTP API of a daemon, from its sockets to its endpoints: what is assembled, started, stopped.

    starting = Starting("alpha")
    server = ControlServer(starting, config.control, ApiLimits())
    await server.start()                    # the Unix socket answers: "starting"
    starting.at("recovering, 40 %", 0.4)
    await server.listen_remote()            # the TLS addresses, once they can be had
    server.serve(controller, [nbd_source])  # from now on it answers for the controller
    server.admit(Admission.of(reloaded))    # other roles and certificates, after a reload
    await server.stop()                     # holds end, answers end, the socket is removed

It runs in the loop that serves volumes. So nothing in it may take long: what formats much (metrics)
does so in a thread, and TLS handshakes are rationed (remote.py).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from duplexd.api.access import Access
from duplexd.api.actions import Actions
from duplexd.api.connections import Connections
from duplexd.api.health import HealthOf, Outlook
from duplexd.api.http_request import Context
from duplexd.api.local import Local
from duplexd.api.loop_lag import LoopLag
from duplexd.api.reloads import NOT_RELOADED
from duplexd.api.remote import Remote
from duplexd.api.restarts import NOT_RESTARTED
from duplexd.api.routes import ROUTES
from duplexd.api.routing import application
from duplexd.api.scrape import Scrape
from duplexd.known import known
from duplexd.net import listen, tls
from duplexd.net.address import UnixAddress
from duplexd.net.allow import group_id

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from duplexd.api.protocols import Controller
    from duplexd.api.reloads import Reloads
    from duplexd.api.restarts import Restarts
    from duplexd.api.scrape import Source
    from duplexd.api.starting import Starting
    from duplexd.config.daemon_file import ControlConfig
    from duplexd.core.findings import Finding
    from duplexd.json_object import Json
    from duplexd.limits import ApiLimits


_NOTHING_BESIDE = Outlook()


class Admission(NamedTuple):
    """Which clients get in, and their roles: the part of `[control]` that a reload may change."""

    access: Access
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: ControlConfig) -> Admission:
        """Reads the certificates. Raises ConfigurationError or ForbiddenError."""
        context = tls.server_context(settings.tls) if settings.tls is not None else None
        return cls(Access(os.geteuid(), settings.group_role, settings.tls), context)


@dataclass
class Listening:
    """What a server that was started has open. `context` is that of the TLS addresses, if there
    are any.
    """

    connections: Connections
    bound: listen.BoundSocket
    local: Local
    context: ssl.SSLContext | None
    remote: Remote | None = None


class Serving(NamedTuple):
    """The controller that is served, and what stands between it and the connections."""

    controller: Controller
    actions: Actions
    scrape: Scrape
    health: HealthOf

    def detach(self) -> None:
        """Stop listening to the controller."""
        self.actions.detach()
        if self.scrape.figures.note in self.controller.listeners:
            self.controller.listeners.remove(self.scrape.figures.note)


class ControlServer:
    """Serves the HTTP API from `start` to `stop`: that of `starting`, and from `serve` on that of a
    controller.
    """

    def __init__(
        self,
        starting: Starting,
        settings: ControlConfig,
        limits: ApiLimits,
        passed: listen.BoundSocket | None = None,
    ) -> None:
        self._passed = passed  # a socket that a service manager made, instead of `control.socket`
        self._starting = starting
        self._settings = settings
        self._limits = limits
        self._lag = LoopLag()
        self._listening: Listening | None = None
        self._serving: Serving | None = None

    @property
    def connections(self) -> Connections:
        """Those that are open."""
        return known(self._listening, "start comes first").connections

    @property
    def actions(self) -> Actions:
        """The door into the controller."""
        return known(self._serving, "serve comes first").actions

    def findings(self) -> list[Finding]:
        """All that is not well."""
        return known(self._serving, "serve comes first").health.all()

    def look(self) -> tuple[Json, list[Finding], list[Json]]:
        """The status, all that is not well by it, and the cuts that are remembered."""
        serving = known(self._serving, "serve comes first")
        status, cuts = serving.controller.status(), serving.controller.cuts.all()["cuts"]
        return status, serving.health.findings(status), cuts

    def scrape(self) -> Callable[[], bytes]:
        """See `Scrape.prepare`."""
        return known(self._serving, "serve comes first").scrape.prepare()

    @property
    def sockets(self) -> list[listen.BoundSocket]:
        """The Unix socket, while there is one."""
        return [self._listening.bound] if self._listening is not None else []

    async def start(self) -> None:
        """Listen on the Unix socket.

        Raises ConfigurationError or WrongStateError when the socket cannot be had, ForbiddenError
        for a certificate that cannot be read; it listens nowhere then.
        """
        admission = Admission.of(self._settings)
        bound = self._passed or self._bind()
        application = self._starting.application(self._lag)
        connections = Connections(application, admission.access, self._limits)
        local = self._accept(bound, connections)
        self._listening = Listening(connections, bound, local, admission.context)
        self._lag.start()

    async def listen_again(self) -> str:
        """If somebody removed the file of the Unix socket, make another one. Connections stay.
        Returns its address, or "". Raises as `start`, and then nothing has changed.
        """
        listening = self._listening
        if listening is None or not listening.bound.is_lost:
            return ""
        before, listening.bound = listening.local, self._bind()
        listening.local = self._accept(listening.bound, listening.connections)
        await before.close()
        return str(listening.bound.address)

    def _bind(self) -> listen.BoundSocket:
        settings = self._settings
        group = group_id("control.group", settings.group) if settings.group else None
        address = UnixAddress(str(settings.socket))
        return listen.bind(address, "control.socket", group, make_parents=True)[0]

    def _accept(self, bound: listen.BoundSocket, connections: Connections) -> Local:
        local = Local(bound.sock, connections.make, connections.access.owns, self._limits)
        local.start()
        return local

    async def listen_remote(self) -> None:
        """Listen on the TLS addresses, too.

        Raises ConfigurationError; WrongStateError for an address that cannot be had at present.
        """
        tls, listening = self._settings.tls, self._listening
        if tls is None or listening is None or listening.context is None:
            return
        bound = await asyncio.to_thread(listen.bind_all, tls.listen, "control.tls.listen")
        socks = [each.sock for each in bound]
        listening.remote = Remote(
            socks, listening.context, listening.connections.make, self._limits
        )
        listening.remote.start()

    def serve(
        self,
        controller: Controller,
        sources: Sequence[Source] = (),
        outlook: Outlook = _NOTHING_BESIDE,
        reloads: Reloads = NOT_RELOADED,
        restarts: Restarts = NOT_RESTARTED,
    ) -> None:
        """Answer for this controller from now on. `sources` give further metrics; `outlook` is what
        health knows beside the controller; `reloads` reads the configuration again, `restarts`
        has another program go on.
        """
        actions = Actions(controller, self._limits, reloads, restarts)
        health = HealthOf(controller.status, actions.differing, outlook)
        scrape = Scrape(controller, self._lag, health, sources)
        controller.listeners.append(scrape.figures.note)
        self._lag.on_tick = lambda: scrape.written.note(controller.sequence, time.monotonic())
        self._serving = Serving(controller, actions, scrape, health)
        context = Context(
            actions, self._limits, scrape.prepare, lambda: not actions.stopping, health
        )
        if self._listening is not None:  # a program that stands in serves NBD clients alone
            self._listening.connections.application = application(context, ROUTES)

    def admit(self, admission: Admission) -> None:
        """Take these roles and certificates from now on.

        Connections whose peer would have another role by them are dropped; all over TLS if an
        authority that signs clients has been removed.
        """
        listening = self._listening
        if listening is None:
            return
        removed = tls.authorities(listening.context) - tls.authorities(admission.context)
        listening.context = admission.context
        if listening.remote is not None and admission.context is not None:
            listening.remote.context = admission.context
            if removed:
                listening.remote.break_off()
        listening.connections.admit(admission.access, verify_again=bool(removed))

    def hand_over(self) -> listen.BoundSocket:
        """The Unix socket, for another program: a stop of this server leaves it listening."""
        bound = known(self._listening, "start comes first").bound
        kept = listen.BoundSocket(bound.sock.dup(), bound.ours)
        bound.ours = False
        return kept

    async def stop(self) -> None:
        """End every hold (`stopping`) and stream, let running commands answer for a moment.

        The socket is removed first: a client that comes now must not find a daemon that goes.
        """
        serving, listening = self._serving, self._listening
        if serving is not None:
            serving.actions.stop()
        self._lag.stop()
        if listening is None:
            return
        listening.bound.remove_file()
        await listening.local.close()
        if listening.remote is not None:
            await listening.remote.close()
        if serving is not None:
            await serving.actions.hooked.stopped()
        await listening.connections.stop()
        if serving is not None:
            await serving.actions.hooked.close()
            serving.detach()
        self._listening = None
