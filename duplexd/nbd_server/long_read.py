"""READs that are too long for one call, and whose piece is read next.

A read of 32 MiB fills a new buffer of that size, and Python does that while nothing else runs: the
loop stood still for 10 ms and more with each. So long READs are made of pieces, whose buffers are
small and used again.

The pieces of a volume take turns by connection, and few of them are read at once: copying from the
page cache takes a processor, which the loop needs, too, and the threads of a disk are also those of
others who read little. The reply is sent when all pieces are there. To send each as it comes would
take less memory, but an error could then be reported by closing the connection only.

A READ of one piece is first tried in the loop, like a short one. If it is in the page cache, that
takes two thirds of the processor time that it takes by a worker, and what is sent is still in the
processor's cache. The loop stands still for 0.1 to 0.2 ms with it, so each volume has one such
read in a turn of the loop, and all together have a share of the turn.

Over a Unix socket a piece is first tried without copying it (`runtime/pipes.py`), while there are
pipes. That is no call of the loop, but one between two turns of it, as for small batches.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from duplexd.runtime.buffers import Buffers
from duplexd.runtime.pipes import Pipes
from duplexd.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.backend import Backend, Extent, Volume
    from duplexd.limits import NbdLimits
    from duplexd.nbd_server.round_robin import RoundRobin
    from duplexd.runtime.pipes import Pipe

    # errno, and the read itself
    Done = Callable[[int, "LongRead"], None]

ALIGNMENT_BYTES = 4 * KIB
SPLICED_PIECES_MAX = 4  # of a read; one of 32 would take all pipes, and was a tenth slower
CONTENTS_KEPT_BYTES_MAX = 8 * MIB  # of buffers for what is read in the loop, until it was sent


class Owner(Protocol):
    """The connection that it came over. `dropped`: the client has gone. `write_paused`: it does
    not take its replies; if it is `leaving`, what it has asked for is read nevertheless, as there
    was room for it. `since`: when it took what it takes now (monotonic seconds).
    `takes_pipes`: content may come in pipes.
    """

    @property
    def dropped(self) -> bool: ...

    leaving: bool
    since: float
    takes_pipes: bool
    write_paused: bool


class LongRead:
    """One READ of `owner`. `done(errno, self)` is called once, when it has its `pieces`: each is a
    pipe, or has `room` bytes for a header before its content. They are not all there after an
    error, or if the owner was dropped. `extents` are those of a `sparse` read.
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
        self.pieces: list[bytearray | Pipe] = [bytearray()] * count
        self._found: list[Sequence[Extent]] = [()] * count
        self._sparse = sparse
        self._done = done
        self.since = owner.since
        self._at = 0  # the next piece
        self._left = count
        self._error = 0

    def read_cached(self, buffers: Buffers) -> bool:
        """Read all of it, and call `done`, if that needs no disk; tried for one piece only. False
        if nothing was done.
        """
        if len(self.pieces) > 1:
            return False
        content = buffers.take(self.room + self.length)
        part = memoryview(content)[self.room : self.room + self.length]
        try:
            if not self.volume.read_cached(self.offset, part) or self.volume.has_lost_writes():
                return False
        except OSError:  # the worker may find it elsewhere
            return False
        self.pieces[0], self._found[0] = content, [(self.offset, self.length, True)]
        self._at = 1
        self._left = 0
        self._end()
        return True

    @property
    def extents(self) -> list[Extent]:
        """What the volume said of its holes, in order."""
        return [extent for found in self._found for extent in found]

    @property
    def is_begun(self) -> bool:
        """Whether all pieces are."""
        return self._at == len(self.pieces)

    def begin(
        self, backend: Backend, over: Callable[[LongRead], None], pipe: Pipe | None = None
    ) -> None:
        """Read the next piece, by way of the pipe if the page cache has it; `over` is called when
        that is done, before `done`.
        """
        at = self._at
        self._at += 1
        offset = self.offset + at * self._piece_bytes
        length = min(self._piece_bytes, self.offset + self.length - offset)

        def read(number: int, content: bytearray | Pipe, extents: Sequence[Extent] = ()) -> None:
            self.pieces[at], self._found[at] = content, extents
            self._error = self._error or number
            self._left -= 1
            if number:
                self._give_up()
            over(self)
            self._end()

        def from_disk() -> None:
            if self._sparse:
                backend.read_sparse(self.volume, offset, length, self.room, read)
            else:
                backend.read(self.volume, offset, length, self.room, read)

        def spliced(is_put: bool) -> None:
            if is_put and pipe is not None:
                read(0, pipe, [(offset, length, True)])
            else:
                from_disk()

        if pipe is None:
            from_disk()
        else:
            backend.splice(self.volume, offset, length, pipe, spliced)

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

    def views(self, offset: int, length: int) -> Iterator[memoryview | Pipe]:
        """The content of a range, in parts. A pipe is in an extent as a whole."""
        start, end = offset - self.offset, offset - self.offset + length
        while start < end:
            piece, at = divmod(start, self._piece_bytes)
            count = min(self._piece_bytes - at, end - start)
            content = self.pieces[piece]
            if isinstance(content, bytearray):
                yield memoryview(content)[self.room + at : self.room + at + count]
            else:
                yield content
            start += count


