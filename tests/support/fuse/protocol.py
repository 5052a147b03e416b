"""The messages of /dev/fuse that a pass-through file system needs, as in <linux/fuse.h>, version 7.

A request is `IN_HEADER`, a structure of its kind, then names or data. An answer is `OUT_HEADER`, a
structure, data. Only the fields that are used have names here; the rest is padding in the formats.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os

MAJOR = 7
MINOR = 38  # structures as they are since 7.23
ROOT_ID = 1
WRITE_BYTES_MAX = 1 << 20
# Room for the largest write and the structures before it.
BUFFER_BYTES = WRITE_BYTES_MAX + 4096


class Opcode(IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46
    TMPFILE = 51
    STATX = 52


# INIT: what both sides can do. Reads and writes of direct I/O at once, writes of more than a page,
# opens that truncate, directory operations at once, requests of 1 MiB.
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
ASYNC_DIO = 1 << 15
PARALLEL_DIROPS = 1 << 18
MAX_PAGES = 1 << 22
WANTED = (
    ASYNC_READ | ATOMIC_O_TRUNC | BIG_WRITES | DONT_MASK | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES
)

FOPEN_DIRECT_IO = 1 << 0
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6

# SETATTR: which fields are valid
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8

IN_HEADER = struct.Struct("<IIQQIIIHxx")  # length, opcode, unique, node, uid, gid, pid, extensions
OUT_HEADER = struct.Struct("<IiQ")  # length, -errno, unique

INIT_IN = struct.Struct("<IIII")  # major, minor, readahead, flags
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
FORGET_ONE = struct.Struct("<QQ")  # node, lookups
U64 = struct.Struct("<Q")
U32 = struct.Struct("<I")
SETATTR_IN = struct.Struct("<I4xQQ8xQQQIIII4xII4x")
RANGE_IN = struct.Struct("<QQI")  # READ and WRITE begin so: handle, offset, size
READ_IN = struct.Struct("<QQIIQI4x")
WRITE_IN = struct.Struct("<QQIIQI4x")  # handle, offset, size, write flags, owner, open flags
FALLOCATE_IN = struct.Struct("<QQQI4x")  # handle, offset, length, mode
LSEEK_IN = struct.Struct("<QQI4x")  # handle, offset, whence
OPEN_IN = struct.Struct("<II")  # flags, open flags
CREATE_IN = struct.Struct("<IIII")  # flags, mode, umask, open flags
MKDIR_IN = struct.Struct("<II")  # mode, umask
MKNOD_IN = struct.Struct("<IIII")  # mode, rdev, umask
RENAME2_IN = struct.Struct("<QI4x")  # new directory, flags
SETXATTR_IN = struct.Struct("<II")  # size, flags
GETXATTR_IN = struct.Struct("<I4x")
STATX_IN = struct.Struct("<I4xQII")  # getattr flags, handle, statx flags, mask

OPEN_OUT = struct.Struct("<QI4x")
WRITE_OUT = struct.Struct("<I4x")
GETXATTR_OUT = struct.Struct("<I4x")
LSEEK_OUT = U64
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
# Node, generation, and for how long names and attributes hold: never, so that each lookup and each
# stat comes here.
ENTRY_OUT_HEAD = struct.Struct("<QQQQII")
ATTR_OUT_HEAD = struct.Struct("<QI4x")
STATX_OUT_HEAD = struct.Struct("<QII16x")
STATFS_OUT = struct.Struct("<QQQQQIII4x24x")
DIRENT = struct.Struct("<QQII")


class Request(NamedTuple):
    """One request; `body` is valid until the next read unless `keep` copied it."""

    opcode: int
    unique: int
    node: int
    pid: int
    body: memoryview

    def keep(self) -> Request:
        """The same with a body of its own."""
        return self._replace(body=memoryview(bytes(self.body)))


def parse(message: memoryview) -> Request:
    """A request from what was read from /dev/fuse."""
    length, opcode, unique, node, _uid, _gid, pid, extension_words = IN_HEADER.unpack_from(message)
    return Request(
        opcode, unique, node, pid, message[IN_HEADER.size : length - 8 * extension_words]
    )


def answer(unique: int, *parts: bytes) -> list[bytes]:
    """The pieces of a successful answer, for writev."""
    length = OUT_HEADER.size + sum(map(len, parts))
    return [OUT_HEADER.pack(length, 0, unique), *parts]


def failure(unique: int, error: int) -> list[bytes]:
    """The answer that fails a request with an errno."""
    return [OUT_HEADER.pack(OUT_HEADER.size, -error, unique)]


def init_out(minor: int, readahead: int, flags: int) -> bytes:
    """What this side takes of what the kernel offers."""
    background, congestion, granularity, pages = 64, 48, 1, WRITE_BYTES_MAX // 4096
    return INIT_OUT.pack(
        MAJOR,
        min(minor, MINOR),
        readahead,
        flags & WANTED,
        background,
        congestion,
        WRITE_BYTES_MAX,
        granularity,
        pages,
        0,
        0,
    )


def attributes(found: os.stat_result) -> bytes:
    """`struct fuse_attr`."""
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    return ATTR.pack(
        found.st_ino,
        found.st_size,
        found.st_blocks,
        *(time // 10**9 for time in times),
        *(time % 10**9 for time in times),
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_rdev & 0xFFFFFFFF,
        4096,
        0,
    )


def entry(node: int, found: os.stat_result) -> bytes:
    """`struct fuse_entry_out`."""
    return ENTRY_OUT_HEAD.pack(node, 0, 0, 0, 0, 0) + attributes(found)


def name_of(body: memoryview) -> bytes:
    """The first name of a body."""
    return bytes(body).partition(b"\0")[0]


def two_names(body: memoryview) -> tuple[bytes, bytes]:
    """Two names, one after the other."""
    first, second, *_ = bytes(body).split(b"\0")
    return first, second
