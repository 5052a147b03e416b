"""Which blocks of a clone were changed, and which of these hold data. Pure.

A clone is read from its overlay where it was changed, else from the secondary. Blocks, not bytes,
so that this takes two bits a block, whatever clients do: a change of a part of a block takes the
rest of it along.

| changed | full | the block reads as |
|---|---|---|
| no | no | the secondary |
| yes | yes | the overlay |
| yes | no | zeroes; what the overlay has there means nothing |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitarray.util import zeros

from duplexd.core.change_map import grain_shift

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bitarray import bitarray

BASE, OVERLAY, ZEROES = "base", "overlay", "zeroes"
BLOCK_BYTES_MIN = 4096
BLOCKS_MAX = 1 << 24  # 2 MiB for each of the two bitmaps: blocks of 4 KiB up to 64 GiB

Run = tuple[int, int, str]
"""Offset, length, where it is read."""


class OverlayMap:
    """Of a volume of `size` bytes. Ranges are of bytes, lie within it and are longer than 0."""

    __slots__ = ("_changed", "_full", "block_bytes", "data_bytes", "size")

    def __init__(
        self, size: int, block_bytes_min: int = BLOCK_BYTES_MIN, blocks_max: int = BLOCKS_MAX
    ) -> None:
        self.size = size
        self.block_bytes = 1 << grain_shift(size, block_bytes_min, blocks_max)
        blocks = -(-size // self.block_bytes)
        self._changed, self._full = zeros(blocks), zeros(blocks)
        self.data_bytes = 0  # in full blocks; the last one counts as a whole

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """The range from its start on, in pieces that are read at one place."""
        block_bytes, end = self.block_bytes, offset + length
        block, stop = self._blocks(offset, length)
        changed = full = 0
        changed_until = full_until = block  # each bitmap is searched once, however many runs
        while offset < end:
            if changed_until == block:
                changed, changed_until = _same(self._changed, block, stop)
            if full_until == block:
                full, full_until = _same(self._full, block, stop)
            block = min(changed_until, full_until)
            until = min(end, block * block_bytes)
            yield offset, until - offset, (OVERLAY if full else ZEROES) if changed else BASE
            offset = until

    def new_bytes(self, offset: int, length: int) -> int:
        """How much more data there would be if the range were written."""
        first, stop = self._blocks(offset, length)
        return (stop - first - self._full.count(1, first, stop)) * self.block_bytes

    def write(self, offset: int, length: int) -> None:
        """The blocks of the range hold data, all of each."""
        self.data_bytes += self.new_bytes(offset, length)
        first, stop = self._blocks(offset, length)
        self._changed[first:stop] = self._full[first:stop] = True

    def zero(self, offset: int, length: int) -> None:
        """The blocks of the range are zeroes, all of each."""
        first, stop = self._blocks(offset, length)
        self.data_bytes -= self._full.count(1, first, stop) * self.block_bytes
        self._changed[first:stop] = True
        self._full[first:stop] = False

    def block(self, offset: int) -> tuple[int, int]:
        """The block that a byte is in: offset, length."""
        start = offset // self.block_bytes * self.block_bytes
        return start, min(self.block_bytes, self.size - start)

    def whole(self, offset: int, length: int) -> tuple[int, int]:
        """The range of the blocks that lie in it as a whole: offset, length; 0 if there is none."""
        end, unit = offset + length, self.block_bytes
        start = -(-offset // unit) * unit
        stop = end if end == self.size else end // unit * unit
        return start, max(stop - start, 0)

    def has_data(self, offset: int, length: int) -> bool:
        """Whether a block of the range holds data."""
        return self._full.find(1, *self._blocks(offset, length)) >= 0

    def _blocks(self, offset: int, length: int) -> tuple[int, int]:
        return offset // self.block_bytes, -(-(offset + length) // self.block_bytes)


def _same(bits: bitarray, block: int, stop: int) -> tuple[int, int]:
    """The value of a block, and up to which one it is that of all; at most `stop`."""
    value = bits[block]
    until = bits.find(not value, block, stop)
    return value, until if until >= 0 else stop
