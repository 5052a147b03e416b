"""The log of a dm-log-writes device: every write and flush of a disk, in the order in which they
became durable, with marks between them.

What a disk has in a volatile cache when a flush reaches it is logged with that flush. So the log up
to a mark is the least that a power cut at that moment leaves: only what had been flushed, or
written with FUA. Source of the format: the kernel's documentation of dm-log-writes. All numbers are
little-endian; the log consists of sectors of its own size.

| what | bytes | fields |
|---|---|---|
| first sector | 28 | magic u64, version u64, number of entries u64, sector size u32 |
| entry | 32, a sector | sector u64, sectors u64, flags u64, bytes behind these u64, then those |
| behind it | a write | its data, in whole sectors |
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

MAGIC, VERSION = 0x6A736677736872, 1
SECTOR_BYTES = 512  # that places on the disk are counted in
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

_HEAD = Struct("<QQQI")
_ENTRY = Struct("<QQQQ")


class Entry(NamedTuple):
    """One entry. `data` of a write; `mark` is a mark's text, else empty."""

    offset: int
    length: int
    flags: int
    data: bytes
    mark: str


def entries(log: Path) -> Iterator[Entry]:
    """All of them. Raises ValueError if the file is not a log."""
    with log.open("rb") as file:
        magic, version, count, sector_bytes = _HEAD.unpack(file.read(_HEAD.size))
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{log} does not begin as a log of dm-log-writes: {magic:#x}")
        file.seek(sector_bytes)
        for _ in range(count):
            yield _entry(file, sector_bytes)


def _entry(file: BufferedReader, sector_bytes: int) -> Entry:
    head = file.read(sector_bytes)
    sector, sectors, flags, behind = _ENTRY.unpack_from(head)
    mark = head[_ENTRY.size : _ENTRY.size + behind].decode() if flags & MARK else ""
    data = b"" if flags & (DISCARD | MARK) else file.read(sectors * SECTOR_BYTES)
    file.seek(-len(data) % sector_bytes, 1)
    return Entry(sector * SECTOR_BYTES, sectors * SECTOR_BYTES, flags, data, mark)


class Replay:
    """An image that is brought from one mark to the next."""

    def __init__(self, log: Path, image: Path, size: int) -> None:
        self._entries = entries(log)
        self._image = image
        with image.open("xb") as file:
            file.truncate(size)

    def until(self, mark: str) -> None:
        """Apply what was logged before the mark. Raises ValueError if it does not come."""
        with self._image.open("r+b") as file:
            for entry in self._entries:
                if entry.mark == mark:
                    return
                if entry.flags & DISCARD:
                    file.seek(entry.offset)
                    file.write(bytes(entry.length))
                elif entry.data:
                    file.seek(entry.offset)
                    file.write(entry.data)
        raise ValueError(f"there is no mark {mark} in the rest of the log")
