"""A leg whose disk has not taken writes that had succeeded, as a page cache leaves it behind."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.runtime.writeback import LostWritesError
from tests.support.fault_leg import FaultLeg

if TYPE_CHECKING:
    from duplexd.images.leg import Leg


class LostWrites(FaultLeg):
    """Nothing can be read until a sync has reported the loss, once."""

    __slots__ = ("lost",)

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.lost = True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self.lost:
            raise self._loss()
        super().read_into(offset, buffer)

    def sync(self, times: bool = False) -> None:
        if self.lost:
            self.lost = False
            raise self._loss()
        super().sync(times)

    def _loss(self) -> LostWritesError:
        return LostWritesError(errno.EIO, "the disk has lost writes", self.path)
