"""What the engine asks of an image: the contract between a pair and whatever holds its bytes.

It is a protocol, so that an open file of `duplexd.runtime.disk` is a leg as it is and `leg.write`
costs one call, and so that tests can put a leg in memory or one that fails on demand in its place.
"""

from __future__ import annotations

from sys import maxsize
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.runtime.disk import Data
    from duplexd.runtime.stamp import Stamp


class Leg(Protocol):
    """An image of `size` bytes. Ranges lie within it; every method raises OSError when the image
    fails.

    Methods may be called from any thread; writes that overlap may leave any mixture of them.
    """

    path: str
    size: int
    is_block: bool
    device: str  # what its disk is called; "" if that is not known. Does not wait.

    @property
    def can_punch(self) -> bool:
        """Whether `zero(..., allocate=False)` gives space back."""

    def read_into(self, offset: int, buffer: memoryview, /) -> None:
        """Fill the whole buffer. LostWritesError if the disk has lost writes that had succeeded,
        until a `sync` has succeeded after the one that reported it: what it returns may be older
        than they are.
        """

    def read_medium(self, offset: int, buffer: memoryview, /) -> None:
        """As `read_into`, but from the disk, whatever memory has of it."""

    def read_cached(self, offset: int, buffer: memoryview, /) -> bool:
        """Fill the whole buffer without waiting for the disk, or return False. What was filled
        counts only if `has_lost_writes` denies it afterwards.
        """

    def put_pages(self, offset: int, length: int, pipe: Pages, /) -> bool:
        """Let `pipe` refer to the range, without copying it. False if the page cache does not have
        all of it, or it is not known: the pipe may have any part of it then. It should not wait for
        the disk, but may. What was put counts only if `has_lost_writes` denies it afterwards.
        """

    def has_lost_writes(self) -> bool:
        """Whether the disk has lost writes that had succeeded, see `read_into`. Does not wait."""

    def write(self, offset: int, data: Data, /) -> None:
        """Write all of it; after an error any part of it may have been written."""

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        """Make the range read as zeroes: with its space kept (`allocate`), or as a hole where
        possible.
        """

    def resize(self, size: int, /) -> None:
        """Be `size` bytes from now on. What it gains reads as zeroes, whatever was there; a device
        only has to be as large. Not durable before the next sync. After an OSError what is beyond
        the size that it had is not known.
        """

    def reserve(self, offset: int, length: int, /) -> None:
        """Make sure that a following write of the range cannot meet ENOSPC. Raises ENOSPC with the
        content as it was.
        """

    def extents(
        self, offset: int, length: int, count_max: int = maxsize, /
    ) -> list[tuple[int, int, bool]]:
        """`(offset, length, is_data)` in order, covering the range exactly, or its beginning once
        there are `count_max` and perhaps one more. What is not data reads as zeroes, allocated or
        not.

        Where holes cannot be found all is data. LostWritesError as `read_into`: what the disk has
        lost may look like a hole.
        """

    def write_back(self, offset: int, length: int, /) -> None:
        """Bring a range to the disk, so that the next read of it asks the disk and not the memory.
        Raises OSError if the disk does not take it, or has lost other writes. Not a `sync`.
        """

    def write_out(self, offset: int, length: int, /) -> None:
        """Begin to bring a range to the disk, so that a later `sync` has less to wait for. Does not
        wait for it, and says nothing of errors: the sync does.
        """

    def sync(self, times: bool = False) -> None:
        """Everything written before this call survives a power cut; with `times` the time of the
        last modification does, too. An error is final.
        """

    def drop_cache(self) -> None:
        """What is read from now on comes from the medium, where the system can do that: after a
        sync that failed, the page cache shows what the medium never got. What was written since the
        last sync stays.
        """

    def stamp(self) -> Stamp:
        """Which file or device it is, its size now, and when it was last modified."""

    def read_mark(self) -> bytes:
        """What the image carries of `write_mark`, from whatever time; b"" if nothing."""

    def write_mark(self, mark: bytes, /, durable: bool) -> bool:
        """Let the image carry a mark, beside its content. False if it cannot. `durable`, or else at
        the next sync with `times`.
        """

    def in_place(self, path: str = "") -> bool:
        """Whether a path, its own if none is given, leads to this image: its own does no more once
        the image was deleted, moved or replaced.
        """

    def close(self) -> None:
        """Give up the image. Does not sync."""
