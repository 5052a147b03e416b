"""Opening and creating images so that no other writer has them.

    duplexd             holds a `flock`: another daemon, or one file as two legs, is refused.
    QEMU                locks bytes of the images it opens. We refuse an image that it writes to,
                        and lock the bytes that say "nobody else may write", so that it refuses
                        ours. It may read: a backup of a suspended secondary.
    any other program,  have no locks (nbdkit), but the kernel knows of a file who has it open for
    a loop device       writing: it then grants no read lease. So one is asked for, and given back.
                        Somebody who opens the file for writing later is not kept away.
    a mount, dm, md     claim a block device with O_EXCL, as we do; the kernel grants that once.

A lease needs the file's owner or CAP_LEASE; without it, or on a file system without leases or
locks, the others have to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
from typing import NamedTuple

from duplexd.runtime import owned

FILE_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_CLOEXEC
# The size of these writes becomes the size of the page cache's folios for the file, and a small
# write into a large folio is slow (4 KiB into 1 MiB folios: 9-14 us, into 64 KiB folios: 3.8 us).
_ZEROES = bytes(1 << 16)
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid
# QEMU, block/file-posix.c: byte 100 + n is locked by who does n, byte 200 + n by who lets nobody
# else do it; 1 is to write, 3 to resize.
_QEMU_WRITES = (101, 103)
_QEMU_ALONE = (201, 203)
_NO_LOCKS = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


def measure(fd: int) -> int:
    """Bytes of an open file or block device. Does not depend on the position, nor matter to it."""
    return os.lseek(fd, 0, os.SEEK_END)


def open_locked(path: str) -> tuple[int, bool]:
    """`(descriptor, is a block device)` of an existing image. OSError EBUSY if it is in use."""
    mode = os.stat(path).st_mode
    is_block = stat.S_ISBLK(mode)
    if not is_block and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "neither a regular file nor a block device", path)
    if not is_block:
        _refuse_writers(path)
    try:
        # O_EXCL: the kernel refuses a device that is mounted, or that another opener claimed under
        # another name
        fd = owned.open_file(path, _FLAGS | (os.O_EXCL if is_block else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise in_use(path) from None
        raise
    try:
        lock(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd, is_block


def lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(path) from None
    try:
        for byte in _QEMU_ALONE:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, 0, byte, 1, 0))
        written = any(_is_locked(fd, byte) for byte in _QEMU_WRITES)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        raise in_use(path) from None
    if written:
        raise OSError(errno.EBUSY, "in use already: a QEMU writes to it", path)


def _is_locked(fd: int, byte: int) -> bool:
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _refuse_writers(path: str) -> None:
    """Raises OSError EBUSY if somebody has this file open for writing, where the kernel says so."""
    fd = owned.open_file(path, os.O_RDONLY)
    try:
        lock(fd, path)  # a duplexd gets the message about itself
        # Who opens the file for writing while we hold the lease has us sent a signal: not SIGIO,
        # which ends the process, but one that is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise
        if error.errno == errno.EAGAIN:
            why = "in use already: another program, or a loop device, has it open for writing"
            raise OSError(errno.EBUSY, why, path) from None
    finally:
        os.close(fd)


def in_use(path: str) -> OSError:
    return OSError(
        errno.EBUSY, "in use already: by another process, or as another image of this one", path
    )


class Ownership(NamedTuple):
    """The mode of a file, and its group; -1 for that of the process."""

    mode: int = FILE_MODE
    group: int = -1


PRIVATE = Ownership()


def create_locked(path: str, size: int, allocate: bool, ownership: Ownership = PRIVATE) -> int:
    """A descriptor of a new file of `size` zeroes, which appears under its name only when it is
    whole and durable.
    """
    with owned.naming(path), owned.directory_of(path) as (above, name):
        if os.path.lexists(path):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        return _create(above, name, path, size, allocate, ownership)


def _create(
    above: int, name: str, path: str, size: int, allocate: bool, ownership: Ownership
) -> int:
    fd, temporary = _nameless(above, name)
    try:
        _own(fd, ownership)
        _fill(fd, path, size, allocate)
        _name(fd, temporary, name, above)
        os.fsync(above)
    except OSError:
        os.close(fd)
        raise
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=above)
    return fd


def _nameless(above: int, name: str) -> tuple[int, str | None]:
    """A new file without a name, so that a crash leaves nothing; where that cannot be, one with a
    temporary name.
    """
    try:
        # by way of /proc, so that one without /proc, where no name could be given to it later, is
        # found out here
        return os.open(f"/proc/self/fd/{above}", os.O_TMPFILE | _FLAGS, FILE_MODE), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    temporary = f"{name}.{os.getpid()}.new"
    flags = _FLAGS | os.O_CREAT | os.O_EXCL
    return os.open(temporary, flags, FILE_MODE, dir_fd=above), temporary


def _own(fd: int, ownership: Ownership) -> None:
    """Before it has a name: nobody sees it otherwise."""
    if ownership.group >= 0:
        os.fchown(fd, -1, ownership.group)
    os.fchmod(fd, ownership.mode)  # whatever the umask took away


def _fill(fd: int, path: str, size: int, allocate: bool) -> None:
    lock(fd, path)
    os.truncate(fd, size)
    offset = 0
    while allocate and offset < size:
        offset += os.pwrite(fd, memoryview(_ZEROES)[: size - offset], offset)
    os.fsync(fd)


def _name(fd: int, temporary: str | None, name: str, above: int) -> None:
    if temporary is None:
        # a directory descriptor makes Python use linkat, which can follow the link in /proc
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=above, follow_symlinks=True)
        return
    try:
        os.link(temporary, name, src_dir_fd=above, dst_dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # a file system without hard links: the name was free a moment ago
        os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
