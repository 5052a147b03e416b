"""A leg on a block device: its size is the device's, and all of it is there from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.images.file import FileLeg

if TYPE_CHECKING:
    from duplexd.runtime.disk import File


class BlockDeviceLeg(FileLeg):
    """See `Leg`. The device cannot say where its data is, so all of it counts as data; nothing needs to be reserved."""

    __slots__ = ()

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self.reserve = self._nothing_to_reserve
        self.extents = self._all_data

    @staticmethod
    def _nothing_to_reserve(_offset: int, _length: int, /) -> None:
        pass

    @staticmethod
    def _all_data(offset: int, length: int, /) -> list[tuple[int, int, bool]]:
        return [(offset, length, True)] if length else []
