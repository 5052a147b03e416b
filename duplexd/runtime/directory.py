"""Directories: names that are durable when the call returns."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from duplexd.runtime.locked import FILE_MODE, measure

DIRECTORY_MODE = 0o750


def parent(path: str) -> str:
    return os.path.dirname(path) or "."


def sync(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
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


def replace_file(path: str, data: bytes) -> None:
    """The new content gets a name of its own, is synced, and takes the old one's place in one step."""
    temporary = path + ".tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # the error that counts is the first
            os.unlink(temporary)
        raise
    sync(parent(path))
