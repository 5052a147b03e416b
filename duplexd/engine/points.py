"""Points as NBD exports: a secondary at its cut is read like a volume, under `VOLUME@POINT`.

There is a point exactly while its pair is SUSPENDED with a usable secondary that is durable at the
cut. It is looked up each time that a client names one, and made once, so that its connections are
counted together. Who is connected is a reader of the cut (`core/readers.py`).

Reads are those of the secondary alone: no other image has that state. An error of it goes to the
client that met it; a secondary that hangs, or has lost writes, has the consequences that this has
without a reader.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core.patience import SECONDARY
from duplexd.core.point import Point, is_at_cut, name_of, parse
from duplexd.engine.allocation import Asked
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.buffers import Buffers
from duplexd.runtime.watch import HungError
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.backend import Extent, Volume
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.readers import Readers
    from duplexd.engine.allocation import Extents
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.reads import Reads
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

    Done = Callable[[int, bytearray], None]
    SparseDone = Callable[[int, bytearray, list[Extent]], None]

_KEPT_BYTES_MAX = 33 << 20  # of buffers, as for reads of volumes


class Points:
    """Implements what `Backend` says of reading, for volumes and for points.

    `closed` are pairs whose points nobody may open now.
    """

    def __init__(
        self,
        volumes: Volumes,
        archive: CutArchive,
        legs: LegCalls,
        reads: Reads,
        extents: Extents,
        readers: Readers,
        on_leg_failed: Callable[[Pair, Leg, OSError], None],
    ) -> None:
        """`on_leg_failed` is called for a secondary that has lost writes."""
        self._volumes = volumes
        self._archive = archive
        self._legs = legs
        self._reads = reads
        self._extents = extents
        self._readers = readers
        self._points: dict[int, Point] = {}  # the latest of each volume, by its number
        self._tasks: set[asyncio.Task[None]] = set()
        self._buffers = Buffers(_KEPT_BYTES_MAX)
        self.closed: set[Pair] = set()
        self._on_leg_failed = on_leg_failed

    # -------------------------------------------------------------------------- looking it up

    def volume(self, name: str) -> Volume | None:
        """See `Backend`. A volume comes before a point of the same name."""
        found = self._volumes.find(name)
        if found is not None or (wanted := parse(name)) is None:
            return found
        pair = self._volumes.by_name.get(wanted.volume)
        cut = self.cut_of(pair) if pair is not None else None
        if pair is None or cut is None:
            return None
        consistent = self._archive.verdict(cut) == "consistent"
        return self._point(pair, cut) if wanted.means(cut, consistent) else None

    def point_names(self) -> Iterator[str]:
        """See `Backend`. By id alone: a tag and `latest` are other names of the same."""
        for pair in self._volumes.all():
            if (cut := self.cut_of(pair)) is not None:
                yield name_of(pair.name, cut)

    def cut_of(self, pair: Pair) -> Cut | None:
        """The cut that a pair can be read at now."""
        cut = pair.cut
        settled = cut is not None and bool(cut.id) and cut.id not in self._archive.unsettled
        there = settled and is_at_cut(pair, cut) and not isinstance(pair.secondary, AbsentLeg)
        return cut if there and pair not in self.closed else None

    def _point(self, pair: Pair, cut: Cut) -> Point:
        point = self._points.get(pair.id)
        if point is None or point.ended or point.cut is not cut or not point.stands:
            if point is not None:  # its readers have an image that nobody watches any more
                point.end("the secondary was opened anew")
            point = Point(pair, cut, pair.copy_of, self._readers)
            self._points[pair.id] = point
        return point

    def has_ended(self, pair: Pair) -> bool:
        """Whether its secondary has left the cut of the latest point."""
        point = self._points.get(pair.id)
        return point is not None and not point.stands

    def end(self, pair: Pair, why: str) -> None:
        """Nothing is read of its point from now on. Another may be made when it stands again."""
        point = self._points.pop(pair.id, None)
        if point is not None:
            point.end(why)

    # -------------------------------------------------------------------------------- reading

    def read(self, volume: Volume, offset: int, length: int, room: int, done: Done) -> None:
        """See `Backend`."""
        if not isinstance(volume, Point):
            self._reads.read(volume, offset, length, room, done)
            return

        def plainly(number: int, content: bytearray, _extents: list[Extent]) -> None:
            done(number, content)

        self._begin(volume, offset, length, room, plainly, sparse=False)

    def read_sparse(
        self, volume: Volume, offset: int, length: int, room: int, done: SparseDone
    ) -> None:
        """See `Backend`."""
        if isinstance(volume, Point):
            self._begin(volume, offset, length, room, done, sparse=True)
        else:
            self._reads.read_sparse(volume, offset, length, room, done)

    def extents(
        self,
        volume: Volume,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """See `Backend`. Of a point that has ended all is data, and no read of it succeeds."""
        if not isinstance(volume, Point):
            self._extents.extents(volume, offset, length, one, done)
        elif (leg := volume.leg) is None:
            done([(offset, length, True)])
        else:
            asked = Asked(volume.pair, leg, SECONDARY, lambda: not volume.ended)
            self._extents.ask(asked, offset, length, one, done)

    def _begin(
        self, point: Point, offset: int, length: int, room: int, done: SparseDone, sparse: bool
    ) -> None:
        answer = self._answer(point, offset, length, room, done, sparse)
        task = asyncio.get_running_loop().create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._buffers.clear()

    async def _answer(
        self, point: Point, offset: int, length: int, room: int, done: SparseDone, sparse: bool
    ) -> None:
        """What is read counts only if the point has not ended by then."""
        number, content, leg = 0, bytearray(), point.leg
        extents: list[Extent] = []
        if leg is not None:
            call = partial(_read, leg, offset, length, room, sparse, self._buffers)
            try:
                content, extents = await self._legs.on(point.pair, leg, SECONDARY, call)
            except OSError as error:
                number = error.errno or errno.EIO
                if isinstance(error, LostWritesError):
                    self._on_leg_failed(point.pair, leg, error)
                elif isinstance(error, HungError):  # none of the next reads waits for it again
                    point.end(str(error))
            except MemoryError:
                number = errno.ENOMEM
        if point.ended:
            number = errno.EIO
        done(number, bytearray() if number else content, extents)


def _read(
    leg: Leg, offset: int, length: int, room: int, sparse: bool, buffers: Buffers
) -> tuple[bytearray, list[Extent]]:
    """In a worker."""
    extents = leg.extents(offset, length) if sparse else [(offset, length, True)]
    whole = all(is_data for _, _, is_data in extents)
    size = room + length
    content = buffers.take(size) if whole else bytearray(size)  # holes are zeroes in it
    for start, nbytes, is_data in extents:
        if is_data:
            at = room + start - offset
            leg.read_into(start, memoryview(content)[at : at + nbytes])
    return content, extents
