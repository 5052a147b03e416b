"""TLS between the socket of an NBD client and its connection.

To the connection it is what `Wire` is, to the `Wire` it is a connection, so neither knows. The TLS
itself is computed in memory (`ssl.MemoryBIO`): nothing here waits, and asyncio's own TLS, which
copies everything three times and is bound to its transports, is not needed.

Both directions are bounded. Ciphertext is received only when all that came before is decrypted and
has a place, so at most one buffer of it waits. Replies are encrypted in pieces, and only while the
client takes what was encrypted; the rest waits as it is, as in `Wire`. What is longer than a piece,
or behind something that waits, goes in turns with the long replies of all other connections:
encrypting takes the loop longer than sending. And so does what came in many records: one of a
single byte, or of none, costs as much as one of a thousand. What a client has left behind is
decrypted at once, up to a socket's buffer of it: whether DISC is the last of it has to be known.

An end without close_notify is an end like any other: requests have a length, so nothing can be cut
off unnoticed. Ours is sent, and no answer to it is waited for.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, cast

import structlog

from duplexd.nbd_server.tls_records import Ciphertext
from duplexd.runtime.pipes import Pipe

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from duplexd.nbd_server.sockets import Data, Part, Receiving, Wire
    from duplexd.net.certificate_names import Certificate

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

RECEIVE_BYTES = 128 << 10  # of ciphertext; eight records, or thousands of a few bytes
RECORDS_MAX = 64  # that are decrypted in a turn
UNREAD_RECORDS_MAX = 4096  # of what a client left behind, which is looked at within one
ENCRYPTED_BYTES = 256 << 10  # that wait for the client, and the most that is encrypted in a turn


class TlsWire:
    """The server's side of TLS on `wire`. `up` is called once the handshake is complete."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: Wire,
        context: ssl.SSLContext,
        connection: Receiving,
        up: Callable[[], None],
    ) -> None:
        self.sock: socket.socket = wire.sock
        self.unsent_bytes = 0  # in plain text
        self.takes_pipes = False
        self.high_bytes = wire.high_bytes
        self._budget = wire.budget
        self._sends = wire.sends
        self._loop = loop
        self._wire = wire
        self._connection = connection
        self._up: Callable[[], None] | None = up  # until it was called
        incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(incoming, self._outgoing, server_side=True)
        self._ciphertext = Ciphertext(incoming)
        self._input = memoryview(bytearray(RECEIVE_BYTES))
        self._ahead = memoryview(b"")  # decrypted before the connection asked for it
        self._unsent: deque[memoryview] = deque()
        self._again: asyncio.Handle | None = None  # decrypts what is here
        self._behind = False  # its turn comes to decrypt more
        self._reading = True
        self._closing = False
        self._paused = False  # the connection was told to write no more
        self._full = False  # the client does not take what was encrypted
        wire.high_bytes = ENCRYPTED_BYTES
        wire.hand_over(self)

    @property
    def shaking_hands(self) -> bool:
        """Whether the client has not shown yet who it is."""
        return self._up is not None

    @property
    def certificate(self) -> Certificate:
        """The client's, verified; empty if it has none."""
        return self._tls.getpeercert() or {}

    @property
    def version(self) -> str:
        """Such as TLSv1.3."""
        return self._tls.version() or ""

    # ------------------------------------------------------------- what a connection calls on it

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the client has gone."""
        return self._closing or self._wire.is_closing()

    def resume_reading(self) -> None:
        """Harmless if it reads. What is here already comes first."""
        if self._reading or self._closing:
            return
        self._reading = True  # the socket follows
        if self._again is None:
            self._again = self._loop.call_soon(self._decrypt_resumed)

    def pause_reading(self) -> None:
        """Harmless if it does not read."""
        self._reading = False
        self._wire.pause_reading()

    def write(self, data: Data) -> bool:
        """Send; False if some of `data` has to be kept, as it is, until it can be sent."""
        if self._wire.is_closing():
            return True
        view = memoryview(data)
        if not self._unsent and not self._full and len(view) <= ENCRYPTED_BYTES:
            self._encrypt(view)
            return True
        self._keep(view)
        return False

    def pass_on(self, head: bytes, pipe: Pipe) -> None:
        """See `Wire`. For what is encrypted a pipe saves nothing."""
        self.queue([head, pipe])

    def queue(self, parts: Sequence[Part]) -> None:
        """Send, in turns with others. The parts have to be kept, as they are, until then."""
        if not self._wire.is_closing():
            for part in parts:
                self._keep(memoryview(part.read() if isinstance(part, Pipe) else part))

    def _keep(self, view: memoryview) -> None:
        self._unsent.append(view)
        self.unsent_bytes += len(view)
        self._budget.add(len(view))
        if not self._full:
            self._sends.ask(self)
        if not self._paused and (self.unsent_bytes > self.high_bytes or self._budget.full):
            self._paused = True
            self._connection.pause_writing()

    def close(self) -> None:
        """Read no more; close when the client has taken its replies and close_notify."""
        self._closing = True
        self.pause_reading()
        if not self._unsent:
            self._say_goodbye()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        self._wire.abort()

    def unread(self) -> bytes:
        """See `Wire`. Nothing if that would keep the loop too long."""
        ciphertext = self._wire.unread()
        self._wire.take_unread(len(ciphertext))
        self._ciphertext.came(memoryview(ciphertext))
        pieces, records_max, ended = list[bytes](), UNREAD_RECORDS_MAX, False
        while records_max and not ended:
            count, ended, records_max = self._read_into(self._input, records_max)
            pieces.append(bytes(self._input[:count]))
            ended = ended or (not count and records_max > 0)
        self._ahead = memoryview(b"".join(pieces))
        return bytes(self._ahead) if ended else b""

    def take_unread(self, count: int) -> None:
        """See `Wire`."""
        self._ahead = self._ahead[count:]

    # ------------------------------------------------------------- what the wire calls on it

    def connection_made(self, _wire: Wire, /) -> None:
        """Never: the connection was made before."""

    def get_buffer(self, _sizehint: int, /) -> memoryview:
        """Where ciphertext goes."""
        return self._input

    def buffer_updated(self, count: int, /) -> None:
        """Ciphertext came."""
        self._ciphertext.came(self._input[:count])
        self._decrypt()

    def eof_received(self) -> None:
        """The client has gone, or shut down its side."""
        self._reading = False
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """The client does not take what was encrypted."""
        self._full = True

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._full = False
        if self._unsent:
            self._sends.ask(self)
        else:
            self._go_on()

    def connection_lost(self, error: Exception | None, /) -> None:
        """The socket is closed."""
        self._closing = True
        self._reading = False
        self._sends.withdraw(self)
        self._unsent.clear()
        self._budget.add(-self.unsent_bytes)
        self.unsent_bytes = 0
        if self._again is not None:
            self._again.cancel()
        self._connection.connection_lost(error)

    # ---------------------------------------------------------------------------------- receiving

    def _decrypt_resumed(self) -> None:
        self._again = None
        self._decrypt_again()

    def _decrypt_again(self) -> None:
        if not self._wire.is_closing():
            self._decrypt()

    def _decrypt(self) -> None:
        """Pass on what came, until the connection pauses or nothing is left; the rest of many
        records in turns with others.
        """
        records_max = RECORDS_MAX
        if self._up is not None:
            records_max = self._shake_hands(self._up, records_max)
        while self._reading and not self._closing:
            if not records_max:
                self._behind = True
                self._sends.ask(self)
                break
            if self._up is not None:
                self._wire.resume_reading()
                return
            buffer = self._connection.get_buffer(-1)
            count, ended, records_max = self._read_into(buffer, records_max)
            if count:
                self._connection.buffer_updated(count)
            elif ended:  # found anew each time: the end comes behind all that was sent before it
                self._wire.pause_reading()
                self.eof_received()
                return
            elif records_max:
                self._wire.resume_reading()
                return
        self._wire.pause_reading()

    def _shake_hands(self, up: Callable[[], None], records_max: int) -> int:
        """Go on with the handshake as far as what came goes. Returns how many records more there
        may be in this turn.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if records_max and self._ciphertext.pass_on():
                    records_max -= 1
                    continue
                self._flush()
                return records_max
            except ssl.SSLError as error:
                self._flush()  # an alert says to the client what is wrong
                log.debug("NBD client failed in TLS", reason=reason(error))
                self._closing = True
                self._wire.close()
                return records_max
            self._flush()
            self._up = None
            up()
            return records_max

    def _read_into(self, buffer: memoryview, records_max: int) -> tuple[int, bool, int]:
        """Fill the buffer as far as there is something: how far, whether that was the end, and how
        many records more there may be in this turn.
        """
        filled, ended = len(self._ahead[: len(buffer)]), False
        buffer[:filled], self._ahead = self._ahead[:filled], self._ahead[filled:]
        while filled < len(buffer) and not ended:
            try:
                count = cast("int", self._tls.read(len(buffer) - filled, buffer[filled:]))
            except ssl.SSLWantReadError:
                if not records_max or not self._ciphertext.pass_on():
                    break
                records_max -= 1
            except ssl.SSLError as error:
                log.debug("NBD client broke TLS", reason=reason(error))
                ended = True
            else:
                filled += count
                ended = not count  # close_notify
        self._flush()  # what TLS itself has to answer
        return filled, ended, records_max

    # ------------------------------------------------------------------------------------ sending

    def turn(self) -> None:
        """See `Working`: decrypt more of what came, then encrypt and send a piece of what waits, if
        the client takes it.
        """
        if self._behind:
            self._behind = False
            self._decrypt_again()
        unsent, left = self._unsent, ENCRYPTED_BYTES
        while unsent and left and not self._full and not self._wire.is_closing():
            piece, rest = unsent[0][:left], unsent[0][left:]
            if len(rest):
                unsent[0] = rest
            else:
                unsent.popleft()
            left -= len(piece)
            self.unsent_bytes -= len(piece)
            self._budget.add(-len(piece))
            self._encrypt(piece)
        if unsent and not self._full and not self._wire.is_closing():
            self._sends.ask(self)
        self._go_on()

    def _go_on(self) -> None:
        """Let the connection write again, or leave, once enough is sent."""
        low_bytes = 0 if self._budget.full else self.high_bytes // 4
        if self._paused and self.unsent_bytes <= low_bytes:
            self._paused = False
            self._connection.resume_writing()
        if self._closing and not self._unsent:
            self._say_goodbye()

    def _encrypt(self, data: memoryview) -> None:
        """A client that broke TLS may wait for a reply still. The write path, which brings it, must
        not meet the error.
        """
        position = 0
        try:
            while position < len(data):
                position += self._tls.write(data[position:])
        except ssl.SSLError:
            self.abort()
        else:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._wire.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        if self._up is None and not self._wire.is_closing():
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._wire.close()


def reason(error: ssl.SSLError) -> str:
    """In the words of OpenSSL, such as `certificate has expired`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).lower().replace("_", " ")
