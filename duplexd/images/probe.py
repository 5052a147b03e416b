"""What an image says of itself: the mark that it carries, and what is found on it.

A path names a place, not an image: the file there may have been replaced, restored from a backup or
exchanged with another while the daemon was down. So each file that is a leg carries a mark, an
extended attribute with a random id, which moves along with `mv`, `cp -a` and `rsync -aX`, and does
not appear on anything else. A copy made in place keeps the mark, so the mark is half of an
identity; the other half is what the journal knows of the content (`core/identity.py`).

Block devices, and file systems without extended attributes, carry no mark. There the content
decides alone.
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fastcrc import crc32

from duplexd.runtime.stamp import DEVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.images.leg import Leg
    from duplexd.runtime.stamp import Stamp

SAMPLE_BYTES = 4096
_TRIED_BLOCKS = 16
_UNREADABLE_MAX = 3  # blocks, for each takes its time; then what is left is not looked at
_COUNTS_END = 1 << 62  # of starts, and of numbers of a journal
_checksum = crc32.iscsi


class Mark(NamedTuple):
    """The extended attribute: whose image this is. `generation`: the number of the start of the
    controller that wrote it. `number`: a number that was durable in its journal by then, 0 in
    marks of before there was one. Where the journal ends before it, it is not that journal, or not
    all of it (`engine/mark_numbers.py`).
    """

    id: str
    owner: str  # the identity of the controller, and
    name: str  # its name
    volume: str
    generation: int
    number: int = 0

    def pack(self) -> bytes:
        """As it is stored: JSON, so that `getfattr` shows something readable."""
        return json.dumps(self._asdict(), separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Mark | None:
        """The reverse; None for anything else: for what `pack` does not write."""
        try:
            fields = json.loads(data)
            texts = fields["id"], fields["owner"], fields["name"], fields["volume"]
            counts = fields["generation"], fields.get("number", 0)
            are_texts = all(type(text) is str and text.encode() for text in texts)
            are_counts = all(type(n) is int and 0 <= n < _COUNTS_END for n in counts)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(*texts, *counts) if are_texts and are_counts else None


# Something is there that no version of this program writes: it is not known whose image that is.
UNREADABLE = Mark("", "", "", "", 0)


class Piece(NamedTuple):
    """A range of at most SAMPLE_BYTES, and the CRC-32C of its content."""

    offset: int
    length: int
    crc: int

    @property
    def end(self) -> int:
        """Behind it."""
        return self.offset + self.length


class Shown(Protocol):
    """As much of a leg as looking at an image takes."""

    @property
    def path(self) -> str: ...
    def stamp(self) -> Stamp: ...
    def read_mark(self) -> bytes: ...
    def read_into(self, offset: int, buffer: memoryview, /) -> None: ...


class Found(NamedTuple):
    """What is found at a path. `samples`: CRC-32C of the blocks that were asked for, by offset, of
    those that can be read. `last_there`: whether the last change is on it; True if nobody asked.
    """

    path: str
    place: str  # which file or device it is
    size: int
    mtime_ns: int  # 0 where there is none
    mark: Mark | None
    samples: Mapping[int, int]
    last_there: bool = True
    unreadable: str = ""  # why a sample could not be read

    @property
    def is_device(self) -> bool:
        """A block device."""
        return self.place.startswith(DEVICE)


def as_on_the_medium(leg: Leg) -> None:
    """Let an image show what a power cut would leave of it, before it is taken as it is. Blocking.
    Raises OSError, also if no block of it can be read: a dead disk holds nothing to take.
    """
    leg.sync()
    leg.drop_cache()
    _read_any(leg)


def _read_any(leg: Leg) -> None:
    """Read the first block that can be read, of some all over the image: bad sectors alone do not
    make it worthless. Raises OSError if there is none.
    """
    step = max(leg.size // _TRIED_BLOCKS // SAMPLE_BYTES, 1) * SAMPLE_BYTES
    failed = OSError(errno.EIO, "there is no block to read")
    for offset in range(0, leg.size, step):
        try:
            checksum(leg, offset)
        except OSError as error:
            failed = error
        else:
            return
    raise failed


def probe(leg: Shown, offsets: Iterable[int], last: Piece | None = None) -> Found:
    """Look at an image. Blocking. Raises OSError if it cannot be looked at at all."""
    stamp = leg.stamp()
    samples: dict[int, int] = {}
    unreadable, failed, last_there = "", 0, True
    for offset in offsets:
        try:
            samples[offset] = checksum(leg, offset)
        except OSError as error:  # the others still tell it from another image
            unreadable, failed = error.strerror or str(error), failed + 1
            if failed == _UNREADABLE_MAX:
                break
    if last is not None and failed < _UNREADABLE_MAX:
        try:
            last_there = checksum(leg, last.offset, last.length) == last.crc
        except OSError as error:
            unreadable = error.strerror or str(error)
    carried = leg.read_mark()
    mark = Mark.unpack(carried) or UNREADABLE if carried else None
    return Found(
        leg.path, stamp.place, stamp.size, stamp.mtime_ns, mark, samples, last_there, unreadable
    )


def brand(leg: Leg, mark: Mark, durable: bool) -> bool:
    """Write the mark; False if this image can't carry one. Blocking. Raises OSError."""
    return leg.write_mark(mark.pack(), durable)


def checksum(leg: Shown, offset: int, length: int = SAMPLE_BYTES) -> int:
    """CRC-32C of a range. Raises OSError."""
    buffer = bytearray(length)
    leg.read_into(offset, memoryview(buffer))
    return _checksum(buffer)
