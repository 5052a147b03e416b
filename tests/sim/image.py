"""The content of a simulated file, and what a power cut may undo of it.

The page cache shows every write at once; the medium has what was synced, and of the rest whatever
the kernel happened to write back. It writes back whole sectors, in any order, so after a power cut
each sector holds what it held at *some* moment since the last sync. The same happens to the files
of one file system whose disk fails and is mounted again.
"""

from __future__ import annotations

from itertools import count
from sys import maxsize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

SECTOR = 512
PAGE = 4096
_NUMBERS = count(1)  # of inodes


class Image:
    """`current` is what readers see, `pending` what was written since the last sync, in order.
    A new size is durable with the next sync.
    """

    def __init__(self, size: int, allocated: bool = False) -> None:
        self.size = self.length = size  # what it was made with, and what it has
        self.durable_length = size
        self.current = bytearray(size)
        self.durable = bytearray(size)
        self.pending: list[tuple[int, bytes]] = []
        self.opened = False
        self.marks = [b""]  # the durable one, and those since, of which any may be on the medium
        self.number = next(_NUMBERS)
        self.mtime_ns = self.durable_mtime_ns = 0
        self._allocated = set(range(-(-size // PAGE))) if allocated else set[int]()
        self._doomed: list[
            tuple[int, int]
        ] = []  # a failed sync gave these up: readers see them, the medium never will
        self._in_flight: tuple[int, bytes] | None = None

    @classmethod
    def of(cls, content: bytes) -> Image:
        image = cls(len(content), allocated=True)
        image.current[:] = content
        image.durable[:] = content
        return image

    @property
    def mark(self) -> bytes:
        """That a reader sees."""
        return self.marks[-1]

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self._show(offset, data)
            self.pending.append((offset, data))

    def resize(self, length: int) -> None:
        kept = min(self.length, length)
        self.current[:] = self.current[:kept] + bytes(length - kept)
        self.pending = [each for each in self.pending if sum((each[0], len(each[1]))) <= length]
        self._allocated = {page for page in self._allocated if page * PAGE < length}
        self.size = self.length = length

    def punch(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))
        self._allocated.difference_update(range(-(-offset // PAGE), (offset + length) // PAGE))

    def start(self, offset: int, data: bytes) -> None:
        """A write that the crash, which comes next, interrupts."""
        self._in_flight = (offset, data)

    def allocate(self, offset: int, length: int) -> None:
        self._allocated.update(_units(offset, length, PAGE))

    def room_before(self, offset: int, length: int) -> int:
        """How many bytes of the range can be written before one needs new space."""
        for page in _units(offset, length, PAGE):
            if page not in self._allocated:
                return max(page * PAGE - offset, 0)
        return length

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        found: list[tuple[int, int, bool]] = []
        for page in _units(offset, length, PAGE):
            start, end = max(page * PAGE, offset), min((page + 1) * PAGE, offset + length)
            is_data = page in self._allocated
            if found and found[-1][2] == is_data:
                start = found.pop()[0]
            elif len(found) == count_max:
                break
            found.append((start, end - start, is_data))
        return found

    def sync(self, times: bool = True) -> None:
        if times:
            self.durable_mtime_ns = self.mtime_ns
            self.sync_mark()
        self._keep_length()
        for offset, data in self.pending:
            self.durable[offset : offset + len(data)] = data
        self.pending.clear()

    def sync_mark(self) -> None:
        """The mark is durable."""
        del self.marks[:-1]

    def sync_fails(self, rng: Random) -> None:
        """As Linux does: part of the data was written, the rest counts as clean from now on, and no
        later sync writes it.
        """
        self._doomed += [(offset, len(data)) for offset, data in self.pending]
        self._write_back(lambda _number, _sector: rng.random() < 0.5)

    def kill(self, rng: Random) -> None:
        """The process is gone, the page cache stays; a write under way may have stopped at any
        page.
        """
        if self._in_flight is not None:
            offset, data = self._in_flight
            pages = list(_units(offset, len(data), PAGE))
            stop = (pages[0] + rng.randint(0, len(pages))) * PAGE - offset
            self._in_flight = None
            self.write(offset, data[: max(stop, 0)])
        self.opened = False

    def cut_power(self, rng: Random) -> None:
        """The medium is what remains."""
        if rng.random() < 0.5:
            self.mtime_ns = self.durable_mtime_ns
        self.marks = [rng.choice(self.marks)]
        if self._in_flight is not None:
            self.pending.append(self._in_flight)
            self._in_flight = None
        self._remain(_fate(rng, self.pending) if self.pending else _nothing)

    def lose(self) -> None:
        """The medium is what remains, and nothing was written back without a sync."""
        del self.marks[1:]
        self._remain(_nothing)

    def medium(self) -> bytes:
        """What the disk has once it has taken what is dirty; not durable before a sync."""
        found = bytearray(self.durable[: self.length].ljust(self.length, b"\0"))
        for offset, data in self.pending:
            found[offset : offset + len(data)] = data
        return bytes(found)

    def drop_cache(self) -> None:
        """What a failed sync gave up is read as the medium has it; what is dirty stays."""
        doomed, self._doomed = self._doomed, []
        for offset, length in doomed:
            self._show(offset, bytes(self.durable[offset : offset + length]), keep_holes=True)
        for offset, data in self.pending:
            self._show(offset, data)

    def _keep_length(self) -> None:
        self.durable_length = self.length
        self.durable[:] = self.durable[: self.length].ljust(self.length, b"\0")

    def _remain(self, survives: Callable[[int, int], bool]) -> None:
        if self.durable_length < self.length and survives(0, 0):
            self._keep_length()
        elif self.durable_length < self.length:  # nobody has written there yet
            self.resize(self.durable_length)
        touched = self._doomed + [(offset, len(data)) for offset, data in self.pending]
        self._write_back(survives)
        for offset, length in touched:
            self._show(offset, bytes(self.durable[offset : offset + length]), keep_holes=True)
        self._doomed.clear()
        self.opened = False

    def _write_back(self, survives: Callable[[int, int], bool]) -> None:
        """Each sector gets what it held after the last of its writes that survives; nothing is
        pending afterwards.

        `survives(number of the write, sector)`: was this sector written back after this write?
        """
        history: dict[int, list[tuple[int, int, bytes]]] = {}
        for number, (offset, data) in enumerate(self.pending):
            for sector, start, piece in _pieces(offset, data):
                history.setdefault(sector, []).append((number, start, piece))
        for sector, writes in history.items():
            upto = max(
                (
                    place + 1
                    for place, (number, _, _) in enumerate(writes)
                    if survives(number, sector)
                ),
                default=0,
            )
            for _, start, piece in writes[:upto]:
                self.durable[start : start + len(piece)] = piece
        self.pending.clear()

    def _show(self, offset: int, data: bytes, keep_holes: bool = False) -> None:
        self.current[offset : offset + len(data)] = data
        for page in _units(offset, len(data), PAGE):
            if not keep_holes or any(self.current[page * PAGE : (page + 1) * PAGE]):
                self._allocated.add(page)


def _nothing(_number: int, _sector: int) -> bool:
    return False


def _fate(rng: Random, pending: list[tuple[int, bytes]]) -> Callable[[int, int], bool]:
    """One of the ways in which un-synced writes get lost."""
    kind = rng.choice(("nothing", "everything", "sectors", "writes", "prefix"))
    if kind == "sectors":
        share = rng.random()
        return lambda _number, _sector: rng.random() < share
    if kind == "writes":
        whole = {number for number in range(len(pending)) if rng.random() < 0.5}
        return lambda number, _sector: number in whole
    if kind == "prefix":
        torn = rng.randrange(len(pending))
        sectors = _units(pending[torn][0], len(pending[torn][1]), SECTOR)
        tear = rng.randint(sectors.start, sectors.stop)
        return lambda number, sector: number < torn or (number == torn and sector < tear)
    return lambda _number, _sector: kind == "everything"


def _units(offset: int, length: int, unit: int) -> range:
    return range(offset // unit, -(-(offset + length) // unit)) if length else range(0)


def _pieces(offset: int, data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """`(sector, offset, bytes)` of what a write puts into each sector."""
    for sector in _units(offset, len(data), SECTOR):
        start, end = max(sector * SECTOR, offset), min((sector + 1) * SECTOR, offset + len(data))
        yield sector, start, data[start - offset : end - offset]
