"""Which request is which operation of `faults.py`, on which path and range, and who carries it out.

What is not in the table is answered with ENOSYS, after which the kernel does not ask again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tests.support.fuse import protocol
from tests.support.fuse.faults import Operation
from tests.support.fuse.passthrough import PassThrough
from tests.support.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fuse.names import Answer
    from tests.support.fuse.protocol import Request
    from tests.support.fuse.tree import Tree


class Kind(NamedTuple):
    """How a request is described and carried out. Without a name no fault meets it."""

    run: Callable[[PassThrough, Request], Answer]
    name: str = ""
    modifies: bool = False
    name_at: int | None = None  # where the body has a name in the directory, if it does
    has_range: bool = False


KINDS: dict[int, Kind] = {
    Opcode.LOOKUP: Kind(PassThrough.lookup, "lookup", name_at=0),
    Opcode.GETATTR: Kind(PassThrough.getattr, "stat"),
    Opcode.STATX: Kind(PassThrough.statx, "stat"),
    Opcode.SETATTR: Kind(PassThrough.setattr, "attribute", modifies=True),
    Opcode.READLINK: Kind(PassThrough.readlink, "lookup"),
    Opcode.SYMLINK: Kind(PassThrough.symlink, "link", True, 0),
    Opcode.MKNOD: Kind(PassThrough.mknod, "create", True, protocol.MKNOD_IN.size),
    Opcode.MKDIR: Kind(PassThrough.mkdir, "mkdir", True, protocol.MKDIR_IN.size),
    Opcode.UNLINK: Kind(PassThrough.unlink, "unlink", True, 0),
    Opcode.RMDIR: Kind(PassThrough.rmdir, "unlink", True, 0),
    Opcode.RENAME: Kind(PassThrough.rename, "rename", True, protocol.U64.size),
    Opcode.RENAME2: Kind(PassThrough.rename2, "rename", True, protocol.RENAME2_IN.size),
    Opcode.LINK: Kind(PassThrough.link, "link", True, protocol.U64.size),
    Opcode.OPEN: Kind(PassThrough.open, "open"),
    Opcode.CREATE: Kind(PassThrough.create, "create", True, protocol.CREATE_IN.size),
    Opcode.TMPFILE: Kind(PassThrough.tmpfile, "create", modifies=True),
    Opcode.READ: Kind(PassThrough.read, "read", has_range=True),
    Opcode.WRITE: Kind(PassThrough.write, "write", modifies=True, has_range=True),
    Opcode.FALLOCATE: Kind(PassThrough.fallocate, "fallocate", modifies=True, has_range=True),
    Opcode.LSEEK: Kind(PassThrough.lseek, "seek"),
    Opcode.FSYNC: Kind(PassThrough.fsync, "sync"),
    Opcode.FSYNCDIR: Kind(PassThrough.fsync, "sync"),
    Opcode.STATFS: Kind(PassThrough.statfs, "stat"),
    Opcode.SETXATTR: Kind(PassThrough.setxattr, "attribute", modifies=True),
    Opcode.GETXATTR: Kind(PassThrough.getxattr, "attribute"),
    Opcode.LISTXATTR: Kind(PassThrough.listxattr, "attribute"),
    Opcode.REMOVEXATTR: Kind(PassThrough.removexattr, "attribute", modifies=True),
    Opcode.OPENDIR: Kind(PassThrough.opendir, "list"),
    Opcode.READDIR: Kind(PassThrough.readdir, "list"),
    Opcode.RELEASE: Kind(PassThrough.release),
    Opcode.RELEASEDIR: Kind(PassThrough.releasedir),
}


def describe(kind: Kind, request: Request, tree: Tree) -> Operation:
    """What the faults are asked about."""
    node, body = tree[request.node], request.body
    name, path, modifies, offset, length = kind.name, node.path, kind.modifies, 0, 0
    if kind.name_at is not None:
        path = os.fsdecode(node.inside(protocol.name_of(body[kind.name_at :])))
    elif kind.has_range:
        _, offset, length = protocol.RANGE_IN.unpack_from(body)
        if name == "fallocate":
            _, offset, length, _ = protocol.FALLOCATE_IN.unpack_from(body)
    elif name == "attribute" and request.opcode == Opcode.SETATTR:
        if protocol.U32.unpack_from(body)[0] & protocol.FATTR_SIZE:
            name = "truncate"
    elif name == "open":
        flags = protocol.U32.unpack_from(body)[0]
        modifies = bool(flags & (os.O_ACCMODE | os.O_TRUNC))
    return Operation(name, path, offset, length, modifies)
