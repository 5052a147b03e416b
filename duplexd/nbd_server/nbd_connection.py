"""One NBD connection: handshake, then transmission.

asyncio's streams would copy each payload twice and want a task for each request (9-11 us against
2-2.4 us). Here the socket receives into the parser's own buffer, and one wake-up handles all that
arrived. The price is that flow control is explicit: the socket is read only while everything that
was read has a place to go, see `_adjust`.

A client that goes takes its changes with it, those that have not begun: it may send them again over
another connection, and newer ones behind them. So before a change is taken of a client, of what has
just come or of what waited here, the kernel is asked whether it is still there. After DISC it sends
nothing again: all that came before is done, whether it waits for the replies, closes its half
behind it, or has gone altogether.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.known import known
from duplexd.nbd.constants import FLAG_READ_ONLY
from duplexd.nbd.export_flags import negotiated_flags
from duplexd.nbd.handshake import TRANSMISSION
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd.transmission import RECEIVE_BYTES_MIN
from duplexd.nbd_aio.hangup import asks_whether_gone
from duplexd.nbd_server.admitted import Admitted
from duplexd.nbd_server.handed import Handed
from duplexd.nbd_server.negotiation import Negotiation
from duplexd.nbd_server.reach import Access
from duplexd.nbd_server.receive_buffers import ReceiveBuffers, in_use
from duplexd.nbd_server.sockets import tune
from duplexd.nbd_server.stalls import Progress
from duplexd.nbd_server.structured import begin
from duplexd.nbd_server.unreceived import kept

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.backend import Volume
    from duplexd.nbd.exports import Export
    from duplexd.nbd.handshake import Handshake
    from duplexd.nbd.transmission import Receiver
    from duplexd.nbd_server.dispatch import Dispatch
    from duplexd.nbd_server.reach import Listener
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier, Wire
    from duplexd.nbd_server.unreceived import Unreceived


class Connection(Admitted):
    """A client, from accept to close.

    The socket is not read while a request waits in the backlog, a large payload has no room, or the
    client does not take its replies.
    """

    __slots__ = (
        "_buffers",
        "_chosen",
        "_dispatch",
        "_fd",
        "_feeding",
        "_gone_now",
        "_left",
        "_negotiation",
        "_progress",
        "_receiver",
        "_stopping",
        "_timer",
    )

    def __init__(self, server: Server, listener: Listener) -> None:
        super().__init__(server, listener)
        self._chosen = "", 0, 0, Negotiated()  # the export as announced; what was agreed on
        self._negotiation: Negotiation | None = None  # until the client has chosen its volume
        self._receiver: Receiver | None = None
        self._buffers = ReceiveBuffers(0, 0, server.waiting)
        self._dispatch: Dispatch | None = None
        self._fd = -1
        self._feeding = False
        self._left: Unreceived | None = None
        self._progress = Progress(server.limits)
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    # Life

    def connection_made(self, wire: Wire) -> None:
        """Greet, unless there is no place for it."""
        self._wire = self._socket = wire
        if not self._takes_place():
            wire.abort()
            return
        self._server.connections.add(self)
        self._fd = wire.sock.fileno()
        self._gone_now = asks_whether_gone(self._fd)
        tune(wire.sock, self._server.limits)
        self._greet(wire)

    def _greet(self, wire: Wire) -> None:
        self._negotiation = Negotiation(
            self._server, self.exports, wire, self._negotiated, self._secure
        )

    def eof_received(self) -> None:
        """The client sends nothing more. Without DISC before, it has gone."""
        if self._receiver is not None and self._receiver.ended:
            self._adjust()
        else:
            self._drop()
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is about to be closed; after an OSError perhaps because a reply met nobody."""
        self._server.hangups.unwatch(self._fd)
        self._fd = -1  # another connection may get the number, while this one is not done yet
        if isinstance(error, OSError) and not self._stopping:
            self._find_goodbye()
        receiver, dispatch = self._receiver, self._dispatch
        ended = receiver is not None and receiver.ended
        if dispatch is not None and (self._left is not None or (ended and dispatch.is_unfinished)):
            self.lost = True
            dispatch.replies_are_taken()  # they go nowhere
            dispatch.stalled = True
            self._progressed()
        else:
            self._gone()

    def _gone(self) -> None:
        self.lost = False
        self._drop()
        self._end_negotiation()
        self._receiver = self._dispatch = None  # a cycle; buffers would wait for the collector
        if self._timer is not None:
            self._timer.cancel()
        self._buffers.smaller()  # gives back what it counted
        self._give_place_back()
        self._server.disconnected(self)
        if self.volume is not None:
            self._server.left(self, self.volume)
            self.volume = None

    def stop(self) -> None:
        """Take no further request; close when what is in flight is answered.

        What had come before and was not taken gets no answer: a client that connects to the next
        daemon sends it again, and an error would end in its file system. What comes from now on,
        while something is in flight still, is refused, so that nobody waits for it.

        After DISC nobody sends it again: all of it is done, and the connection ends by itself.
        """
        if self.is_ending or (self._gone_now(0) and self._has_left()):
            return
        self._stopping = True
        if self._dispatch is None:
            self._close()
        else:
            self._dispatch.stop()
            self._adjust()

    @property
    def is_ending(self) -> bool:
        """See `Served`."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None or dispatch.dropped:
            return False
        if self._left is not None:
            return True
        return receiver.ended and (dispatch.is_unfinished or not self._wire.unsent_bytes)

    @property
    def may_leave(self) -> bool:
        """Whether `leave` returns its client some time, if the client stays."""
        dispatch, closing = self._dispatch, self._stopping or self._wire.is_closing()
        if dispatch is None or dispatch.dropped or dispatch.ended or dispatch.vanished or closing:
            return False
        return self._left is None and self._wire is self._socket

    def leave(self) -> Handed | None:
        """Take nothing more from the socket. Returns the client, for the next program,
        once nothing of it is unfinished; nobody serves it from then on. None: ask again.
        """
        receiver, dispatch, volume = self._receiver, self._dispatch, self.volume
        if not self.may_leave or receiver is None or dispatch is None or volume is None:
            return None
        if not dispatch.leaving:
            dispatch.leaving = True
            self._server.reads.resume(volume)
        self._adjust()
        if not dispatch.rests or not receiver.may_be_left or receiver.broken:
            return None
        waiting = [receiver.packed(request) for request in dispatch.backlog]
        if None in waiting:
            return None
        unread = b"".join([*filter(None, waiting), receiver.left(), self._socket.received_before()])
        name, size, flags, negotiated = self._chosen
        self._server.hangups.unwatch(self._fd)
        handed = Handed(
            self._socket.sock, self.exports.listener.address, name, size, flags,
            negotiated, unread, self._socket.give_away(),
        )  # fmt: skip
        self._gone()
        return handed

    def abort(self) -> None:
        """Close now."""
        if self.lost:
            self._gone()
        else:
            self._drop()
            self._wire.abort()

    def _has_left(self, received: int = 0) -> bool:
        """Whether nothing is to be taken of a client that has gone: after DISC all is done, in
        turns. Of one that just sent so many bytes, and may wait for them, reads are taken.
        """
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None or receiver.ended:
            return False
        is_known = self.lost or self._left is not None or (received > 0 and dispatch.vanished)
        if is_known:
            return False
        if self._find_goodbye(received):
            self._wire.pause_reading()
            self._progressed()
        elif received:
            dispatch.vanish()
        else:
            self.abort()
        return not (received and dispatch.vanished)

    def _find_goodbye(self, count: int = 0) -> bool:
        """It has gone. Keep what was not taken, if DISC is the last: replies lose the socket."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None or dispatch.dropped or receiver.ended:
            return False
        if self._left is None:
            self._left = kept(receiver, count, self._wire, self._server.waiting)
        return self._left is not None

    def _drop(self) -> None:
        """Nothing more is read or answered; what has not started is dropped."""
        if self._left:
            self._left.drop()
        self._left = None
        if self._dispatch is not None:
            self._dispatch.drop()

    def _close(self) -> None:
        """Close once the client has taken its replies, or after a while."""
        self._end_negotiation()
        self._wire.close()
        if self._timer is not None:
            self._timer.cancel()
        server = self._server
        self._timer = server.loop.call_later(server.limits.close_seconds_max, self._wire.abort)

    # Receiving

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the socket puts what it receives."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None:
            return known(self._negotiation, "a socket is read by somebody").input
        if not dispatch.in_flight:
            return receiver.buffer()
        return receiver.behind() or self._exchanged(receiver, dispatch)

    def buffer_updated(self, count: int) -> None:
        """One wake-up."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None:
            if self._negotiation is not None:
                self._negotiation.received(count)
            return
        if count and self._gone_now(0) and self._has_left(count):
            return
        requests = receiver.received(count)
        if requests:
            dispatch.serve(requests)
        if (
            dispatch.backlog
            or dispatch.ended
            or receiver.wants_memory
            or receiver.more
            or receiver.broken
            or dispatch.write_paused
        ):
            self._adjust()

    def _exchanged(self, receiver: Receiver, dispatch: Dispatch) -> memoryview:
        """Receive into another buffer if changes use this one, which is full."""
        changes, dispatch.lent = dispatch.lent, []
        if in_use(changes):
            receiver.exchange(self._buffers.lend(receiver.whole, changes))
        return receiver.buffer()

    def _end_negotiation(self) -> None:
        if self._negotiation is not None:
            self._negotiation.cancel()
            self._negotiation = None

    def _secure(self, up: Callable[[], None]) -> Carrier:
        return self._secured_by(self, up)

    def _negotiated(self, handshake: Handshake) -> None:
        """The client chose its volume, or there is nothing more to say to it."""
        volume, export = None, handshake.export
        if handshake.state == TRANSMISSION and export is not None and self._still(export):
            volume = self._server.backend.volume(export.name)
        if volume is None or export is None:
            self._close()
        else:
            self._begin(volume, export, handshake.negotiated, handshake.rest())

    def _begin(self, volume: Volume, export: Export, negotiated: Negotiated, rest: bytes) -> None:
        """`export`: the volume as the handshake announced it; `rest`: what came behind that."""
        flags = export.flags
        self._end_negotiation()
        self._access = Access.READ_ONLY if flags & FLAG_READ_ONLY else Access.FULL
        self.volume = volume
        server, limits = self._server, self._server.limits
        server.joined(self, volume, self.exports.caller)
        self._chosen = export.name, export.size, flags, negotiated
        self._wire.high_bytes = limits.connection_unsent_bytes_max
        flags |= negotiated_flags(negotiated)
        receiver, self._dispatch = begin(
            negotiated, server, volume, self._wire, self._progressed, flags
        )
        room = max(limits.receive_bytes_min, RECEIVE_BYTES_MIN, 2 * len(rest))
        self._buffers = ReceiveBuffers(room, limits.connection_receive_bytes, server.waiting)
        self._receiver = receiver(room, self._dispatch.allocate, self._buffers.larger)
        self._receiver.buffer()[: len(rest)] = rest
        self.buffer_updated(len(rest))

    # Stopping and going on

    def pause_writing(self) -> None:
        """The client does not take its replies."""
        if self._dispatch is not None:
            self._dispatch.write_paused = True  # the next wake-up stops reading

    def resume_writing(self) -> None:
        """The client has taken most of its replies."""
        if self._negotiation is not None:
            self._negotiation.resumed()
        elif self._dispatch is not None:
            self._dispatch.replies_are_taken()
            self._progressed()

    def _progressed(self) -> None:
        """Go on soon; not at once, for this may be called from within the write path."""
        self._server.backlogs.ask(self)

    def turn(self) -> None:
        """See `Working`: go on."""
        dispatch = self._dispatch
        if dispatch is None or dispatch.dropped:
            return
        receiver = self._receiver
        if receiver is not None:
            if (dispatch.backlog or receiver.more) and self._gone_now(0) and self._has_left():
                return
            if dispatch.backlog:
                dispatch.go_on()
            if receiver.more and not dispatch.backlog:
                dispatch.serve(receiver.received(0))
        self._adjust()

    def _adjust(self) -> None:
        """Read, pause or close, whichever the present state asks for."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None or dispatch.dropped:
            return
        if self._wire.is_closing() and not self.lost:
            return
        if receiver.broken:
            self._server.log.info(
                "NBD client broke the protocol",
                volume=self.volume and self.volume.name,
                reason=receiver.broken,
            )
            self._drop()
            self._leave()
        elif (dispatch.ended or self._stopping) and not dispatch.is_unfinished:
            self._leave()
        elif receiver.ended:  # nothing comes after DISC, and what came before is done anyway
            dispatch.stalled = True
            self._wire.pause_reading()
            self._server.hangups.unwatch(self._fd)
        elif receiver.more and not dispatch.backlog and not dispatch.write_paused:
            self._wire.pause_reading()
            self._progressed()  # others first
        elif (
            dispatch.backlog
            or dispatch.write_paused
            or (receiver.wants_memory and not dispatch.has_room())
        ):
            dispatch.stalled = True
            self._wire.pause_reading()
            if self._left is None and not self.lost:
                self._server.hangups.watch(self._fd, self._has_left)
        elif self._left is not None:
            self._feed(receiver, self._left)
        elif dispatch.leaving and receiver.may_be_left:
            dispatch.stalled = True
            self._wire.pause_reading()
        else:
            dispatch.stalled = self._stopping
            self._server.hangups.unwatch(self._fd)
            self._wire.resume_reading()

    def _feed(self, receiver: Receiver, left: Unreceived) -> None:
        """Go on with what a client left behind, a piece in each turn of the loop."""
        if self._feeding:  # within the call below
            return
        self._feeding = True
        self.buffer_updated(left.take(self.get_buffer(-1)))
        self._feeding = False
        if self._receiver is None:
            return  # that was its end
        if left or receiver.ended or receiver.more:
            self._progressed()
        else:  # what looked like DISC was part of a payload
            self._drop()
            self._leave()

    def _leave(self) -> None:
        if self.lost:
            self._gone()
        else:
            self._close()

    def look(self, now: float) -> None:
        """See `Served`. A receive buffer that has grown is given back when nothing came."""
        receiver, dispatch, wire, socket = self._receiver, self._dispatch, self._wire, self._socket
        if receiver is None or dispatch is None or self.lost:
            return
        if why := self._progress.look(now, receiver, wire, socket, reads=not dispatch.stalled):
            self._server.log.warning(
                "NBD client is disconnected", caller=str(self.exports.caller), reason=why
            )
            self.abort()
        elif self._progress.silent and not (dispatch.is_unfinished or receiver.unfinished):
            smaller = self._buffers.smaller()
            if smaller is not None:
                receiver.exchange(smaller)
