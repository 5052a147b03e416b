"""A leg in a file: sparse when it is new, holes where zeroes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.runtime.disk import File


class FileLeg:
    """See `Leg`. Owns the file. The file's own methods serve where they can, so that `leg.write` costs one call."""

    __slots__ = (
        "_file", "close", "extents", "in_place", "is_block", "path", "read_cached", "read_into", "reserve", "size", "sync", "write",
    )  # fmt: skip

    def __init__(self, file: File) -> None:
        self._file = file
        self.path = file.path
        self.size = file.size
        self.is_block = file.is_block
        self.read_into = file.read_into
        self.read_cached = file.read_cached
        self.write = file.write
        self.reserve = file.reserve
        self.extents = file.extents
        self.sync = file.sync
        self.in_place = file.in_place
        self.close = file.close

    @property
    def can_punch(self) -> bool:
        return self._file.can_punch

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        self._file.zero(offset, length, not allocate)
