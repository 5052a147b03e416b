"""READs that are too long for one call, and whose piece is read next.

A read of 32 MiB fills a new buffer of that size, and Python does that while nothing else runs: the
loop stood still for 10 ms and more with each. So long READs are made of pieces, whose buffers are
small and used again.

The pieces of a volume take turns by connection, and few of them are read at once: copying from the
page cache takes a processor, which the loop needs, too, and the threads of a disk are also those of
others who read little. The reply is sent when all pieces are there. To send each as it comes would
take less memory, but an error could then be reported by closing the connection only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from duplexd.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.backend import Backend, Extent, Volume
    from duplexd.limits import NbdLimits

    # errno, and the read itself
    Done = Callable[[int, "LongRead"], None]

ALIGNMENT_BYTES = 4 * KIB


class Owner(Protocol):
    """The connection that it came over. `dropped`: the client has gone. `since`: when it took what
    it takes now (monotonic seconds).
    """

    dropped: bool
    since: float


class LongRead:
    """One READ of `owner`. `done(errno, self)` is called once, when it has its `pieces`: each has
    `room` bytes for a header before its content. They are not all there after an error, or if the
    owner was dropped. `extents` are those of a `sparse` read.
    """

    __slots__ = (
        "_at", "_done", "_error", "_found", "_left", "_piece_bytes", "_sparse", "length", "offset",
        "owner", "pieces", "room", "since", "volume",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        volume: Volume,
        offset: int,
        length: int,
        room: int,
        piece_bytes_max: int,
        sparse: bool,
        done: Done,
    ) -> None:
        self.owner = owner
        self.volume = volume
        self.offset = offset
        self.length = length
        self.room = room
        each = -(-length // -(-length // piece_bytes_max))  # all of about the same length
        self._piece_bytes = -(-each // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        count = -(-length // self._piece_bytes)
        self.pieces = [bytearray()] * count
        self._found: list[Sequence[Extent]] = [()] * count
        self._sparse = sparse
        self._done = done
        self.since = owner.since
        self._at = 0  # the next piece
        self._left = count
        self._error = 0

    @property
    def extents(self) -> list[Extent]:
        """What the volume said of its holes, in order."""
        return [extent for found in self._found for extent in found]

    @property
    def is_begun(self) -> bool:
        """Whether all pieces are."""
        return self._at == len(self.pieces)

    def begin(self, backend: Backend, over: Callable[[LongRead], None]) -> None:
        """Read the next piece; `over` is called when that is done, before `done`."""
        at = self._at
        self._at += 1
        offset = self.offset + at * self._piece_bytes
        length = min(self._piece_bytes, self.offset + self.length - offset)

        def read(number: int, content: bytearray, extents: Sequence[Extent] = ()) -> None:
            self.pieces[at], self._found[at] = content, extents
            self._error = self._error or number
            self._left -= 1
            if number:
                self._give_up()
            over(self)
            self._end()

        if self._sparse:
            backend.read_sparse(self.volume, offset, length, self.room, read)
        else:
            backend.read(self.volume, offset, length, self.room, read)

    def abandon(self) -> None:
        """Begin no other piece: nobody waits for them."""
        self._give_up()
        self._end()

    def _give_up(self) -> None:
        self._left -= len(self.pieces) - self._at
        self._at = len(self.pieces)

    def _end(self) -> None:
        if not self._left:
            self._left = -1  # `done` is called once
            self._done(self._error, self)

    def views(self, offset: int, length: int) -> Iterator[memoryview]:
        """The content of a range, in parts."""
        start, end = offset - self.offset, offset - self.offset + length
        while start < end:
            piece, at = divmod(start, self._piece_bytes)
            count = min(self._piece_bytes - at, end - start)
            yield memoryview(self.pieces[piece])[self.room + at : self.room + at + count]
            start += count


class _Line:
    """The reads of one volume, by connection."""

    __slots__ = ("reading", "reads")

    def __init__(self) -> None:
        self.reads: dict[Owner, deque[LongRead]] = {}
        self.reading = 0  # pieces


class ReadTurns:
    """Whose piece is next. Called from the loop."""

    def __init__(self, backend: Backend, limits: NbdLimits) -> None:
        self._backend = backend
        self._pieces_max = limits.volume_pieces_max
        self._lines: dict[str, _Line] = {}

    def ask(self, read: LongRead) -> None:
        """Make this read, in its turn."""
        line = self._lines.setdefault(read.volume.name, _Line())
        line.reads.setdefault(read.owner, deque()).append(read)
        self._go_on(line)

    def _go_on(self, line: _Line) -> None:
        while line.reads and line.reading < self._pieces_max:
            owner, theirs = next(iter(line.reads.items()))
            del line.reads[owner]
            first = theirs[0]
            if first.owner.dropped:
                first.abandon()
            elif not first.is_begun:  # else a piece of it has failed
                line.reading += 1
                first.begin(self._backend, self._over)
            if first.is_begun:
                theirs.popleft()
            if theirs:
                line.reads[owner] = theirs

    def _over(self, read: LongRead) -> None:
        line = self._lines[read.volume.name]
        line.reading -= 1
        self._go_on(line)
        if not line.reading and not line.reads:
            del self._lines[read.volume.name]
