"""A leg: an image that holds a volume's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from duplexd.runtime.disk import Data


class Leg(Protocol):
    """An image of `size` bytes. Ranges lie within it; every method raises OSError when the image fails.

    Methods may be called from any thread; who overlaps writes gets any mixture of them.
    """

    path: str
    size: int
    is_block: bool

    @property
    def can_punch(self) -> bool:
        """Whether `zero(..., allocate=False)` gives space back."""

    @property
    def read_into(self) -> ReadInto:
        """`read_into(offset, buffer)`: fill the whole buffer."""

    @property
    def read_cached(self) -> ReadCached:
        """`read_cached(offset, buffer)`: fill the whole buffer without waiting for the disk, or return False."""

    @property
    def write(self) -> Write:
        """`write(offset, data)`: all of it; after an error any part of it may have been written."""

    def zero(self, offset: int, length: int, allocate: bool, /) -> None:
        """Make the range read as zeroes: with its space kept (`allocate`), or as a hole where possible."""

    def reserve(self, offset: int, length: int, /) -> None:
        """See to it that a following write of the range cannot meet ENOSPC. Raises ENOSPC with the content as it was."""

    def extents(self, offset: int, length: int, /) -> list[tuple[int, int, bool]]:
        """`(offset, length, is_data)` in order, covering the range exactly. What is not data reads as zeroes, allocated or not.

        Where holes cannot be told all is data.
        """

    def sync(self) -> None:
        """Everything written before this call survives a power cut. An error is final."""

    def in_place(self) -> bool:
        """Whether `path` leads to this image still: not once it was deleted, moved or replaced."""

    def close(self) -> None:
        """Give up the image. Does not sync."""


class ReadInto(Protocol):
    def __call__(self, offset: int, buffer: memoryview, /) -> None: ...


class ReadCached(Protocol):
    def __call__(self, offset: int, buffer: memoryview, /) -> bool: ...


class Write(Protocol):
    def __call__(self, offset: int, data: Data, /) -> None: ...
