"""A directory for sockets and links to credentials, which does not outlive its run for long.

A run that is killed cannot remove it. So a run locks its directory, the kernel ends the lock with
the process, and the next run removes those of this user that nobody has locked. The lock is on the
directory itself: who has it, and finds it by its name still, has it for himself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.backup.destination import in_words
from duplexd.limits import SOCKET_PATH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_RANDOM_BYTES = 8  # that mkdtemp adds to a prefix


def for_sockets(below_bytes: int) -> Path:
    """Where temporary files are; /tmp if a socket's path, so many bytes longer, would be too long
    for the kernel.
    """
    found = tempfile.gettempdir()
    fits = len(os.fsencode(found)) + below_bytes <= SOCKET_PATH_BYTES_MAX
    return Path(found if fits else "/tmp")  # noqa: S108


@contextmanager
def scratch(prefix: str, sockets_bytes: int = 0) -> Iterator[Path]:
    """A new one within, among temporary files; names of no others begin with `prefix`. Paths of
    sockets in it may be so many bytes longer than its own. Raises DuplexdError.
    """
    above = Path(tempfile.gettempdir())
    if sockets_bytes:
        above = for_sockets(len("/" + prefix) + _RANDOM_BYTES + sockets_bytes)
    for path in above.glob(prefix + "*"):
        _remove_if_left(path)
    while True:
        with in_words(above):
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=above))
        lock = _locked(path)
        if lock is not None:  # else another run has taken it for one that was left
            break
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_if_left(path: Path) -> None:
    lock = _locked(path)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of this directory; None if another process has it, if it is
    gone, or if it is not ours alone: somebody else may have made it, to have us remove things.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        found = os.fstat(lock)
        mine = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
        if mine:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found, os.stat(path, follow_symlinks=False)):
                return lock
    os.close(lock)
    return None
