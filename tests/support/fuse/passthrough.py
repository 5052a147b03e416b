"""The file system without its faults: requests about content, and the rest from `names.py`.

Files are opened for reading and writing, as far as permissions go, because forgetting needs what a
write replaces. O_APPEND and O_DIRECT stay out: the kernel gives offsets, and aligns nothing for us.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from duplexd.runtime.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from tests.support.fuse import protocol
from tests.support.fuse.names import Names, fails
from tests.support.fuse.room import blocks_of
from tests.support.fuse.unsynced import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.support.fuse.names import Answer
    from tests.support.fuse.protocol import Request
    from tests.support.fuse.tree import Node

_DROPPED_FLAGS = os.O_APPEND | os.O_DIRECT | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_TMPFILE


class PassThrough(Names):
    """All requests."""

    def __init__(self, below: str, cached: bool, volatile: bool) -> None:
        super().__init__(below)
        self._volatile = volatile
        direct = protocol.FOPEN_DIRECT_IO | protocol.FOPEN_PARALLEL_DIRECT_WRITES
        self._open_flags = 0 if cached else direct

    def limit(self, room_bytes: int | None) -> None:
        with self.room_lock:
            self.room.left = room_bytes

    def forget_unsynced(self, choose: Random | None) -> int:
        """What was not synced is lost, or some of it; how many changes."""
        lost = 0
        for node in self.tree.nodes():
            with node.lock:
                if node.unsynced.changes:
                    fd = os.open(node.by_proc, os.O_RDWR | os.O_CLOEXEC)
                    lost += node.unsynced.forget(fd, choose)
                    node.blocks = blocks_of(fd)
                    os.close(fd)
        return lost

    def setattr(self, request: Request) -> Answer:
        (valid, handle, size, *times, mode, uid, gid) = protocol.SETATTR_IN.unpack_from(
            request.body
        )
        node = self.tree[request.node]
        if valid & protocol.FATTR_MODE:
            os.chmod(node.by_proc, stat.S_IMODE(mode))
        if valid & (protocol.FATTR_UID | protocol.FATTR_GID):
            os.chown(
                node.by_proc,
                uid if valid & protocol.FATTR_UID else -1,
                gid if valid & protocol.FATTR_GID else -1,
            )
        if valid & protocol.FATTR_SIZE:
            self._truncate(node, handle if valid & protocol.FATTR_FH else None, size)
        if valid & (protocol.FATTR_ATIME | protocol.FATTR_MTIME):
            self._set_times(node, valid, times)
        return self.attributes(node)

    @staticmethod
    def _set_times(node: Node, valid: int, times: Sequence[int]) -> None:
        if valid & (protocol.FATTR_ATIME_NOW | protocol.FATTR_MTIME_NOW):
            os.utime(node.by_proc)
            return
        found = os.fstat(node.fd)
        accessed, modified, _, accessed_ns, modified_ns, _ = times
        os.utime(
            node.by_proc,
            ns=(
                accessed * 10**9 + accessed_ns
                if valid & protocol.FATTR_ATIME
                else found.st_atime_ns,
                modified * 10**9 + modified_ns
                if valid & protocol.FATTR_MTIME
                else found.st_mtime_ns,
            ),
        )

    def create(self, request: Request) -> Answer:
        flags, mode, umask, _ = protocol.CREATE_IN.unpack_from(request.body)
        name = protocol.name_of(request.body[protocol.CREATE_IN.size :])
        parent = self.tree[request.node]
        wanted = (flags & ~os.O_ACCMODE & ~_DROPPED_FLAGS) | os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(name, wanted | (flags & os.O_EXCL), mode & ~umask, dir_fd=parent.fd)
        return self._opened(fd, *self.tree.find(parent, name))

    def tmpfile(self, request: Request) -> Answer:
        _, mode, umask, _ = protocol.CREATE_IN.unpack_from(request.body)
        parent = self.tree[request.node]
        wanted = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        fd = os.open(parent.by_proc, wanted, mode & ~umask)
        path_fd = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        return self._opened(fd, *self.tree.adopt(path_fd, parent, b"(unnamed)"))

    def _opened(self, fd: int, node: Node, found: os.stat_result) -> Answer:
        if node.blocks is None:
            node.blocks = blocks_of(fd)
        return (
            protocol.entry(node.number, found),
            protocol.OPEN_OUT.pack(fd, self._open_flags),
        )

    def open(self, request: Request) -> Answer:
        flags, _ = protocol.OPEN_IN.unpack_from(request.body)
        node = self.tree[request.node]
        flags = (flags & ~_DROPPED_FLAGS) | os.O_CLOEXEC
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags = (flags & ~os.O_ACCMODE) | os.O_RDWR
        fd = os.open(node.by_proc, flags & ~os.O_TRUNC)
        if node.blocks is None:
            node.blocks = blocks_of(fd)
        if flags & os.O_TRUNC:
            self._truncate(node, fd, 0)
        return (protocol.OPEN_OUT.pack(fd, self._open_flags),)

    def read(self, request: Request) -> Answer:
        handle, offset, size, *_ = protocol.READ_IN.unpack_from(request.body)
        return (os.pread(handle, size, offset),)

    def write(self, request: Request) -> Answer:
        handle, offset, size, _, _, flags = protocol.WRITE_IN.unpack_from(request.body)
        data = request.body[protocol.WRITE_IN.size : protocol.WRITE_IN.size + size]
        node = self.tree[request.node]
        with node.lock:
            self._take_room(node, offset, size)
            if not self._volatile or not flags & os.O_DSYNC:
                self._change(node, handle, offset, data)
            else:
                write_all(handle, data, offset)
                node.unsynced.synced()
        return (protocol.WRITE_OUT.pack(size),)

    def _take_room(self, node: Node, offset: int, length: int) -> None:
        assert node.blocks is not None
        with self.room_lock:
            self.room.take(node.blocks, offset, length)

    def _change(self, node: Node, fd: int, offset: int, data: memoryview) -> None:
        if not self._volatile:
            write_all(fd, data, offset)
            return
        size = os.fstat(fd).st_size
        old = os.pread(fd, len(data), offset)
        write_all(fd, data, offset)
        node.unsynced.note(offset, old, bytes(data), size, max(size, offset + len(data)))

    def _truncate(self, node: Node, handle: int | None, size: int) -> None:
        fd = os.open(node.by_proc, os.O_RDWR | os.O_CLOEXEC) if handle is None else handle
        try:
            with node.lock:
                before = os.fstat(fd).st_size
                cut_off = os.pread(fd, max(0, before - size), size) if self._volatile else b""
                os.ftruncate(fd, size)
                if self._volatile:
                    node.unsynced.note(size, cut_off, b"", before, size)
                if node.blocks is not None:
                    with self.room_lock:
                        self.room.give(node.blocks, size, len(node.blocks) << 12)
        finally:
            if handle is None:
                os.close(fd)

    def fallocate(self, request: Request) -> Answer:
        handle, offset, length, mode = protocol.FALLOCATE_IN.unpack_from(request.body)
        node = self.tree[request.node]
        with node.lock:
            if not mode & PUNCH_HOLE:
                self._take_room(node, offset, length)
            size = os.fstat(handle).st_size
            old = os.pread(handle, length, offset) if self._volatile else b""
            if not fallocate(handle, mode, offset, length):
                raise fails(errno.EOPNOTSUPP)
            if mode & PUNCH_HOLE and node.blocks is not None:
                with self.room_lock:
                    self.room.give(node.blocks, offset, offset + length)
            if self._volatile:
                new = bytes(len(old)) if mode & (PUNCH_HOLE | ZERO_RANGE) else old
                after = size if mode & KEEP_SIZE else max(size, offset + length)
                node.unsynced.note(offset, old, new, size, after)
        return ()

    def lseek(self, request: Request) -> Answer:
        handle, offset, whence = protocol.LSEEK_IN.unpack_from(request.body)
        return (protocol.LSEEK_OUT.pack(os.lseek(handle, offset, whence)),)

    def fsync(self, request: Request) -> Answer:
        node = self.tree[request.node]
        with node.lock:
            node.unsynced.synced()
        return ()
