"""A live control socket over the fake controller, in a thread with the daemon's event loop.

`limits` and `**settings` are those of the server: `ControlPlane(path, limits=ApiLimits(...))`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd.api.server import ControlServer
from duplexd.api.starting import Starting
from duplexd.config.daemon_file import ControlConfig
from duplexd.limits import ApiLimits
from duplexd.runtime.turns import TurnLoop
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

T = TypeVar("T")


class ControlPlane:
    """Started on construction, ended by `stop`. `call` and `run` act in its loop."""

    def __init__(
        self,
        path: Path,
        controller: FakeController | None = None,
        limits: ApiLimits | None = None,
        **settings: Any,
    ) -> None:
        self.path = path
        self.limits = limits or ApiLimits()
        self.settings = ControlConfig(socket=path, **settings)
        self.controller = controller or FakeController()
        self._loop = TurnLoop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="control plane", daemon=True
        )
        self._thread.start()
        self.server: ControlServer = self.run(self._start())
        self.stopped = False

    async def _start(self) -> ControlServer:
        server = ControlServer(Starting(self.controller.name), self.settings, self.limits)
        await server.start()
        await server.listen_remote()
        server.serve(self.controller)
        return server

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, function: Callable[[], T]) -> T:
        async def once() -> T:
            return function()

        return self.run(once())

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.run(self.server.stop())
            left = self.run(_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60)
            self._loop.close()
            assert not left, f"the server has stopped, and left these: {left}"

    def connect(self, timeout_s: float = 60.0) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.path))  # which waits its turn, as a socket with a time-out would not
        sock.settimeout(timeout_s)
        return sock

    def open(
        self, method: str, path: str, body: object = None, raw: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Send a request on a connection of its own; the answer's body is yet to be read."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Connection": "close"})
        return connection.getresponse()

    def ask(
        self, method: str, path: str, body: object = None, raw: bytes | None = None
    ) -> tuple[int, Any]:
        """(status, parsed body)."""
        with self.open(method, path, body, raw) as answer:
            return answer.status, json.loads(answer.read())

    def lines(self, method: str, path: str, body: object = None) -> Iterator[dict[str, Any]]:
        with self.open(method, path, body) as answer:
            assert answer.status == 200, answer.read()
            while line := answer.readline():
                yield json.loads(line)


async def _others() -> list[str]:
    """What runs in this loop beside the caller."""
    return [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
