"""What a file would lose with its disk's power: its changes since the last sync, newest last.

The file below has all of them at once. Each change keeps what it overwrote, so that forgetting can
take them back in reverse, and what it wrote, so that some of them can be made again: a disk that
dies may have written any of them, in any order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Change:
    """A range, before and after; sizes of the file before and after."""

    offset: int
    old: bytes
    new: bytes
    size_before: int
    size_after: int


@dataclass
class Unsynced:
    """The changes of one file. The caller holds the file's lock."""

    changes: list[Change] = field(default_factory=list)

    def note(self, offset: int, old: bytes, new: bytes, size_before: int, size_after: int) -> None:
        self.changes.append(Change(offset, old, new, size_before, size_after))

    def synced(self) -> None:
        self.changes.clear()

    def forget(self, fd: int, choose: Random | None) -> int:
        """Take the changes back: all, or by `choose` each with even chance. How many were lost."""
        for change in reversed(self.changes):
            os.ftruncate(fd, change.size_before)
            write_all(fd, change.old, change.offset)
        kept = [] if choose is None else [one for one in self.changes if choose.random() < 0.5]
        for change in kept:
            if change.size_after != change.size_before:
                os.ftruncate(fd, change.size_after)
            room = max(0, os.fstat(fd).st_size - change.offset)
            write_all(fd, change.new[:room], change.offset)
        lost = len(self.changes) - len(kept)
        self.changes.clear()
        return lost


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of it, however often the kernel writes less."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
