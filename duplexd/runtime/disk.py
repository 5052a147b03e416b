"""Files and directories as parameters: `File`, `Disk`, and `RealDisk` on the operating system.

Everything that must survive a crash goes through these two protocols, and nothing else of the file
system is used by the code above. That is what lets the tests run the same code on a disk that
forgets what was not synced, tears writes and fails on demand, thousands of times a minute.

Offsets and lengths are bytes, buffers are of bytes (`memoryview.itemsize == 1`), ranges lie within
the file: no file grows, but by `resize`.
"""

from __future__ import annotations

import os
from sys import maxsize
from typing import TYPE_CHECKING, Protocol

from duplexd.runtime import directory, machine, realfile
from duplexd.runtime.locked import PRIVATE, Ownership, create_locked, measure, open_locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Pages
    from duplexd.runtime.reserve import Reserve
    from duplexd.runtime.stamp import Stamp

Data = realfile.Data


class File(Protocol):
    """An open image or segment of known size, locked against any other opener. Methods may be
    called from any thread.
    """

    path: str
    size: int
    is_block: bool
    device: str  # what its disk is called

    @property
    def can_punch(self) -> bool:
        """Whether `zero(..., allocate=False)` gives space back."""

    def read(self, offset: int, length: int, /) -> bytes:
        """Exactly `length` bytes. Past the end: OSError EIO."""

    def read_into(self, offset: int, buffer: memoryview, /) -> None:
        """Fill the whole buffer, or raise OSError (EIO past the end). LostWritesError if the disk
        has lost writes that had succeeded, until a `sync` has succeeded after the one that reported
        it: what it returns may be older than they are.
        """

    def read_medium(self, offset: int, buffer: memoryview, /) -> None:
        """As `read_into`, but from the disk, whatever memory has of it."""

    def read_cached(self, offset: int, buffer: memoryview, /) -> bool:
        """Fill the whole buffer without waiting for the disk; False (buffer undefined) if that
        cannot be. Real errors raise. What was filled counts only if `has_lost_writes` denies it
        afterwards: asked once for many reads, because it takes half as long as one.
        """

    def put_pages(self, offset: int, length: int, pipe: Pages, /) -> bool:
        """Let `pipe` refer to the range, without copying it. False if the page cache does not have
        all of it, or it is not known: the pipe may have any part of it then. It should not wait for
        the disk, but may. What was put counts only if `has_lost_writes` denies it afterwards.
        """

    def has_lost_writes(self) -> bool:
        """Whether `read_into` would raise LostWritesError. Does not wait."""

    def write(self, offset: int, data: Data, /) -> None:
        """Write all of it, or raise OSError: then any part of it may have been written. ESTALE, and
        nothing written, if it would make a file long again that was truncated.
        """

    def writev(self, offset: int, buffers: Sequence[Data], nbytes: int, /) -> None:
        """Write all buffers, `nbytes` in all, one after the other; any number of them. Errors as
        `write`.
        """

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        """Make the range read as zeroes: with its space kept (`allocate`), or as a hole where
        possible.
        """

    def resize(self, size: int, /) -> None:
        """Be `size` bytes from now on. What it gains reads as zeroes, whatever was there; a device
        only has to be as large. Not durable before the next sync. After an OSError what is beyond
        the size that it had is not known.
        """

    def reserve(self, offset: int, length: int, /) -> None:
        """See to it that a following write of the range cannot meet ENOSPC, where the file system
        can promise that.

        Raises OSError ENOSPC, with the content as it was.
        """

    def extents(
        self, offset: int, length: int, count_max: int = maxsize, /
    ) -> list[tuple[int, int, bool]]:
        """`(offset, length, is_data)` in order, covering the range exactly, or its beginning once
        there are `count_max` and perhaps one more. What is not data reads as zeroes, allocated or
        not.

        Where holes cannot be found all is data.
        """

    def write_back(self, offset: int, length: int, /) -> None:
        """Bring a range to the disk, so that the next read of it asks the disk and not the memory.
        Raises OSError if the disk does not take it, or has lost other writes. Not a `sync`.
        """

    def write_out(self, offset: int, length: int, /) -> None:
        """Begin to bring a range to the disk, so that a later `sync` has less to wait for. Does not
        wait for it, and says nothing of errors: the sync does.
        """

    def sync(self, times: bool = False) -> None:
        """Everything written before this call survives a power cut; with `times` the time of the
        last modification does, too. An OSError is final: what was lost is not known.
        """

    def drop_cache(self) -> None:
        """What is read from now on comes from the medium, where the system can do that: after a
        sync that failed, the page cache shows what the medium never got. What was written since the
        last sync stays.
        """

    def stamp(self) -> Stamp:
        """Which file it is, its size now, and when it was last modified."""

    def read_mark(self) -> bytes:
        """What `write_mark` wrote last, in any run of the daemon; b"" if nothing."""

    def write_mark(self, mark: bytes, /, durable: bool) -> bool:
        """Let the file carry a mark of a few hundred bytes, beside its content. False if it cannot
        carry one. `durable`, or else at the next sync with `times`.
        """

    def in_place(self, path: str = "") -> bool:
        """Whether a path, its own if none is given, leads to this file. Its own does not any more
        once the file was deleted, moved or replaced, or if that can't be looked up.
        """

    def close(self) -> None:
        """Give up file and lock. Does not sync."""


