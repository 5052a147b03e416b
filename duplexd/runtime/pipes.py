"""Pipes that hold pages of the page cache, on their way to a socket: splice(2) copies nothing.

A read and a send copy 1 MiB twice, which takes the daemon 190 us. To refer to the pages in a pipe,
and to them again in the buffer of a Unix socket, takes 36 us; the client copies them in any case.

What a pipe refers to stays in memory, also where the file was truncated meanwhile or the disk has
failed. But it is the page itself: a later write shows in it until the client has taken it. So this
is for replies to requests, which may have any order among those that are in flight.

Nobody gives a pipe back, as with `buffers.py`, for the same reason: the thread of a call that hung
may put something into its own at any later time. One that the list alone refers to is free, and
used again if it is empty.
"""

from __future__ import annotations

import fcntl
import os
from mmap import PAGESIZE
from sys import getrefcount

PIPE_BYTES = 1 << 20  # the most that the kernel gives without privileges
REFUSED_TAKES = 100  # until the system is asked again, which costs more than it may save
_FREE = 2  # references: in the list, and to ask


class Pipe:
    """Nothing in it waits: neither who puts something into it, nor who takes it out. Raises OSError
    if the system has no room for it.
    """

    __slots__ = ("_from", "_into", "_nbytes")

    def __init__(self) -> None:
        self._nbytes = 0
        self._from, self._into = -1, -1
        self._from, self._into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def __len__(self) -> int:
        """The bytes that are in it."""
        return self._nbytes

    def put(self, data: bytes | memoryview) -> bool:
        """Copy `data` into it; False if not all of it has room."""
        count = os.write(self._into, data)
        self._nbytes += count
        return count == len(data)

    def put_pages(self, fd: int, offset: int, length: int) -> bool:
        """Refer to a range of a file; False if not all of it has room. What is not in the page
        cache is read from the disk first.
        """
        first, last = offset // PAGESIZE, (offset + length - 1) // PAGESIZE
        if (last + 1 - first) * PAGESIZE > PIPE_BYTES:  # a part of a page takes as much as a whole
            return False
        done = 0
        while done < length:
            try:
                count = os.splice(fd, self._into, length - done, offset_src=offset + done)
            except BlockingIOError:  # it is full
                count = 0
            if not count:
                break
            done += count
            self._nbytes += count  # at once: the next call may fail, and the pipe is not empty then
        return done == length

    def send(self, fd: int) -> int:
        """Move to a socket what that takes now. Raises BlockingIOError if it takes nothing."""
        sent = os.splice(self._from, fd, self._nbytes)
        self._nbytes -= sent
        return sent

    def read(self) -> bytes:
        """Take all that is in it."""
        parts: list[bytes] = []
        while self._nbytes:
            parts.append(os.read(self._from, self._nbytes))
            self._nbytes -= len(parts[-1])
        return b"".join(parts)

    def __del__(self) -> None:
        for fd in (self._from, self._into):
            if fd >= 0:
                os.close(fd)


class Pipes:
    """At most `count_max`, in use or not. Belongs to one thread."""

    __slots__ = ("_count_max", "_kept", "_refused")

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._kept: list[Pipe] = []
        self._refused = 0  # who get none, because the system had no more a short while ago

    def take(self) -> Pipe | None:
        """An empty one; None if all are in use, or the system has no more."""
        kept = self._kept
        for at in range(len(kept)):
            if getrefcount(kept[at]) == _FREE:
                if not len(kept[at]):
                    return kept[at]
                del kept[at]  # what is in it was not sent
                break
        if len(kept) >= self._count_max:
            return None
        if self._refused:
            self._refused -= 1
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._refused = REFUSED_TAKES
            return None
        kept.append(pipe)
        return pipe

    def clear(self) -> None:
        """Keep none for now."""
        self._kept.clear()
