"""A READ that is longer than the room that is left, made in the room that every connection has.

Clients that do not take their replies can fill the memory of all (`read_bytes_max`). A long READ of
another client would then wait for them. Instead a small piece of it is read and sent, and the next
one is read when the client has taken that: it goes on as fast as its own client takes it. When
there is room again, the rest is read as a whole.

The header of the reply says that all is well, and is sent with the first piece. So an error in a
later one closes the connection, and nothing else may be sent in between: the READ begins when
nothing else of its connection is in flight, and nothing is taken until it has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.nbd_server.long_read import LongRead

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Volume
    from duplexd.limits import NbdLimits
    from duplexd.nbd_server.budget import Budget
    from duplexd.nbd_server.long_read import ReadTurns
    from duplexd.nbd_server.sockets import Carrier


class Owner(Protocol):
    """The connection that it came over. `dropped`: the client has gone. `since`: when it took what
    it takes now (monotonic seconds).
    """

    dropped: bool
    since: float


class NarrowRead:
    """`done(errno, self)` is called once, unless the client has gone: when the last piece is on its
    way, or could not be read. `begun`: the client has got a part of the reply.
    """

    __slots__ = (
        "_budget", "_done", "_head", "_left", "_limits", "_offset", "_owner", "_reads", "_volume",
        "_wire", "begun", "since",
    )  # fmt: skip

    # Of the owner of a `LongRead`: a piece is asked for only when the client takes it
    leaving = False
    takes_pipes = False
    write_paused = False

    def __init__(
        self,
        owner: Owner,
        wire: Carrier,
        volume: Volume,
        offset: int,
        length: int,
        head: bytes,
        reads: ReadTurns,
        budget: Budget,
        limits: NbdLimits,
        done: Callable[[int, NarrowRead], None],
    ) -> None:
        """`head`: of a reply that has all of the content."""
        self._owner = owner
        self._wire = wire
        self._volume = volume
        self._offset = offset
        self._left = length
        self._head = head
        self._reads = reads
        self._budget = budget
        self._limits = limits
        self._done = done
        self.begun = False
        self.since = owner.since

    @property
    def dropped(self) -> bool:
        """Whether the client has gone."""
        return self._owner.dropped

    def resume(self) -> None:
        """Read the next piece if the client has taken the one before, else wait for that: what it
        takes is given back to the budget.
        """
        if self.dropped:
            return
        if self._wire.unsent_bytes:
            self._budget.wait(self)
            return
        length, limits = self._left, self._limits
        if not self._budget.fits(length):
            length = min(length, limits.piece_bytes_min)
        self._budget.add(length)
        piece_bytes = limits.piece_bytes_max
        self._reads.ask(
            LongRead(self, self._volume, self._offset, length, 0, piece_bytes, False, self._read)
        )

    def _read(self, number: int, read: LongRead) -> None:
        self._budget.add(-read.length)
        if self.dropped:
            return
        if number:
            self._done(number, self)
            return
        content = list(read.views(read.offset, read.length))
        self._wire.queue(content if self.begun else [self._head, *content])
        self.begun = True
        self._offset += read.length
        self._left -= read.length
        if self._left:
            self.resume()
        else:
            self._done(0, self)
