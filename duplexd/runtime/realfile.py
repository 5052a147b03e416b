"""A `File` on the operating system: positional reads and writes, holes, one `fdatasync`.

Methods are called from the loop and from worker threads at once, so there is no position and no
buffer: `pread` and `pwrite` only. What the file system cannot do (no RWF_NOWAIT, no holes) is tried
once, remembered, and replaced by what always works.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.runtime.fallocate import KEEP_SIZE, PUNCH_HOLE, UNSUPPORTED, ZERO_RANGE, fallocate
from duplexd.runtime.machine import at_once_bytes_max, in_memory, punches
from duplexd.runtime.medium import read_direct
from duplexd.runtime.page_cache import is_cached
from duplexd.runtime.stamp import Stamp, read_mark, stamp, write_mark
from duplexd.runtime.writeback import Losses, LostWritesError, write_back, write_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Pages

Data = bytes | bytearray | memoryview
IOV_MAX = 1024
BLOCK_ALIGNMENT_BYTES = (
    4096  # block devices zero whole logical blocks; whole pages keep the page cache out of it
)
_ZEROES = bytes(1 << 20)
_NOWAIT = os.RWF_NOWAIT


class RealFile:
    """See `duplexd.runtime.disk.File`. Owns the descriptor; every method may be called from any
    thread. Errors name the path, which the kernel's do not.
    """

    __slots__ = (
        "_alignment",
        "_at_once_max",
        "_direct",
        "_fd",
        "_in_memory",
        "_losses",
        "_nowait",
        "_punches",
        "_reserves",
        "_zeroes",
        "device",
        "is_block",
        "path",
        "size",
    )

    def __init__(self, fd: int, path: str, size: int, is_block: bool) -> None:
        self._fd = fd
        self.path = path
        self.size = size
        self.is_block = is_block
        self._alignment = BLOCK_ALIGNMENT_BYTES if is_block else 1
        self._at_once_max = at_once_bytes_max(fd)
        # Asked once: any call on the descriptor may hang
        self._in_memory = in_memory(fd)
        self.device = stamp(fd, is_block).device
        self._nowait = True
        self._direct = True
        self._punches = punches(fd, size, is_block)
        self._zeroes = True
        self._reserves = not is_block
        self._losses = Losses(fd)

    @property
    def can_punch(self) -> bool:
        """Whether `zero(..., allocate=False)` gives space back."""
        return self._punches

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            error.filename = self.path
            raise
        if len(data) == length:  # without a second copy: it may be a whole segment of the journal
            self._find_loss()
            return data
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            done = os.preadv(self._fd, [buffer], offset)
            while done < len(buffer):
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
                if count == 0:
                    raise OSError(errno.EIO, "read past the end")
                done += count
        except OSError as error:
            error.filename = self.path
            raise
        self._find_loss()

    def _find_loss(self) -> None:
        """Raise if the disk has lost writes: what was read may be what it had before them."""
        if (loss := self._losses.find()) is not None:
            raise LostWritesError(loss.errno, loss.strerror, self.path)

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        with suppress(OSError):  # what the disk did not take is found below
            self._write_back(offset, len(buffer), drop=not self._direct)
        try:
            self._direct = self._direct and read_direct(self._fd, offset, buffer)
        except OSError as error:
            error.filename = self.path
            raise
        if self._direct:
            self._find_loss()
            return
        with suppress(OSError):
            self._write_back(offset, len(buffer), drop=True)
        self.read_into(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        if not self._nowait:
            return self._read_in_memory(offset, buffer)
        try:
            return os.preadv(self._fd, (buffer,), offset, _NOWAIT) == len(buffer)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._nowait = False
            return self._read_in_memory(offset, buffer)

    def has_lost_writes(self) -> bool:
        # The kernel may have read it from the disk just now, after that had refused what was here.
        return self._losses.find() is not None

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        # A page that is being read is in the page cache already. Those of a read ahead arrive in
        # order, nearly always: the last one says whether that is over.
        return (
            self._nowait
            and is_cached(self._fd, offset, length)
            and self.read_cached(offset + length - 1, memoryview(bytearray(1)))
            and pipe.put_pages(self._fd, offset, length)
        )

    def _read_in_memory(self, offset: int, buffer: memoryview) -> bool:
        """No RWF_NOWAIT here: where the file system lives in memory a plain read does not block
        either.
        """
        if not self._in_memory:
            return False
        self.read_into(offset, buffer)
        return True

    def write(self, offset: int, data: Data) -> None:
        length = len(data)
        if offset + length >= self.size:
            self._reach_end(offset + length)
        try:
            # A write makes folios only of what is not in the page cache yet
            if length > self._at_once_max and not is_cached(self._fd, offset, length):
                self._write_in_pieces(offset, data)
                return
            done = os.pwrite(self._fd, data, offset)
            if done != length:
                self._write_rest([data], offset, done)
        except OSError as error:
            error.filename = self.path
            raise
        finally:
            self._losses.written = object()

    def _reach_end(self, end: int) -> None:
        """A write of the last byte makes a file that was truncated as long as before, and nothing
        would tell any more what it has lost. So it is looked at first. Raises OSError.
        """
        if end > self.size:
            raise OSError(errno.EIO, "write past the end", self.path)
        if not self.is_block and (found := os.fstat(self._fd).st_size) < end:
            why = f"the file was truncated: it has {found} bytes of {self.size}"
            raise OSError(errno.ESTALE, why, self.path)

    def _write_in_pieces(self, offset: int, data: Data) -> None:
        """None goes over a multiple of their size, so that each is one folio."""
        fd, view, piece_max = self._fd, memoryview(data), self._at_once_max
        first = piece_max - offset % piece_max
        done = os.pwrite(fd, view[:first], offset)
        for at in range(first, len(view), piece_max):
            done += os.pwrite(fd, view[at : at + piece_max], offset + at)
        if done != len(view):  # whichever it was
            self._write_rest([data], offset, 0)

    def writev(self, offset: int, buffers: Sequence[Data], nbytes: int) -> None:
        if offset + nbytes > self.size:
            raise OSError(errno.EIO, "write past the end", self.path)
        try:
            done = os.pwritev(
                self._fd, buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX], offset
            )
            if done != nbytes:
                self._write_rest(buffers, offset, done)
        except OSError as error:
            error.filename = self.path
            raise
        finally:
            self._losses.written = object()

    def _write_rest(self, buffers: Sequence[Data], offset: int, done: int) -> None:
        """Go on after a short write: skip `done` bytes of `buffers`, write what is left from
        `offset + done` on.
        """
        rest = [memoryview(buffer).cast("B") for buffer in buffers]
        index, skip = 0, done
        offset += done
        while True:
            while index < len(rest) and skip >= len(rest[index]):
                skip -= len(rest[index])
                index += 1
            if index == len(rest):
                return
            rest[index] = rest[index][skip:]
            skip = os.pwritev(self._fd, rest[index : index + IOV_MAX], offset)
            if skip == 0:
                raise OSError(errno.EIO, "the kernel wrote nothing")
            offset += skip

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        if offset + length > self.size:
            raise OSError(errno.EIO, "write past the end", self.path)
        alignment = self._alignment
        start = -(-offset // alignment) * alignment
        end = (offset + length) // alignment * alignment
        if start >= end:
            self._write_zeroes(offset, length)
            return
        self._write_zeroes(offset, start - offset)
        try:
            done = self._zero_aligned(start, end - start, allocate)
        finally:
            self._losses.written = object()
        if not done:
            self._write_zeroes(start, end - start)
        self._write_zeroes(end, offset + length - end)

    def _zero_aligned(self, offset: int, length: int, allocate: bool) -> bool:
        if not allocate and self._punches:
            self._punches = fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            if self._punches:
                return True
        if self._zeroes:
            self._zeroes = fallocate(self._fd, ZERO_RANGE | KEEP_SIZE, offset, length)
        return self._zeroes

    def _write_zeroes(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            piece = min(len(_ZEROES), end - offset)
            self.write(offset, memoryview(_ZEROES)[:piece])
            offset += piece

    def resize(self, size: int) -> None:
        before = self.size
        try:
            if not self.is_block:
                if os.fstat(self._fd).st_size > before:  # what lies beyond is not the volume's
                    os.ftruncate(self._fd, before)
                os.ftruncate(self._fd, size)
            elif size > (found := os.lseek(self._fd, 0, os.SEEK_END)):
                why = f"the device has {found} bytes, and {size} are needed: enlarge it first"
                raise OSError(errno.ENOSPC, why)
        except OSError as error:
            error.filename = self.path
            raise
        self.size = size
        if self.is_block and size > before:
            self.zero(before, size - before, allocate=False)

    def reserve(self, offset: int, length: int) -> None:
        if self._reserves and length > 0:
            self._reserves = fallocate(self._fd, KEEP_SIZE, offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        if self.is_block:
            return [(offset, length, True)] if length else []
        if os.fstat(self._fd).st_size < offset + length:  # else its missing end would be a hole
            raise OSError(errno.EIO, "the file was truncated", self.path)
        found: list[tuple[int, int, bool]] = []
        end = offset + length
        while offset < end and len(found) < count_max:
            data = min(self._seek(offset, os.SEEK_DATA, end), end)
            if data > offset:
                found.append((offset, data - offset, False))
            if data < end:
                hole = min(self._seek(data, os.SEEK_HOLE, end), end)
                found.append((data, hole - data, True))
                data = hole
            offset = data
        self._find_loss()  # else what was lost before it had blocks would be a hole
        return found

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                return end
            if error.errno in UNSUPPORTED or error.errno == errno.EINVAL:
                return offset if whence == os.SEEK_DATA else end
            raise

    def write_back(self, offset: int, length: int) -> None:
        self._write_back(offset, length, drop=True)

    def _write_back(self, offset: int, length: int, drop: bool) -> None:
        if (loss := write_back(self._fd, offset, length, drop)) is not None:
            self._losses.note(loss)
        self._find_loss()

    def write_out(self, offset: int, length: int) -> None:
        if (loss := write_out(self._fd, offset, length)) is not None:
            self._losses.note(loss)

    def sync(self, times: bool = False) -> None:
        written = self._losses.written
        try:
            (os.fsync if times else os.fdatasync)(self._fd)
        except OSError as error:
            self._losses.note(error, reported=True)  # first of all: others read meanwhile
            error.filename = self.path
            raise
        if (loss := self._losses.synced(written)) is not None:
            raise LostWritesError(loss.errno, loss.strerror, self.path)

    def drop_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def stamp(self) -> Stamp:
        return stamp(self._fd, self.is_block)

    def read_mark(self) -> bytes:
        return b"" if self.is_block else read_mark(self._fd)

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        return not self.is_block and write_mark(self._fd, mark, durable)

    def in_place(self, path: str = "") -> bool:
        try:
            there = os.stat(path or self.path)
        except OSError:
            return False
        ours = os.fstat(self._fd)
        if self.is_block:  # another node may name the same device
            return stat.S_ISBLK(there.st_mode) and there.st_rdev == ours.st_rdev
        return os.path.samestat(there, ours)

    def __del__(self) -> None:
        """One that a thread hangs in is not closed by anybody else: it is when that has ended."""
        self.close()

    def close(self) -> None:
        """Gives up the lock too. Harmless when closed already."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
