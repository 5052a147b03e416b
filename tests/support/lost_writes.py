"""A leg whose disk has not taken writes that had succeeded, as a page cache leaves it behind."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.runtime.writeback import LostWritesError
from tests.support.fault_leg import FaultLeg

if TYPE_CHECKING:
    from duplexd.images.leg import Leg


class LostWrites(FaultLeg):
    """Nothing can be read until a sync succeeds after the one that reported the loss."""

    __slots__ = ("lost", "reported")

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.lost = True
        self.reported = False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self.lost:
            raise self._loss()
        super().read_into(offset, buffer)

    def has_lost_writes(self) -> bool:
        return self.lost

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        if self.lost:
            raise self._loss()
        return super().extents(offset, length, count_max)

    def sync(self, times: bool = False) -> None:
        if self.lost and not self.reported:
            self.reported = True
            raise self._loss()
        super().sync(times)
        self.lost = False

    def _loss(self) -> LostWritesError:
        return LostWritesError(errno.EIO, "the disk has lost writes", self.path)
