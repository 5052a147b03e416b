"""Preconditions of serving: permissions, the lock on the state directory, values that are fixed
while the daemon runs.

A reload refuses a change of a fixed value, and shows the old and the new one, rather than ignoring
it: a configuration that says one thing while the daemon does another is worse than an error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

import structlog

from duplexd.config.differences import value_in_file
from duplexd.daemon import preflight
from duplexd.engine.live_settings import LIVE
from duplexd.errors import ConfigurationError, ForbiddenError, WrongStateError
from duplexd.limits import DaemonLimits
from duplexd.runtime import directory, owned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.config.daemon_file import Config
    from duplexd.daemon.preflight import Problem

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

# Remedied by another path. A disk that fails or is full is not.
_PATH_ERRORS = frozenset(
    {errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
)

_LIMITS = DaemonLimits()
_LOCK_RETRY_SECONDS = 0.02

# Not through a link: who prepared the directory could have us write to a file of somebody else
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def in_file(config: Config, key: str = "") -> Iterator[None]:
    """Prefix errors from below that are about the configuration with the name of the file, and with
    the key where it is missing.
    """
    try:
        yield
    except (ConfigurationError, WrongStateError) as error:
        prefix = f"{config.source}: "
        under = f"{prefix}{key}: " if key else prefix
        keys = {f"{path}: ": f"{prefix}{leg}: " for path, leg in preflight.leg_keys(config).items()}
        lines = []
        for line in str(error).splitlines():
            about = next((start for start in keys if line.startswith(start)), None)
            lines.append(
                line if line.startswith(prefix) else (keys[about] if about else under) + line
            )
        raise type(error)("\n".join(lines)) from error


def refuse_fixed(old: Config, new: Config) -> None:
    """Raise WrongStateError for every value that differs and needs a restart."""
    before, after = _fixed(old), _fixed(new)
    changed = []
    for key, value in before.items():
        if value != after[key]:
            changed.append(
                f"{new.source}: {key}: was {_said(key, value)}, is now {_said(key, after[key])}:"
                " cannot change while the daemon runs; restart the daemon"
            )
    if changed:
        raise WrongStateError("\n".join(changed))


def _said(key: str, value: object) -> str:
    return "not set" if value is None else value_in_file(key, value)


def _fixed(config: Config) -> dict[str, object]:
    """The values that are fixed while the daemon runs. Roles, certificates and what is `LIVE` may
    change.
    """
    control = config.control
    fixed = {
        f"controller.{key}": getattr(config.controller, key)
        for key in type(config.controller).model_fields
        if key not in LIVE
    }
    listen = [address.authority for address in control.tls.listen] if control.tls else None
    return {
        **fixed,
        "control.socket": control.socket,
        "control.group": control.group,
        "control.tls.listen": listen,
        "metrics.listen": config.metrics.listen,
    }


def refuse_problems(config: Config, found: list[Problem]) -> None:
    """Raise what `preflight` found: ForbiddenError if only permissions are missing, else
    ConfigurationError. What only degrades the start is logged.
    """
    for problem in found:
        if problem.degrades:
            log.warning("an image cannot be used", problem=problem.line)
    if final := [problem for problem in found if not problem.degrades]:
        text = "\n".join(f"{config.source}: {problem.line}" for problem in final)
        raise (
            ForbiddenError(text)
            if all(problem.forbidden for problem in final)
            else ConfigurationError(text)
        )


def _close_to_others(path: Path) -> None:
    """What is in the journal was on volumes. Earlier versions let the group read it."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(directory.DIRECTORY_MODE)


def _locked(lock: int, limits: DaemonLimits) -> bool:
    """Lock it. Another daemon keeps its lock; `duplexd check` and `journal inspect`, which look
    whether there is one, have it for an instant. So a lock that is taken is tried again.
    """
    until = time.monotonic() + limits.state_lock_seconds_max
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOCK_RETRY_SECONDS)
        else:
            return True


class StateLock:
    """One daemon for one state directory: the kernel releases the lock however the process ends.

    The file holds the process id of the last owner and, once its recovery is complete, the line
    `serving`, which `verify-cut` reads.
    """

    def __init__(self, config: Config, limits: DaemonLimits = _LIMITS) -> None:
        path = config.controller.state_dir
        self._path = str(path / "lock")
        try:
            owned.check_place(str(path))
            path.mkdir(mode=directory.DIRECTORY_MODE, parents=True, exist_ok=True)
            _close_to_others(path)
            self._fd = owned.open_file(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as error:
            raise ForbiddenError(
                f"{config.source}: controller.state_dir: {error.filename!r} cannot be written:"
                f" {error.strerror}"
            ) from None
        except OSError as error:
            if error.errno not in _PATH_ERRORS:
                raise
            raise ConfigurationError(
                f"{config.source}: controller.state_dir: {str(path)!r}: {error.strerror}"
            ) from None
        if not _locked(self._fd, limits):
            owner = os.pread(self._fd, 20, 0).decode(errors="replace").partition("\n")[0]
            os.close(self._fd)
            raise WrongStateError(
                f"{config.source}: controller.state_dir: {str(path)!r} is in use by another"
                f" duplexd, process {owner or 'unknown'}; stop that one first,"
                " or configure another state_dir"
            )
        self._owner = f"{os.getpid()}\n".encode()
        with owned.naming(self._path):
            self._own(os.fstat(self._fd).st_size)

    def _own(self, size: int) -> None:
        """Written over what is there, in one piece, and cut off afterwards: this needs no new room
        on a disk that is full, and never says `serving` beside the new owner.
        """
        try:
            os.pwrite(self._fd, self._owner.ljust(size, b"\n"), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._owner = b""  # the number is for people only
        os.truncate(self._fd, len(self._owner))

    def serving(self) -> None:
        """Record that recovery is complete: from now on the images agree with the journal."""
        try:
            os.pwrite(self._fd, b"serving\n", len(self._owner))
        except OSError as error:
            log.warning(
                "the end of the start cannot be noted; verify-cut waits for a restart",
                path=self._path,
                error=error.strerror,
            )

    def is_misplaced(self) -> bool:
        """Whether `state_dir` is another directory than the one that this daemon uses, or is gone.
        Blocking. Raises OSError if it cannot be looked at.
        """
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return True
        return not os.path.samestat(found, os.fstat(self._fd))

    def close(self) -> None:
        os.close(self._fd)
