"""The socket of one NBD client, and the listening socket that it came from.

In front of a connection it is what an asyncio transport is, with the methods that this room needs.
asyncio's own would copy what a socket does not take at once, which of a large reply is nearly all
of it (1.8 times the CPU of a 1 MiB read), and it has twice the calls for a small one. Here unsent
replies wait as they are, and go out together in one `sendmsg`.

`Wire` calls a connection as asyncio calls a `BufferedProtocol`, and never from within `write`,
`close` or `abort`, except for `pause_writing`.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from duplexd.nbd_server.goodbye import drop_unread, unread_of
from duplexd.net.listen import LISTEN_BACKLOG
from duplexd.runtime.pipes import Pipe

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from duplexd.limits import NbdLimits
    from duplexd.nbd_server.budget import Budget
    from duplexd.nbd_server.round_robin import RoundRobin

    Data = bytes | bytearray | memoryview
    Part = Data | Pipe

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

BUFFERS_SENT_MAX = 64  # in one call
UNIX_SEND_BYTES = 1 << 20
# More of a reply is sent in turns with other connections, so much in each
SENT_BYTES_MAX = 512 << 10
ACCEPTED_MAX = 64  # in one turn of the loop
NO_ROOM_SECONDS = 1.0  # until the next attempt to accept when there are no descriptors
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Carrier(Protocol):
    """What a connection has in front of it: a `Wire`, or TLS on one."""

    sock: socket.socket
    unsent_bytes: int
    high_bytes: int
    takes_pipes: bool  # as parts to `queue` and `pass_on`

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...

    def write(self, data: Data) -> bool: ...

    def queue(self, parts: Sequence[Part]) -> None: ...

    def pass_on(self, head: bytes, pipe: Pipe) -> None: ...

    def is_closing(self) -> bool: ...

    def unread(self) -> bytes: ...

    def take_unread(self, count: int) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Receiving(Protocol):
    """A connection, as its socket sees it; see `asyncio.BufferedProtocol`."""

    def connection_made(self, wire: Wire, /) -> None: ...

    def get_buffer(self, sizehint: int, /) -> memoryview: ...

    def buffer_updated(self, count: int, /) -> None: ...

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None, /) -> None: ...


class Wire:
    """A connected socket. `unsent_bytes`: what the client has not taken; beyond `high_bytes` the
    connection is paused, until a quarter of that is left. They are in a `budget`; when that is
    full, the connection is paused while there are any.

    `received_bytes` and, of what it did not take at once, `sent_bytes` show whether the client goes
    on.
    """

    __slots__ = (
        "_closing", "_connection", "_fd", "_loop", "_lost", "_paused", "_reading", "_unsent",
        "_watched", "budget", "high_bytes", "received_bytes", "sends", "sent_bytes", "sock",
        "takes_pipes", "unsent_bytes",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Receiving,
        budget: Budget,
        sends: RoundRobin,
    ) -> None:
        """`sends`: turns of those that have long replies to send."""
        self.sock = sock
        self.budget = budget
        self.received_bytes = 0
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.high_bytes = 64 << 10
        self.takes_pipes = sock.family == socket.AF_UNIX
        self._loop = loop
        self._connection = connection
        # asyncio asks a socket for both of its addresses when it is not registered yet
        self._fd = sock.fileno()
        self._unsent: deque[memoryview | Pipe] = deque()
        self._closing = False  # when the replies are sent
        self._lost = False  # `connection_lost` was called, or will be
        self._paused = False
        self._reading = False
        self.sends = sends
        self._watched = False  # the loop says when the client takes more

    def start(self) -> None:
        """Introduce it to the connection, and read."""
        try:
            self._connection.connection_made(self)
        except Exception as error:
            log.exception("unexpected error of a new NBD connection, which is closed")
            self._lose(error)
        self.resume_reading()

    def hand_over(self, connection: Receiving) -> None:
        """Call another one from now on: what puts itself between the two."""
        self._connection = connection

    # ------------------------------------------------------------------------------- receiving

    def resume_reading(self) -> None:
        """Harmless if it reads."""
        if not (self._reading or self._closing):
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause_reading(self) -> None:
        """Harmless if it does not read."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        connection = self._connection
        try:
            count = self.sock.recv_into(connection.get_buffer(-1))
            if count:
                self.received_bytes += count
                connection.buffer_updated(count)
            else:
                self.pause_reading()
                connection.eof_received()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
        except Exception as error:
            log.exception("unexpected error in an NBD connection, which is closed")
            self._lose(error)

    # --------------------------------------------------------------------------------- sending

    def write(self, data: Data) -> bool:
        """Send; False if some of `data` has to be kept, as it is, until it can be sent."""
        if self._lost:
            return True
        if not self._unsent:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return True
            if sent == len(data):
                return True
            data = memoryview(data)[sent:]
            self._watch()
        self._keep(data)
        return False

    def pass_on(self, head: bytes, pipe: Pipe) -> None:
        """Send, first `head`, then what is in the pipe."""
        if self.write(head):
            if self._lost:
                return
            try:
                pipe.send(self._fd)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._lose(error)
                return
            if not len(pipe):
                return
            self._watch()
        self._keep(pipe)

    def queue(self, parts: Sequence[Part]) -> None:
        """Send, in turns with others. The parts have to be kept, as they are, until then."""
        if self._lost:
            return
        if not self._unsent:
            self.sends.ask(self)
        for part in parts:
            self._keep(part)

    def _keep(self, data: Part) -> None:
        self._unsent.append(data if isinstance(data, Pipe) else memoryview(data))
        self.unsent_bytes += len(data)
        self.budget.add(len(data))
        if not self._paused and (self.unsent_bytes > self.high_bytes or self.budget.full):
            self._paused = True
            self._connection.pause_writing()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_writer(self._fd, self._writable)

    def _watch_no_longer(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        if self.unsent_bytes > SENT_BYTES_MAX:
            self._watch_no_longer()
            self.sends.ask(self)
        else:
            self.turn()

    def turn(self) -> None:
        """See `Working`: send some of what the client has not taken."""
        unsent, first = self._unsent, self._unsent[0]
        try:
            if isinstance(first, Pipe):
                wanted, sent = len(first), first.send(self._fd)
            else:
                views = self._next()
                wanted, sent = sum(map(len, views)), self.sock.sendmsg(views)
        except (BlockingIOError, InterruptedError):
            self._watch()
            return
        except OSError as error:
            self._lose(error)
            return
        self.unsent_bytes -= sent
        self.sent_bytes += sent
        self.budget.add(-sent)
        self._take_off(sent)
        if not unsent:
            self._watch_no_longer()
        elif sent == wanted and not self._watched:
            self.sends.ask(self)
        else:
            self._watch()
        low_bytes = 0 if self.budget.full else self.high_bytes // 4
        if self._paused and self.unsent_bytes <= low_bytes:
            self._paused = False
            self._connection.resume_writing()
        if self._closing and not unsent:
            self._lose(None)

    def _take_off(self, sent: int) -> None:
        unsent = self._unsent
        first = unsent[0]
        if isinstance(first, Pipe):  # it has taken off its own
            if not len(first):
                unsent.popleft()
            return
        while not isinstance(first, Pipe) and sent >= len(first):
            sent -= len(unsent.popleft())
            if not unsent:
                return
            first = unsent[0]
        if not isinstance(first, Pipe):
            unsent[0] = first[sent:]

    def _next(self) -> list[memoryview]:
        """What is sent in one call, up to the next pipe."""
        views: list[memoryview] = []
        left = SENT_BYTES_MAX
        for view in self._unsent:
            if isinstance(view, Pipe):
                break
            views.append(view[:left])
            left -= len(views[-1])
            if not left or len(views) == BUFFERS_SENT_MAX:
                break
        return views

    # ----------------------------------------------------------------------------------- ending

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the client has gone."""
        return self._closing

    def unread(self) -> bytes:
        """What the client has sent and was not received, once it sends no more; it stays there."""
        return unread_of(self.sock)

    def take_unread(self, count: int) -> None:
        """So many bytes of it are taken: a socket that is closed with some in it resets the
        connection, and the client loses replies.
        """
        drop_unread(self.sock, count)

    def close(self) -> None:
        """Read no more; close when the client has taken its replies."""
        self._closing = True
        self.pause_reading()
        if not self._unsent:
            self._lose(None)

    def abort(self) -> None:
        """Close now."""
        self._lose(None)

    def received_before(self) -> bytes:
        """What another program has received and is still to be received here: see `Resumed`."""
        return b""

    def give_away(self) -> bytes:
        """Leave the socket, which stays open, to somebody else. Returns what the client has not
        taken. The connection is not called any more.
        """
        unsent = b"".join(
            part.read() if isinstance(part, Pipe) else bytes(part) for part in self._unsent
        )
        self._closing = True
        self._leave()
        return unsent

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self._lost:
            self._leave()
            self._loop.call_soon(self._end, error)

    def _leave(self) -> None:
        self._lost = True
        self.pause_reading()
        self._watch_no_longer()
        self.sends.withdraw(self)
        if self._unsent:
            self._unsent.clear()
            self.budget.add(-self.unsent_bytes)
            self.unsent_bytes = 0

    def _end(self, error: Exception | None) -> None:
        try:
            self._connection.connection_lost(error)
        finally:
            self.sock.close()


class Acceptor:
    """Makes a wire for each client that arrives at a listening socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connect: Callable[[], Receiving],
        budget: Budget,
        sends: RoundRobin,
    ) -> None:
        """`budget`: of replies that wait for their clients; `sends`: of long ones."""
        self._sends = sends
        self._budget = budget
        self._loop = loop
        self._sock = sock
        self._connect = connect
        self._again: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(LISTEN_BACKLOG)
        self._listen()

    def close(self) -> None:
        """Accept nobody, and close the listening socket."""
        self.cease()
        self._sock.close()

    def cease(self) -> None:
        """Accept nobody. Who comes waits in the listening socket, which stays open."""
        if self._again is not None:
            self._again.cancel()
        else:
            self._loop.remove_reader(self._sock)

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                log.error("NBD clients have to wait", reason=error.strerror)
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(NO_ROOM_SECONDS, self._listen)
                return
            sock.setblocking(False)
            Wire(self._loop, sock, self._connect(), self._budget, self._sends).start()


def tune(sock: socket.socket, limits: NbdLimits) -> None:
    """Replies leave at once, a peer that vanished is noticed. The buffer of a Unix socket is made
    large, because a large reply is sent in pieces of that size; that of TCP grows by itself.
    """
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, limits.keepalive_idle_seconds),
        (socket.TCP_KEEPINTVL, limits.keepalive_interval_seconds),
        (socket.TCP_KEEPCNT, limits.keepalive_probes),
        (socket.TCP_USER_TIMEOUT, int(1000 * limits.stall_seconds_max)),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
