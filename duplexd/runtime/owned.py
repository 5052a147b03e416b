"""Opening files as root, in directories where somebody else may have put things.

Root may write everything, so a symbolic link that another user made would have root write, truncate
or chown a file that this user chose. The kernel protects sticky directories alone, and only where
fs.protected_symlinks is set. So as root no path is given to the kernel whole: it is walked
from `/`, one directory after the other, each by the descriptor of the one before.

| what the walk meets | what it does |
|---|---|
| a directory | goes on, whatever its owner: nothing in it is trusted for that |
| a link that only root or our user could have made | follows it, as in /dev/disk/by-id |
| any other link | refuses it |
| a file with several names, in a directory of others | refuses it: it may be root's |

What must not be exchanged as a whole, such as the state directory, needs more (`check_place`): no
directory on the way to it may be changed by others. A process that is not root can do no more than
its user, and the kernel's own rules are enough.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINKS_MAX = 40  # as the kernel follows
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ABOVE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafePlaceError(PermissionError):
    """Another user decides what is at a path: `filename` is the directory or link of theirs."""


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors from within name `path`: what fails on an open descriptor names nothing, and what
    fails in an open directory names the last part of the path alone.
    """
    try:
        yield
    except UnsafePlaceError:  # it names what others may change
        raise
    except OSError as error:
        error.filename = path
        del error.filename2  # with None for it the text would say that, too
        raise


def open_file(path: str, flags: int, mode: int = 0o600, *, root: bool | None = None) -> int:
    """A descriptor, as `os.open` gives it. A new file is made where nothing was: no link there is
    followed. Raises OSError; UnsafePlaceError.
    """
    flags |= os.O_CLOEXEC
    if not _is_root(root):
        return os.open(path, flags | (os.O_NOFOLLOW if flags & os.O_CREAT else 0), mode)
    with _parent(path) as (above, name):
        with naming(path):
            fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=above)
        try:
            _refuse_other_names(above, fd, path)
        except OSError:
            os.close(fd)
            raise
        return fd


@contextmanager
def directory_of(path: str, *, root: bool | None = None) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that `path` is in, and its name there: for calls with `dir_fd`,
    which go on if the directory is moved. The last part of the path is not looked at.
    """
    if _is_root(root):
        with _parent(path, follow_last=False) as (above, name):
            fd = os.open(".", _ABOVE, dir_fd=above)
    else:
        fd = os.open(os.path.dirname(path) or ".", _ABOVE & ~os.O_NOFOLLOW)
        name = os.path.basename(path)
    try:
        yield fd, name
    finally:
        os.close(fd)


def check_links(path: str, *, root: bool | None = None) -> None:
    """Raises UnsafePlaceError if a link on the way to `path`, or there, is not to be followed."""
    if _is_root(root):
        with _parent(path):
            pass


def check_place(path: str, *, root: bool | None = None) -> None:
    """Raises UnsafePlaceError if another user could exchange what is at `path`, a directory, or put
    something into it. What is not there yet is not looked at.
    """
    if _is_root(root):
        try:
            with _parent(os.path.join(path, "."), strict=True):
                pass
        except (FileNotFoundError, NotADirectoryError):
            return


def is_ours(status: os.stat_result) -> bool:
    """Whether only root and our user can change what is in this directory."""
    return _owner_is_ours(status) and not _others_write(status)


def _is_root(root: bool | None) -> bool:
    return os.geteuid() == 0 if root is None else root


def _owner_is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _others_write(status: os.stat_result) -> bool:
    """Root's own group is root."""
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid
    return bool(status.st_mode & stat.S_IWOTH or by_group)


def _may_follow(directory: os.stat_result, link: os.stat_result) -> bool:
    """Whether nobody but root and our user could have made the link, or put it there."""
    if not _owner_is_ours(directory):
        return False
    sticky = bool(directory.st_mode & stat.S_ISVTX)
    return not _others_write(directory) or (sticky and _owner_is_ours(link))


@contextmanager
def _parent(
    path: str, *, strict: bool = False, follow_last: bool = True
) -> Iterator[tuple[int, str]]:
    walk = _Walk(path, strict, follow_last)
    try:
        with naming(path):
            walk.go()
        yield walk.fd, walk.name
    finally:
        os.close(walk.fd)


class _Walk:
    """From `/` to the directory that the last part of a path is in: `fd`, and that part, `name`."""

    def __init__(self, path: str, strict: bool, follow_last: bool) -> None:
        self.fd = os.open("/", _LOOK)
        self.name = ""
        self._path = path
        self._parts = deque(os.path.join(os.getcwd(), path).split("/"))
        self._strict = strict
        self._follow_last = follow_last
        self._links = 0

    def go(self) -> None:
        """Until the last directory."""
        while self._parts:
            part = self._parts.popleft()
            if part == "." and not self._parts:
                self.name = part
                self._check(".")
            elif part not in ("", "."):
                self._step(part)

    def _step(self, part: str) -> None:
        if self._strict:
            self._check(part)
        last = not any(self._parts)
        found = self._look(part, last)
        if (
            found is not None
            and stat.S_ISLNK(found.st_mode)
            and not (last and not self._follow_last)
        ):
            self._follow(part, found)
        elif last:
            self.name = part
        else:
            self._enter(part)

    def _look(self, part: str, last: bool) -> os.stat_result | None:
        try:
            return os.stat(part, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            if last:
                return None
            raise

    def _enter(self, part: str) -> None:
        above, self.fd = self.fd, os.open(part, _LOOK, dir_fd=self.fd)
        os.close(above)

    def _follow(self, part: str, link: os.stat_result) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        if not _may_follow(os.fstat(self.fd), link):
            raise UnsafePlaceError(
                errno.EPERM,
                f"{part!r} is a symbolic link that user {link.st_uid} may have made, and is not"
                " followed as root; name the file itself",
                self._path,
            )
        target = os.readlink(part, dir_fd=self.fd)
        self._parts.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            above, self.fd = self.fd, os.open("/", _LOOK)
            os.close(above)

    def _check(self, part: str) -> None:
        """The directory that the walk is in, for a place that others must not change."""
        found = os.fstat(self.fd)
        sticky = bool(found.st_mode & stat.S_ISVTX) and part != "."
        if _owner_is_ours(found) and (sticky or not _others_write(found)):
            return
        who = "its group or everybody" if _owner_is_ours(found) else f"user {found.st_uid}"
        raise UnsafePlaceError(
            errno.EPERM,
            f"{who} may change what is in it, and so what is written there as root; take a"
            " directory that only root may write to, or run as that user",
            os.readlink(f"/proc/self/fd/{self.fd}"),
        )


def _refuse_other_names(above: int, fd: int, path: str) -> None:
    """A file of root may have got a name in the directory of another user: a hard link."""
    found, directory = os.fstat(fd), os.fstat(above)
    several = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    if several and found.st_uid != directory.st_uid and not is_ours(directory):
        raise UnsafePlaceError(
            errno.EPERM, "it has other names, and may be a file of root that is not meant", path
        )
