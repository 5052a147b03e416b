"""What a primary refused while it was replayed, and what has made up for it since. Pure.

A change that an image refused while the daemon ran (no space, a bad sector) is in the journal, and
is refused again in the replay. Behind it the journal has the record of what the image held there
instead, which takes its place. So a refusal counts only if nothing later covers it. An image also
counts as written where it holds the content already: the record that makes up for a refused write
may not fit on the disk either.
"""

from __future__ import annotations

BLOCK_BYTES = 4096
RANGES_MAX = 1024  # more ranges than that and the image has failed, whatever follows


class Refusals:
    """Of one image, in the order of the journal. `error` is the first that counts, or None."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []  # (first byte, end), apart from each other
        self._error: OSError | None = None
        self.too_many = False

    @property
    def error(self) -> OSError | None:
        """The error of what is not made up for."""
        return self._error if self._ranges or self.too_many else None

    def written(self, offset: int, length: int) -> None:
        """The image holds what the journal says of this range."""
        if not self._ranges:
            return
        end, left = offset + length, []
        for first, last in self._ranges:
            if first < offset:
                left.append((first, min(last, offset)))
            if last > end:
                left.append((max(first, end), last))
        self._ranges = left

    def refused(self, ranges: list[tuple[int, int]], error: OSError) -> None:
        """The image does not hold what the journal says of these ranges, (first byte, end)."""
        if self.error is None:
            self._error = error
        self._ranges += ranges
        self.too_many |= len(self._ranges) > RANGES_MAX


def different(wanted: bytes | memoryview, found: bytes, offset: int) -> list[tuple[int, int]]:
    """Where two contents of the range at `offset` differ, by blocks."""
    ranges: list[tuple[int, int]] = []
    for at in range(0, len(found), BLOCK_BYTES):
        if wanted[at : at + BLOCK_BYTES] != found[at : at + BLOCK_BYTES]:
            first, end = offset + at, offset + min(at + BLOCK_BYTES, len(found))
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((first, end))
    return ranges
