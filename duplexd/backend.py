"""The interface between the NBD server and the engine: `Volume`, `Change`, `Client`, `Backend`.

The server turns requests into `Change` objects and passes all requests of one wake-up in one call,
because batches are what makes small writes cheap. The engine answers each change exactly once
through `Client.finished`, unless the client has disconnected. Neither side imports the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Extent = tuple[int, int, bool]
"""Offset, length, whether it is data. What is not data reads as zeroes. Of a dirty bitmap: whether
it changed.
"""

# Kinds of change. The first three are also the kinds of journal records.
WRITE, ZERO, TRIM, FLUSH = 1, 2, 3, 4


class Change:
    """One WRITE, WRITE_ZEROES, TRIM or FLUSH of a client, from parsing to reply.

    `data` is the payload of a WRITE (`length` bytes), else empty. It may be a view of a receive
    buffer: the server keeps that as it is until the change is finished, or, while it has not
    `begun`, calls `own`. `begun`: it is part of a batch, and its payload may be being written.
    `error` is an errno, 0 for success, valid in `Client.finished`. `since`: when the server took
    it (monotonic seconds); nobody else sets or reads it.
    """

    __slots__ = (
        "__weakref__",
        "allocate",
        "begun",
        "client",
        "cookie",
        "data",
        "error",
        "fua",
        "kind",
        "length",
        "offset",
        "sequence",
        "since",
        "volume",
    )

    since: float

    def __init__(
        self,
        client: Client,
        cookie: int,
        volume: Volume,
        kind: int,
        offset: int,
        length: int,
        data: bytes | bytearray | memoryview = b"",
        fua: bool = False,
        allocate: bool = False,
    ) -> None:
        self.client = client
        self.cookie = cookie
        self.volume = volume
        self.kind = kind
        self.offset = offset
        self.length = length
        self.data = data
        self.fua = fua
        self.allocate = allocate  # WRITE_ZEROES with NO_HOLE: the range stays allocated
        self.begun = False
        self.sequence = 0
        self.error = 0

    def own(self) -> None:
        """Copy the payload out of the receive buffer, unless that was done already."""
        if type(self.data) is memoryview:
            self.data = bytes(self.data)


class Client(Protocol):
    """A connection, as the write path sees it."""

    def finished(self, changes: Sequence[Change]) -> None:
        """Reply to these changes, all of this client. Called from the loop: within the call that
        brought them (`Changes.submit`, `Changes.flush`), or later.
        """


class Pages(Protocol):
    """Where content goes that is not copied, see `Backend.splice`. False: not all of it has room.
    Both raise OSError.
    """

    def put(self, data: bytes | memoryview, /) -> bool:
        """A copy of `data`."""

    def put_pages(self, fd: int, offset: int, length: int, /) -> bool:
        """The pages of a file, as they are in the page cache."""


class Reader(Protocol):
    """A connection, as the volume sees it that it has chosen."""

    def end_reading(self, why: str) -> None:
        """What it reads is taken away: refuse what comes from now on, and close."""


class Volume(Protocol):
    """What a client sees as an NBD export: a volume, a point or a clone. Sizes in bytes."""

    name: str
    size: int
    connections: int  # of clients that have chosen it
    failing: dict[str, int]  # by the server: "read" or "change", if the last one failed, and errno
    failed: str  # why it is not served; "" for one that is

    @property
    def lineage(self) -> str:
        """What stays as it is for as long as its content follows from what clients were answered,
        see `core/lineage.py`; "" where that is not known, or the name says it.
        """

    @property
    def of(self) -> str:
        """The volume whose rules count: its own name, but for a point or a clone."""

    @property
    def counted_as(self) -> str:
        """What its requests are counted under: points come and go, and must not add up."""

    @property
    def read_only(self) -> bool:
        """Whether nobody may write to it."""

    @property
    def can_zero_fast(self) -> bool:
        """Whether a ZERO that need not allocate is faster than writing zeroes, on both legs."""

    def closed_to(self, name: str) -> str:
        """Why no client that knows it by this name may use it for now, although its images are
        good; "" if that is not so.
        """

    def bitmaps(self) -> Mapping[str, str]:
        """What its dirty bitmaps begin at, the newest first: each name, and the one by which that
        is listed. Of a point: its earlier cuts.
        """

    def joined(self, reader: Reader, peer: str) -> None:
        """A connection has chosen it; `peer` says whose, for people."""

    def left(self, reader: Reader) -> None:
        """A connection that had chosen it is closed."""

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` without blocking; False if that is not possible. Raises OSError.

        Asked for each read of a wake-up; then `has_lost_writes` once for all of them.
        """

    def has_lost_writes(self) -> bool:
        """Whether what `read_cached` filled before this call may be older than what was written:
        then none of it counts.
        """


class Changes(Protocol):
    """What takes the changes of a volume. All methods are called from the event loop."""

    def submit(self, changes: list[Change]) -> None:
        """Take the changes of one wake-up of one client, in order of arrival. Ranges are valid,
        lengths are > 0.

        They may be finished before this returns, or later.
        """

    def flush(self, change: Change) -> None:
        """Finish `change` (kind FLUSH) when every change replied to before this call survives a
        power cut; of a clone, which does not survive its daemon, when all before it are done.
        """

    def disconnected(self, client: Client) -> None:
        """Drop the client's changes that have not started: they were never acknowledged and never
        will be.
        """


class Backend(Protocol):
    """The engine as the NBD server sees it. All methods are called from the event loop."""

    def volume(self, name: str) -> Volume | None:
        """The volume, the point or the clone of that name; one that is being restored also
        by the name of who does it (`core/rollback_state.py`). "" is the only volume, and none where
        there are several: which of them was meant could change with the configuration.
        """

    def volume_names(self) -> list[str]:
        """Every volume, in the order of the configuration."""

    def point_names(self) -> Iterator[str]:
        """Every point and clone that can be read now, one name for each. Looked up when asked."""

    def changes_of(self, volume: Volume) -> Changes:
        """What takes the changes of a volume. Asked once for each connection."""

    def read(
        self,
        volume: Volume,
        offset: int,
        length: int,
        room: int,
        done: Callable[[int, bytearray], None],
    ) -> None:
        """Read in a worker thread, then call `done(errno, content)` in the loop (0: success).

        `content` is a new buffer, with `room` bytes for a header before the `length` that were
        read; empty after an error. Who fills it makes it: a thread that was given up may still
        fill its own.
        """

    def splice(
        self, volume: Volume, offset: int, length: int, pipe: Pages, done: Callable[[bool], None]
    ) -> None:
        """Let `pipe` refer to what the page cache has of the range, then call `done` in the loop.
        False where it does not have all of it, or the disk is slow to say so: nothing in the pipe
        counts then, and something may be put into it later.
        """

    def read_sparse(
        self,
        volume: Volume,
        offset: int,
        length: int,
        room: int,
        done: Callable[[int, bytearray, list[Extent]], None],
    ) -> None:
        """As `read`, with the extents of the range, which cover it exactly. Holes were not read;
        they are zeroes in the content.
        """

    def extents(
        self,
        volume: Volume,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """Find out in a worker thread what is data, then call `done` in the loop, or within this
        call. It gets at least one extent, from `offset` on; they may end before the range does,
        never behind it; with `one` only the first matters. All is data where that is not known.
        """

    def changed(
        self,
        volume: Volume,
        offset: int,
        length: int,
        bitmap: str,
        extents_max: int,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """The same of one of the volume's `bitmaps`: what has changed since then, never too little.
        It gets at most so many extents. All has changed where that is not known.
        """
