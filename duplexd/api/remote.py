"""The TLS listener of the HTTP API: verified clients get connections like those of the Unix socket.

Clients that have not shown a certificate yet are bounded: so many handshakes at once and in a
second, so many seconds each, since each costs the loop that serves volumes a millisecond or two.
Further clients wait in the lobby (`lobby.py`), where silent ones stay. If all places are taken, a
handshake that has lasted for a second or more gives way: its client does not go on. That is why
sockets are accepted here and not by `loop.create_server(ssl=...)`, which begins every handshake at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import FIRST_COMPLETED
from typing import TYPE_CHECKING

import structlog

from duplexd.api.lobby import Lobby
from duplexd.runtime.log import Seldom

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from duplexd.limits import ApiLimits

ACCEPT_PAUSE_SECONDS = 0.1  # after an accept that failed: no descriptors left, mostly
GIVES_WAY_SECONDS = 0.05  # for a handshake that is broken off to end
KEEPALIVE_PROBES = 3
# What the kernel keeps of a client; asyncio decrypts all that is there in one go. In records of a
# byte, 256 KiB of it take 100 ms, in which nobody else is served.
RECEIVE_BYTES = 16 << 10

defects: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.api")
log = Seldom(defects)


class Remote:
    """Accepts on bound sockets from `start` to `close`.

    `context` may be replaced: it is for handshakes that begin later.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        limits: ApiLimits,
    ) -> None:
        self.context = context
        self._sockets = sockets
        self._factory = factory
        self._limits = limits
        self._lobby = Lobby(limits)
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking: dict[asyncio.Task[None], float] = {}  # since when, oldest first

    def start(self) -> None:
        for sock in self._sockets:
            self._run(self._accept_forever(sock))
        self._run(self._begin_forever())

    async def close(self) -> None:
        """Accept no client, break off handshakes. Connections stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lobby.close()
        for sock in self._sockets:
            sock.close()

    def break_off(self) -> None:
        """End the handshakes that have begun: by a `context` that must not be used any more."""
        for task in self._shaking:
            task.cancel()

    def _run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="control over TLS")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept_forever(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(sock)
            except OSError as error:
                log.error("cannot accept a control connection", error=error.strerror or str(error))
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
            else:
                self._receive(client, address)
                await asyncio.sleep(1 / self._accepts_per_second)

    def _receive(self, client: socket.socket, address: tuple[str, int]) -> None:
        """Nothing that one client does ends the accepting of others."""
        try:
            self._lobby.add(client, address)
        except Exception:  # noqa: BLE001  it is logged
            defects.exception("unexpected error of a new control connection, which is closed")
            client.close()

    @property
    def _accepts_per_second(self) -> int:
        """While more are ready than can be served, as many as are: so who comes is served next."""
        limits = self._limits
        crowded = self._lobby.ready >= limits.handshakes_max
        return limits.handshakes_per_second_max if crowded else limits.accepts_per_second_max

    async def _begin_forever(self) -> None:
        while True:
            await self._place()
            guest = await self._lobby.next()
            task = self._run(self._shake_hands(guest.sock, guest.address))
            self._shaking[task] = asyncio.get_running_loop().time()
            task.add_done_callback(self._shaking.pop)
            await asyncio.sleep(1 / self._limits.handshakes_per_second_max)

    async def _place(self) -> None:
        """Return when there is a place for a handshake. The oldest gives way, if it may."""
        while len(self._shaking) >= self._limits.handshakes_max:
            oldest, since = next(iter(self._shaking.items()))
            left_s = since + self._limits.handshake_seconds_min - asyncio.get_running_loop().time()
            if left_s <= 0:
                oldest.cancel()
            seconds = max(left_s, GIVES_WAY_SECONDS)
            await asyncio.wait(self._shaking, timeout=seconds, return_when=FIRST_COMPLETED)

    async def _shake_hands(self, client: socket.socket, address: tuple[str, int]) -> None:
        try:
            watch_for_silence(client, self._limits.peer_silent_seconds_max)
            receive_little(client)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory,
                client,
                ssl=self.context,
                ssl_handshake_timeout=self._limits.handshake_seconds_max,
                ssl_shutdown_timeout=self._limits.stop_seconds_max,
            )
        except OSError as error:  # TLS errors and time-outs are
            log.info(
                "control client refused",
                address=f"{address[0]} port {address[1]}",
                reason=reason(error),
            )


def reason(error: OSError) -> str:
    """Why a handshake failed, in the words of OpenSSL, such as `certificate has expired`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__


def receive_little(sock: socket.socket) -> None:
    """Have the kernel take few bytes at a time: requests are short, and the loop is of all."""
    with contextlib.suppress(OSError):  # it may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


def watch_for_silence(sock: socket.socket, seconds: int) -> None:
    """Send lines at once; have the kernel close the connection of a peer that is silent so long.

    Keep-alive finds one that we wait for, TCP_USER_TIMEOUT one that does not acknowledge.
    """
    with contextlib.suppress(OSError):  # it may be gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds // 2)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 2 // KEEPALIVE_PROBES)
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)
