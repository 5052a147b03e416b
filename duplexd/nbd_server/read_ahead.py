"""CACHE: what is read now is in the page cache when the client asks for it.

One piece at a time, so that a request of any length takes the memory of one, and the disk's other
users wait for no more. Holes are left out: a page cache full of zeroes helps nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Backend, Extent, Volume


class ReadAhead:
    """Reads up to `end` in pieces of `piece_bytes`, then calls `done(errno)`, once; at the first
    error it ends. Called from the loop.
    """

    __slots__ = ("_backend", "_done", "_end", "_piece_bytes", "_volume")

    def __init__(
        self,
        backend: Backend,
        volume: Volume,
        end: int,
        piece_bytes: int,
        done: Callable[[int], None],
    ) -> None:
        self._backend = backend
        self._volume = volume
        self._end = end
        self._piece_bytes = piece_bytes
        self._done = done

    def go_on(self, offset: int) -> None:
        """Read the piece that begins there, and what comes after it."""
        length = min(self._piece_bytes, self._end - offset)

        def read(number: int, _content: bytearray, _extents: list[Extent]) -> None:
            if number or offset + length >= self._end:
                self._done(number)
            else:
                self.go_on(offset + length)

        self._backend.read_sparse(self._volume, offset, length, 0, read)
