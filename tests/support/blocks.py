"""A client's model of a volume: for each block the versions that it may hold.

It is valid for any server that keeps its promises. A change gets a number when it is sent, another
when it is acknowledged. A block may hold a version unless a change that was sent after that
version's acknowledgement has itself been acknowledged. So concurrent changes may win in either
order, and a change that was never answered may be there or not.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 4096
_HEAD = struct.Struct("<QQ")
_ZEROES = bytes(BLOCK_BYTES)


def content(version: int, block: int) -> bytes:
    """The bytes of a version of a block: the same in every 16 bytes, so that a torn block is seen.
    Version 0 is zeroes.
    """
    return _HEAD.pack(version, block) * (BLOCK_BYTES // _HEAD.size) if version else _ZEROES


def version_of(data: bytes | memoryview, block: int) -> int:
    """The version that a block's bytes are, or -1 if they are none: torn, or of another block."""
    version, _ = _HEAD.unpack_from(data)
    return version if bytes(data) == content(version, block) else -1


class _Entry:
    __slots__ = ("acknowledged", "sent", "version")

    def __init__(self, version: int, sent: int) -> None:
        self.version = version
        self.sent = sent
        self.acknowledged = 0


class Change:
    """A change in flight. `version` is 0 for zeroes and trims. `may_keep`: a trim that may not be
    possible, so that it zeroes or does nothing.
    """

    __slots__ = ("count", "entries", "first", "may_keep", "version")

    def __init__(
        self, first: int, count: int, version: int, entries: list[_Entry], may_keep: bool
    ) -> None:
        self.may_keep = may_keep
        self.first = first
        self.count = count
        self.version = version
        self.entries = entries

    def payload(self) -> bytes:
        """What a WRITE sends."""
        return b"".join(
            content(self.version, block) for block in range(self.first, self.first + self.count)
        )


class Blocks:
    """One volume. Single-threaded."""

    def __init__(self, size: int) -> None:
        self.count = size // BLOCK_BYTES
        self.changes = 0
        self.acknowledged = 0
        self.written = 0  # of those acknowledged, the ones that are neither zeroes nor trims
        self.touched: set[int] = set()  # blocks changed since `forget_touched`
        self._tick = 0
        self._version = 0
        self._entries: list[list[_Entry]] = [[_Entry(0, 0)] for _ in range(self.count)]
        self._watched: list[list[set[int]]] = []

    def send(self, first: int, count: int, zero: bool = False, may_keep: bool = False) -> Change:
        """Add a change that is about to be sent."""
        self._tick += 1
        self._version += not zero
        self.changes += 1
        version = 0 if zero else self._version
        entries = [_Entry(version, self._tick) for _ in range(count)]
        for block, entry in enumerate(entries, first):
            self._entries[block].append(entry)
            for watched in self._watched:
                watched[block].add(version)
        self.touched.update(range(first, first + count))
        return Change(first, count, version, entries, may_keep)

    def acknowledge(self, change: Change) -> None:
        """Its reply arrived."""
        self._tick += 1
        self.acknowledged += 1
        self.written += change.version > 0
        for block, entry in enumerate(change.entries, change.first):
            entry.acknowledged = self._tick
            if change.may_keep:
                continue
            self._entries[block] = [
                other
                for other in self._entries[block]
                if not 0 < other.acknowledged < entry.sent or other is entry
            ]

    def forget_touched(self) -> set[int]:
        """The blocks changed since the last call; those with a change in flight will be returned
        again.
        """
        touched = self.touched
        self.touched = {
            block
            for block, entries in enumerate(self._entries)
            if any(entry.sent and not entry.acknowledged for entry in entries)
        }
        return touched

    def allowed(self) -> list[set[int]]:
        """For each block the versions it may hold now, or once the changes in flight are done."""
        return [{entry.version for entry in entries} for entries in self._entries]

    @contextmanager
    def watch(self) -> Iterator[list[set[int]]]:
        """For each block all versions that it may hold at any moment within the `with`."""
        watched = self.allowed()
        self._watched.append(watched)
        try:
            yield watched
        finally:
            self._watched.remove(watched)

    def settle(self, data: bytes, what: str) -> None:
        """Check `data`, the content with nothing in flight, and take it as the new state."""
        found = check(data, self.allowed(), what)
        self._entries = [[_Entry(version, 0)] for version in found]


def check(data: bytes, allowed: list[set[int]], what: str) -> list[int]:
    """The version of each block of an image. AssertionError, naming the first wrong blocks, if one
    is not among those allowed.
    """
    assert len(data) == len(allowed) * BLOCK_BYTES, f"{what}: {len(data)} bytes"
    view = memoryview(data)
    found = [
        version_of(view[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES], block)
        for block in range(len(allowed))
    ]
    wrong = [
        f"block {block} holds {version if version >= 0 else 'no whole version'}, "
        f"allowed {sorted(versions)}"
        for block, (version, versions) in enumerate(zip(found, allowed, strict=True))
        if version not in versions
    ]
    assert not wrong, f"{what}: {len(wrong)} wrong blocks: {'; '.join(wrong[:5])}"
    return found
