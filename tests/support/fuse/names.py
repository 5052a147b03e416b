"""Requests about names and attributes, carried out in the directory below."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

from tests.support.fuse import protocol
from tests.support.fuse.room import Room
from tests.support.fuse.tree import Node, Tree

if TYPE_CHECKING:
    from tests.support.fuse.protocol import Request

Answer = tuple[bytes, ...]
_AT_EMPTY_PATH = 0x1000
_STATX_BYTES, _STATX_SAME_BYTES, _FUSE_STATX_BYTES = 256, 144, 256
_libc = ctypes.CDLL(None, use_errno=True)


def fails(code: int) -> OSError:
    """An error without a path."""
    return OSError(code, os.strerror(code))


class Names:
    """A method takes a request, returns the pieces of its answer, and raises OSError to fail it."""

    def __init__(self, below: str) -> None:
        self.tree = Tree(below)
        self.room = Room()
        self.room_lock = threading.Lock()
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}

    def lookup(self, request: Request) -> Answer:
        return self._entry(self.tree[request.node], protocol.name_of(request.body))

    def _entry(self, parent: Node, name: bytes) -> Answer:
        node, found = self.tree.find(parent, name)
        return (protocol.entry(node.number, found),)

    def mkdir(self, request: Request) -> Answer:
        mode, umask = protocol.MKDIR_IN.unpack_from(request.body)
        name = protocol.name_of(request.body[protocol.MKDIR_IN.size :])
        parent = self.tree[request.node]
        os.mkdir(name, mode & ~umask, dir_fd=parent.fd)
        return self._entry(parent, name)

    def mknod(self, request: Request) -> Answer:
        mode, device, umask, _ = protocol.MKNOD_IN.unpack_from(request.body)
        name = protocol.name_of(request.body[protocol.MKNOD_IN.size :])
        parent = self.tree[request.node]
        os.mknod(name, mode & ~umask, device, dir_fd=parent.fd)
        return self._entry(parent, name)

    def symlink(self, request: Request) -> Answer:
        name, target = protocol.two_names(request.body)
        parent = self.tree[request.node]
        os.symlink(target, name, dir_fd=parent.fd)
        return self._entry(parent, name)

    def readlink(self, request: Request) -> Answer:
        # an O_PATH descriptor of a link, with an empty name, is read itself
        return (os.readlink(b"", dir_fd=self.tree[request.node].fd),)

    def link(self, request: Request) -> Answer:
        (source,) = protocol.U64.unpack_from(request.body)
        name = protocol.name_of(request.body[protocol.U64.size :])
        parent = self.tree[request.node]
        os.link(self.tree[source].by_proc, name, dst_dir_fd=parent.fd, follow_symlinks=True)
        return self._entry(parent, name)

    def unlink(self, request: Request) -> Answer:
        parent, name = self.tree[request.node], protocol.name_of(request.body)
        node = self.tree.known(parent, name)
        os.unlink(name, dir_fd=parent.fd)
        if node is not None and node.blocks is not None and not os.fstat(node.fd).st_nlink:
            with self.room_lock:
                self.room.give(node.blocks, 0, len(node.blocks) << 12)
        return ()

    def rmdir(self, request: Request) -> Answer:
        os.rmdir(protocol.name_of(request.body), dir_fd=self.tree[request.node].fd)
        return ()

    def rename(self, request: Request) -> Answer:
        return self._rename(request, protocol.U64.size, 0)

    def rename2(self, request: Request) -> Answer:
        _, flags = protocol.RENAME2_IN.unpack_from(request.body)
        return self._rename(request, protocol.RENAME2_IN.size, flags)

    def _rename(self, request: Request, names_at: int, flags: int) -> Answer:
        if flags:
            raise fails(errno.EINVAL)
        (target,) = protocol.U64.unpack_from(request.body)
        old, new = protocol.two_names(request.body[names_at:])
        parent, new_parent = self.tree[request.node], self.tree[target]
        node = self.tree.known(parent, old)
        os.rename(old, new, src_dir_fd=parent.fd, dst_dir_fd=new_parent.fd)
        if node is not None:
            node.parent, node.name = new_parent, new
        return ()

    def opendir(self, request: Request) -> Answer:
        fd = os.open(self.tree[request.node].by_proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with os.scandir(fd) as entries:
            self._listings[fd] = [
                (
                    os.fsencode(one.name),
                    one.inode(),
                    stat.S_IFMT(one.stat(follow_symlinks=False).st_mode) >> 12,
                )
                for one in entries
            ]
        return (protocol.OPEN_OUT.pack(fd, 0),)

    def readdir(self, request: Request) -> Answer:
        handle, offset, size = protocol.RANGE_IN.unpack_from(request.body)
        found = b""
        for position, (name, inode, kind) in enumerate(self._listings[handle]):
            if position < offset:
                continue
            one = protocol.DIRENT.pack(inode, position + 1, len(name), kind) + name
            one += bytes(-len(one) % 8)
            if len(found) + len(one) > size:
                break
            found += one
        return (found,)

    def releasedir(self, request: Request) -> Answer:
        self._listings.pop(protocol.U64.unpack_from(request.body)[0], None)
        return self.release(request)

    def release(self, request: Request) -> Answer:
        os.close(protocol.U64.unpack_from(request.body)[0])
        return ()

    def getattr(self, request: Request) -> Answer:
        return self.attributes(self.tree[request.node])

    def attributes(self, node: Node) -> Answer:
        return (protocol.ATTR_OUT_HEAD.pack(0, 0), protocol.attributes(os.fstat(node.fd)))

    def statx(self, request: Request) -> Answer:
        """`struct fuse_statx` begins as the system call's structure does, times of birth
        included.
        """
        *_, mask = protocol.STATX_IN.unpack_from(request.body)
        found = ctypes.create_string_buffer(_STATX_BYTES)
        if _libc.statx(self.tree[request.node].fd, b"", _AT_EMPTY_PATH, mask, found) != 0:
            raise fails(ctypes.get_errno())
        padding = bytes(_FUSE_STATX_BYTES - _STATX_SAME_BYTES)
        head = protocol.STATX_OUT_HEAD.pack(0, 0, 0)
        return (head, found.raw[:_STATX_SAME_BYTES], padding)

    def setxattr(self, request: Request) -> Answer:
        size, flags = protocol.SETXATTR_IN.unpack_from(request.body)
        name, _, value = bytes(request.body[protocol.SETXATTR_IN.size :]).partition(b"\0")
        _only_user(name)
        os.setxattr(self.tree[request.node].by_proc, name, value[:size], flags)
        return ()

    def getxattr(self, request: Request) -> Answer:
        (size,) = protocol.GETXATTR_IN.unpack_from(request.body)
        name = protocol.name_of(request.body[protocol.GETXATTR_IN.size :])
        _only_user(name)
        return _sized(os.getxattr(self.tree[request.node].by_proc, name), size)

    def listxattr(self, request: Request) -> Answer:
        (size,) = protocol.GETXATTR_IN.unpack_from(request.body)
        names = os.listxattr(self.tree[request.node].by_proc)
        user = [os.fsencode(name) + b"\0" for name in names if name.startswith("user.")]
        return _sized(b"".join(user), size)

    def removexattr(self, request: Request) -> Answer:
        name = protocol.name_of(request.body)
        _only_user(name)
        os.removexattr(self.tree[request.node].by_proc, name)
        return ()

    def statfs(self, request: Request) -> Answer:
        found = os.fstatvfs(self.tree[request.node].fd)
        free, available = found.f_bfree, found.f_bavail
        if self.room.left is not None:
            free = available = min(available, self.room.left // found.f_frsize)
        return (
            protocol.STATFS_OUT.pack(
                found.f_blocks,
                free,
                available,
                found.f_files,
                found.f_ffree,
                found.f_bsize,
                found.f_namemax,
                found.f_frsize,
            ),
        )


def _only_user(name: bytes) -> None:
    if not name.startswith(b"user."):
        raise fails(errno.EOPNOTSUPP)


def _sized(value: bytes, size: int) -> Answer:
    """An attribute, or its size if none was given."""
    if not size:
        return (protocol.GETXATTR_OUT.pack(len(value)),)
    if len(value) > size:
        raise fails(errno.ERANGE)
    return (value,)