class Disk(Protocol):
    """The directories a controller keeps its things in. What changes a directory is durable when it
    returns.
    """

    def open(self, path: str, /) -> File:
        """An existing regular file or block device, for this opener alone. OSError EBUSY if it is
        open already, by anyone.
        """

    def create(self, path: str, size: int, /, allocate: bool = False) -> File:
        """A new file of zeroes: there whole or not at all, durable. Sparse, or written through when
        `allocate`.

        Makes missing parent directories. OSError EEXIST if it exists.
        """

    def exists(self, path: str, /) -> bool:
        """Whether something of that name is there. OSError if that is unknown."""

    def size(self, path: str, /) -> int:
        """Bytes of a file or block device."""

    def mount(self, path: str, /) -> str:
        """Names the mount of the file system that a path is on: differs once it was mounted anew.
        "" where the kernel does not say. OSError if there is nothing at the path.
        """

    def list(self, path: str, /) -> list[str]:
        """The names in a directory, sorted."""

    def make_directory(self, path: str, /) -> None:
        """The directory and its parents; nothing if it is there. OSError ENOTDIR if something else
        is in the way.
        """

    def remove(self, path: str, /) -> None:
        """Remove a file, durably."""

    def read_file(self, path: str, /) -> bytes:
        """All of a small file."""

    def replace_file(self, path: str, data: bytes, /) -> None:
        """Give a small file new content, atomically and durably: after a power cut it holds the old
        or the new, whole.
        """


class RealDisk:
    """See `Disk`. Files that it creates are private, except images: those outside of the directory
    `private`. Small files in it are replaced with the room of `spare` where there is no other.
    """

    __slots__ = ("_images", "_private", "_spare")

    def __init__(
        self, private: str = "", images: Ownership = PRIVATE, spare: Reserve | None = None
    ) -> None:
        self._private = os.path.join(private, "")
        self._images = images
        self._spare = spare

    def open(self, path: str) -> File:
        fd, is_block = open_locked(path)
        return realfile.RealFile(fd, path, measure(fd), is_block)

    def create(self, path: str, size: int, allocate: bool = False) -> File:
        directory.make(directory.parent(path))
        owned = PRIVATE if path.startswith(self._private) else self._images
        return realfile.RealFile(create_locked(path, size, allocate, owned), path, size, False)

    def replace_file(self, path: str, data: bytes) -> None:
        if self._spare is None or not path.startswith(self._private):
            directory.replace_file(path, data)
        else:
            self._spare.lend(lambda: directory.replace_file(path, data))

    exists = staticmethod(directory.exists)
    size = staticmethod(directory.size)
    mount = staticmethod(machine.mount)
    list = staticmethod(directory.names)
    make_directory = staticmethod(directory.make)
    remove = staticmethod(directory.remove)
    read_file = staticmethod(directory.read_file)