class _Line:
    """The reads of one volume, by connection. `go_on` is called in its turn."""

    __slots__ = ("_go_on", "name", "reading", "reads", "waiting")

    def __init__(self, name: str, go_on: Callable[[_Line], None]) -> None:
        self.name = name
        self.reads: dict[Owner, deque[LongRead]] = {}
        self.waiting = 0  # reads that are not begun; also one whose owner was taken from `reads`
        self.reading = 0  # pieces, in workers
        self._go_on = go_on

    def turn(self) -> None:
        """See `Working`."""
        self._go_on(self)


def _goes_on(owner: Owner) -> bool:
    return owner.dropped or owner.leaving or not owner.write_paused


class ReadTurns:
    """Whose piece is next. Called from the loop."""

    def __init__(self, backend: Backend, limits: NbdLimits, turns: RoundRobin) -> None:
        self._backend = backend
        self._buffers = Buffers(CONTENTS_KEPT_BYTES_MAX)
        self._pieces_max = limits.volume_pieces_max
        self._pipes = Pipes(limits.pipes_max)
        self._lines: dict[str, _Line] = {}  # by name of the volume or point; those that have work
        self._turns = turns

    def clear(self) -> None:
        """Nobody is connected: keep no buffers, and no pipes."""
        self._buffers.clear()
        self._pipes.clear()

    def ask(self, read: LongRead) -> None:
        """Make this read, in its turn."""
        line = self._lines.get(read.volume.name)
        if line is None:
            line = self._lines[read.volume.name] = _Line(read.volume.name, self._go_on)
        line.waiting += 1
        line.reads.setdefault(read.owner, deque()).append(read)
        if read.owner.takes_pipes and line.reading < self._pieces_max:
            self._go_on(line)  # which takes the loop no longer than a turn of its own
        else:
            self._turns.ask(line)

    def resume(self, volume: Volume) -> None:
        """A connection to it takes its replies again, or has gone."""
        line = self._lines.get(volume.name)
        if line is not None and line.reads:
            self._turns.ask(line)

    def _go_on(self, line: _Line) -> None:
        self._begin_pieces(line)
        if not line.waiting and not line.reading and self._lines.get(line.name) is line:
            del self._lines[line.name]

    def _begin_pieces(self, line: _Line) -> None:
        while line.reading < self._pieces_max:
            owner = next(filter(_goes_on, line.reads), None)
            if owner is None:
                return
            theirs = line.reads.pop(owner)
            first = theirs[0]
            cached = False
            if first.owner.dropped:
                first.abandon()
            elif not first.is_begun:  # else a piece of it has failed
                spliced = owner.takes_pipes and len(first.pieces) <= SPLICED_PIECES_MAX
                pipe = self._pipes.take() if spliced else None
                cached = pipe is None and first.read_cached(self._buffers)
                if not cached:
                    line.reading += 1
                    first.begin(self._backend, self._over, pipe)
            if first.is_begun:
                theirs.popleft()
                line.waiting -= 1
            if theirs:
                line.reads[owner] = theirs
            if cached:
                self._turns.ask(line)
                return

    def _over(self, read: LongRead) -> None:
        line = self._lines[read.volume.name]
        line.reading -= 1
        self._go_on(line)
