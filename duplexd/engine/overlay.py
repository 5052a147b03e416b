"""The changes of a clone: a sparse file over a secondary at its cut. Blocking.

Nothing here writes to the secondary. The file is removed as soon as it is open, so a daemon that is
killed leaves nothing that takes room. A clone ends with its daemon, so nothing of it is synced.

A write of a part of a block reads the rest of that block first, and writes all of it. What the file
holds of a block that is not full is never read, so a write that failed half-way does no harm.

One caller at a time. Each call that may hang is noted in `watch`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.core.overlay_map import BASE, OVERLAY, ZEROES, OverlayMap
from duplexd.core.patience import SECONDARY, Access, OverlayCall
from duplexd.images.holes import first_extents, join
from duplexd.runtime.free_space import free_bytes
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.runtime.disk import Disk, File

_ZERO_BYTES_MAX = 16 << 20  # in one call, which may have to write them

Data = bytes | bytearray | memoryview


class OverlayFiles:
    """The directory of overlays. A file is in it only while it is made."""

    def __init__(self, disk: Disk, directory: str, limits: EngineLimits) -> None:
        self._disk = disk
        self.directory = directory
        self._free_bytes_min = limits.clone_free_bytes_min

    def make(self, sizes: list[int]) -> list[File]:
        """One file of each size, all or none. Raises OSError."""
        files: list[File] = []
        self._disk.make_directory(self.directory)
        for name in self._disk.list(self.directory):  # of a daemon that was killed
            self._disk.remove(os.path.join(self.directory, name))
        try:
            for size in sizes:
                path = os.path.join(self.directory, "overlay")
                files.append(self._disk.create(path, size))
                self._disk.remove(path)
        except BaseException:
            for file in files:
                file.close()
            raise
        return files

    def has_room(self, nbytes: int) -> bool:
        """Whether so much more may be written; true where the file system does not say."""
        free = None
        with suppress(OSError):
            free = free_bytes(self.directory)
        return free is None or free - nbytes >= self._free_bytes_min


class Overlay:
    """Over `leg`, the secondary of `pair`. At most `limit_bytes` of changed blocks."""

    def __init__(
        self, pair: Pair, leg: Leg, file: File, files: OverlayFiles, limit_bytes: int
    ) -> None:
        self.map = OverlayMap(leg.size)
        self.limit_bytes = limit_bytes
        self.watch: Watch[Waited] = Watch()
        self._file = file
        self._files = files
        self._leg = leg
        self._base = Access(pair, leg, SECONDARY)
        self._call = OverlayCall(files.directory)

    @property
    def can_punch(self) -> bool:
        """Whether zeroes give room back."""
        return self._file.can_punch

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer."""
        for start, length, source in self.map.runs(offset, len(buffer)):
            part = buffer[start - offset : start - offset + length]
            if source == BASE:
                with self.watch.at(self._base):
                    self._leg.read_into(start, part)
            elif source == OVERLAY:
                with self.watch.at(self._call):
                    self._file.read_into(start, part)
            else:
                part[:] = bytes(length)

    def write(self, offset: int, data: Data) -> None:
        """Write all of it. Raises OSError ENOSPC, with nothing changed, if there is no room."""
        length = len(data)
        self._check_room(offset, length)
        before, after = self._rest(offset), self._rest_behind(offset + length)
        with self.watch.at(self._call):
            if before or after:
                whole = b"".join((before, data, after))
                self._file.write(offset - len(before), whole)
            else:
                self._file.write(offset, data)
        self.map.write(offset, length)

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        """Make the range read as zeroes; with `allocate` it takes the room of data."""
        if allocate:
            self._check_room(offset, length)
        start, nbytes = self.map.whole(offset, length)
        end = offset + length
        head = min(start, end)
        tail = max(head, start + nbytes)
        if offset < head:
            self._zero_in(offset, head - offset, allocate)
        if nbytes:
            self._zero_blocks(start, nbytes, allocate)
        if tail < end:
            self._zero_in(tail, end - tail, allocate)

    def trim(self, offset: int, length: int) -> None:
        """The same of the blocks that are in the range as a whole; the rest of it stays."""
        start, nbytes = self.map.whole(offset, length)
        if nbytes:
            self._zero_blocks(start, nbytes, allocate=False)

    def extents(
        self, offset: int, length: int, over: Callable[[list[Extent]], bool]
    ) -> list[Extent]:
        """From the start of the range on; fewer than all of them if `over` says so."""
        found: list[Extent] = []
        for start, nbytes, source in self.map.runs(offset, length):
            more = [(start, nbytes, source != ZEROES)]
            if source == BASE and not self._leg.is_block:
                with self.watch.at(self._base):
                    more = first_extents(self._leg, start, nbytes, over)
            join(found, more)
            if over(found) or sum(found[-1][:2]) < start + nbytes:
                break
        return found

    @property
    def base_path(self) -> str:
        """Of the secondary."""
        return self._leg.path

    def close(self) -> None:
        """Give the room back. Nothing is called afterwards."""
        self._file.close()

    # ---------------------------------------------------------------------------------- inside

    def _check_room(self, offset: int, length: int) -> None:
        more = self.map.new_bytes(offset, length)
        if not more:
            return
        if self.map.data_bytes + more > self.limit_bytes:
            raise OSError(errno.ENOSPC, "the clone has reached its limit")
        with self.watch.at(self._call):
            has_room = self._files.has_room(more)
        if not has_room:
            raise OSError(errno.ENOSPC, "the disk of the state directory has no room for clones")

    def _rest(self, offset: int) -> bytes:
        """What is before it in its block."""
        start, _ = self.map.block(offset)
        return self._content(start, offset - start) if offset > start else b""

    def _rest_behind(self, end: int) -> bytes:
        """What is behind it in the block that it ends in."""
        start, length = self.map.block(end - 1)
        return self._content(end, start + length - end) if start + length > end else b""

    def _content(self, offset: int, length: int) -> bytes:
        """Of a part of a block, unless the file has it already."""
        ((_, _, source),) = self.map.runs(offset, length)
        if source == OVERLAY:
            return b""
        content = bytearray(length)
        self.read(offset, memoryview(content))
        return bytes(content)

    def _zero_in(self, offset: int, length: int, allocate: bool) -> None:
        """Zero a part of a block."""
        ((_, _, source),) = self.map.runs(offset, length)
        if source != ZEROES or allocate:
            self.write(offset, bytes(length))

    def _zero_blocks(self, offset: int, length: int, allocate: bool) -> None:
        """Zero whole blocks: in few calls, into however many pieces clients have cut them."""
        if allocate:
            self._zero_file(offset, length, allocate)
            self.map.write(offset, length)
        elif self.can_punch:
            self._zero_file(offset, length, allocate)
            self.map.zero(offset, length)
        else:  # its room is not given back
            for start, nbytes, source in self.map.runs(offset, length):
                if source == OVERLAY:
                    self._zero_file(start, nbytes, allocate)
                else:
                    self.map.zero(start, nbytes)

    def _zero_file(self, offset: int, length: int, allocate: bool) -> None:
        end = offset + length
        for start in range(offset, end, _ZERO_BYTES_MAX):
            nbytes = min(_ZERO_BYTES_MAX, end - start)
            if allocate or self.map.has_data(start, nbytes):
                with self.watch.at(self._call):
                    self._file.zero(start, nbytes, allocate)
