"""Directories: names that are durable when the call returns.

On Linux a file that was synced can still be missing after a power cut, if the directory that has
its name was not synced. So every change of a name here ends with a sync of the directory. A small
file is replaced by a rename, in one place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from duplexd.runtime import owned
from duplexd.runtime.locked import FILE_MODE, measure

DIRECTORY_MODE = 0o700
SHARED_MODE = 0o640  # of files that are made for others
PRIVATE_MODE = 0o600  # until it is whole


def parent(path: str) -> str:
    return os.path.dirname(path) or "."


def sync(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with owned.naming(path):
            os.fsync(fd)
    finally:
        os.close(fd)


def exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def size(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return measure(fd)
    finally:
        os.close(fd)


def names(path: str) -> list[str]:
    return sorted(os.listdir(path))


def make(path: str) -> None:
    if os.path.isdir(path):
        return
    above = parent(path.rstrip("/"))
    make(above)
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    sync(above)


def remove(path: str) -> None:
    os.unlink(path)
    sync(parent(path))


def read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def replace_file(path: str, data: bytes, shared: bool = False) -> None:
    """Give a file new content, atomically and durably: a power cut leaves the old or the new,
    whole.

    The new content gets a name of its own, is synced, and takes the old one's place by a rename. In
    a directory of our own that name is always the same, so that crashes leave one file at most. In
    one that is `shared` with other users or programs it is a name that no other program has or can
    guess. After an error nothing is left, and the old content is.
    """
    with owned.naming(path), owned.directory_of(path) as (above, name):
        fd, temporary = _temporary(above, name, shared)
        _replace(fd, temporary, name, data, above, SHARED_MODE if shared else FILE_MODE)
        os.fsync(above)


def _replace(fd: int, temporary: str, name: str, data: bytes, above: int, mode: int) -> None:
    try:
        try:
            os.fchmod(fd, mode)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that counts is the first
            os.unlink(temporary, dir_fd=above)
        raise


def _temporary(above: int, name: str, shared: bool) -> tuple[int, str]:
    """A new file, whatever was there: a link that somebody put there is removed, not followed."""
    temporary = f".{name}.{secrets.token_hex(8)}" if shared else f"{name}.tmp"
    if not shared:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=above)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary, flags, PRIVATE_MODE, dir_fd=above), temporary
