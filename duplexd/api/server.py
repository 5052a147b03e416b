"""The control socket's server: uvicorn, in the daemon's own loop, on a Unix socket and, if wanted, on TLS addresses."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from duplexd.api.access import Access
from duplexd.api.actions import Actions
from duplexd.api.connection import ControlProtocol
from duplexd.api.metrics import LoopLag, Scrape
from duplexd.api.remote import Remote
from duplexd.api.requests import Context
from duplexd.api.routes import application as make_application
from duplexd.limits import CONTROL_HEADER_BYTES_MAX, CONTROL_STOP_SECONDS_MAX
from duplexd.net import listen, tls
from duplexd.net.address import UnixAddress

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from prometheus_client.core import Metric

    from duplexd.api.actions import Controller
    from duplexd.config.daemon_file import ControlConfig

    class Settings(Protocol):
        """`[control]` of the configuration."""

        @property
        def control(self) -> ControlConfig: ...


FLUSH_SECONDS = 0.2  # for what was answered to reach its reader


class Admission(NamedTuple):
    """Who comes in, and as what: the part of `[control]` that a reload may change."""

    access: Access
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: ControlConfig) -> Admission:
        """Reads the certificates. Raises ConfigurationError or ForbiddenError."""
        context = tls.server_context(settings.tls) if settings.tls is not None else None
        return cls(Access(os.geteuid(), settings.group_role, settings.tls), context)


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers and without its ten wake-ups a second."""

    def __init__(
        self,
        config: uvicorn.Config,
        sock: socket.socket,
        tcp: list[socket.socket],
        admission: Admission,
    ) -> None:
        super().__init__(config)
        self._sock = sock
        self._access = admission.access
        self._remote = (
            Remote(tcp, admission.context, self._connection) if admission.context else None
        )
        self.stop_asked = asyncio.Event()
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_unix_server(
                self._connection, sock=self._sock, backlog=self.config.backlog
            )
        ]
        if self._remote:
            self._remote.start()
        self.started = True
        self.listening.set()

    def _connection(self) -> ControlProtocol:
        return ControlProtocol(
            self.config, self.server_state, asyncio.get_running_loop(), lambda: self._access
        )

    def admit(self, admission: Admission) -> None:
        self._access = admission.access
        if self._remote and admission.context:
            self._remote.context = admission.context
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, ControlProtocol):
                connection.admit_again(admission.access)

    async def main_loop(self) -> None:
        await self.stop_asked.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Let running answers end for a moment, then cancel them; no connection is left open."""
        state, loop = self.server_state, asyncio.get_running_loop()
        for server in self.servers:
            server.close()
        if self._remote:
            await self._remote.close()
        for connection in tuple(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(tuple(state.tasks), timeout=CONTROL_STOP_SECONDS_MAX)
        left = tuple(state.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        deadline = loop.time() + FLUSH_SECONDS
        while state.connections and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn tells of it in no other way
            await asyncio.sleep(0.005)
        for connection in tuple(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


class ControlServer:
    """Serves the control socket from `start` to `stop`. `config` is the daemon's configuration, `extra_metrics` give more families at scrape time."""

    def __init__(
        self,
        controller: Controller,
        config: Settings,
        extra_metrics: Iterable[Callable[[], Iterable[Metric]]] | None = None,
    ) -> None:
        self._settings = config.control
        self._path = config.control.socket
        self.actions = Actions(controller)
        self._lag = LoopLag()
        self._controller = controller
        scrape = Scrape(controller, self._lag, tuple(extra_metrics or ()))
        self._figures = scrape.figures
        controller.listeners.append(self._figures.note)
        self.application = make_application(Context(self.actions, scrape.prepare, self._ready))
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None
        self._bound: listen.BoundSocket | None = None

    def _ready(self) -> bool:
        return (
            self._server is not None
            and not self.actions.stopping
            and bool(getattr(self._controller, "ready", True))
        )

    async def start(self) -> None:
        """Listen. Raises ConfigurationError when the socket or an address cannot be had, ForbiddenError for an unreadable certificate."""
        settings = self._settings
        admission = Admission.of(settings)
        group = listen.group_id("control.group", settings.group) if settings.group else None
        with contextlib.ExitStack() as undo:
            tcp = listen.bind_all(settings.tls.listen, "control.tls.listen") if settings.tls else []
            for bound in tcp:
                undo.callback(bound.close)
            address = UnixAddress(str(self._path))
            (self._bound,) = listen.bind(address, "control.socket", group, make_parents=True)
            undo.pop_all()
        config = uvicorn.Config(
            self.application,
            loop="none",
            http=ControlProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=CONTROL_HEADER_BYTES_MAX,
        )
        self._server = _Uvicorn(config, self._bound.sock, [bound.sock for bound in tcp], admission)
        self._task = asyncio.create_task(self._server.serve(), name="control")
        listening = asyncio.ensure_future(self._server.listening.wait())
        await asyncio.wait((listening, self._task), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            self._task.result()
        self._lag.start()

    def admit(self, admission: Admission) -> None:
        """Take these roles and certificates from now on. Connections that would be somebody else by them are dropped."""
        if self._server is not None:
            self._server.admit(admission)

    async def stop(self) -> None:
        """Release every hold (`stopping`), end the streams, let running commands answer for a moment, and remove the socket."""
        self.actions.stop()
        self._lag.stop()
        if self._server is None or self._task is None or self._bound is None:
            return
        self._bound.remove_file()
        self._server.stop_asked.set()
        await self._task
        self.actions.detach()
        if self._figures.note in self._controller.listeners:
            self._controller.listeners.remove(self._figures.note)
        self._server = None
