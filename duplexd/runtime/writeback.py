"""What the kernel could not write to a disk, and what it still has in memory.

A write goes to the page cache and succeeds. The kernel writes the pages later, by itself, and if
the disk refuses them then, it calls them clean nevertheless: they are dropped when memory is
wanted, and the next read returns what the disk had before. Only a sync says that something was
lost, so what is read from a disk counts only if nothing had been lost by then. sync_file_range(2)
says it at once: for a range beyond the end there is nothing to write or to wait for.

The kernel reports a loss once to each descriptor: only the first call that asks gets it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_BEYOND = 1 << 62  # the end of any file
# Pipes, odd file systems, sandboxes: the next sync says it, as ever
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EPERM, errno.ESPIPE, errno.EINVAL})


class LostWritesError(OSError):
    """The disk has not taken writes that had succeeded. Which ones is not known."""


_ask = ctypes.PyDLL(None, use_errno=True).sync_file_range  # keeps the GIL: it does not wait
_wait = ctypes.CDLL(None, use_errno=True).sync_file_range
_wait.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_RANGE = (ctypes.c_int64(_BEYOND), ctypes.c_int64(1), ctypes.c_uint(_WAIT_BEFORE))


class Losses:
    """What a disk has lost of what was written through one descriptor, as `find` and the syncs hear
    of it.

    A sync reports a loss by failing, in a worker. Who waits for that sync acts on it later, and
    until then others may read. So a loss is known until the next sync has succeeded: that begins
    after the consequences, for example once a secondary was copied again as a whole.

    `find` is called for each read in a worker, and once for those of a wake-up in the loop: 1 to 4
    us with arguments that are made once, as much as a read of 4 KiB takes. So the kernel is not
    asked while nothing was written since a sync that succeeded: there is nothing to lose. A
    writer sets `written` to a new object, after the write, whether it succeeded or not: what a sync
    does not cover for certain counts as written after it.
    """

    __slots__ = ("_arguments", "_lock", "_reported", "_synced", "known", "written")

    def __init__(self, fd: int) -> None:
        self._arguments = (ctypes.c_int(fd), *_RANGE)
        self._lock = threading.Lock()
        self._reported = False
        self._synced: object = None  # what `written` was before the last sync that succeeded
        self.known: OSError | None = None
        self.written: object = object()  # by others, before: not known

    def find(self) -> OSError | None:
        """Ask, and return what is known. Does not wait."""
        if self.written is self._synced:
            return self.known
        with self._lock:  # the next call does not get this answer, so it is noted before
            if _ask(*self._arguments) and (loss := _error(-1)) is not None:
                self.known, self._reported = loss, False
            return self.known

    def note(self, loss: OSError, reported: bool = False) -> None:
        """Another call has heard of it; `reported`: a sync, which fails for that."""
        with self._lock:
            self.known, self._reported = loss, reported

    def synced(self, written: object) -> OSError | None:
        """A sync has succeeded; `written` is what it was before. Returns what it has to report
        nevertheless: a loss that the kernel has named to another call.
        """
        with self._lock:
            if self.known is None or self._reported:
                self.known = None
                self._synced = written
                return None
            self._reported = True
            return self.known


def write_back(fd: int, offset: int, length: int, drop: bool = True) -> OSError | None:
    """Write a range to the disk, and drop its pages, so that they are read from there. Blocking.

    Not a sync: the disk may have it in a cache of its own.
    """
    loss = _error(_wait(fd, offset, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER))
    if loss is None and drop:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    return loss


def write_out(fd: int, offset: int, length: int) -> OSError | None:
    """Begin to write a range to the disk. Waits only while the disk takes no more requests.

    Returns what cannot be begun: the kernel may say it to this call alone. It reports what fails
    later to the next sync.
    """
    return _error(_wait(fd, offset, length, _WRITE))


def _error(result: int) -> OSError | None:
    code = ctypes.get_errno() if result else 0
    if not code or code in _UNSUPPORTED:
        return None
    return LostWritesError(code, f"the disk has lost writes: {os.strerror(code)}")
