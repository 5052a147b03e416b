"""Preconditions of serving: permissions, the lock on the state directory, values that are fixed
while the daemon runs.

A reload refuses a change of a fixed value, and shows the old and the new one, rather than ignoring
it: a configuration that says one thing while the daemon does another is worse than an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from typing import TYPE_CHECKING

from duplexd.daemon import preflight
from duplexd.errors import ConfigurationError, ForbiddenError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.config.daemon_file import Config


@contextlib.contextmanager
def in_file(config: Config, key: str = "") -> Iterator[None]:
    """Prefix ConfigurationErrors from below with the name of the file, and with the key where it is
    missing.
    """
    try:
        yield
    except ConfigurationError as error:
        prefix = f"{config.source}: "
        under = f"{prefix}{key}: " if key else prefix
        keys = {f"{path}: ": f"{prefix}{leg}: " for path, leg in preflight.leg_keys(config).items()}
        lines = []
        for line in str(error).splitlines():
            about = next((start for start in keys if line.startswith(start)), None)
            lines.append(
                line if line.startswith(prefix) else (keys[about] if about else under) + line
            )
        raise ConfigurationError("\n".join(lines)) from error


def refuse_fixed(old: Config, new: Config) -> None:
    """Raise ConfigurationError for every value of [controller] and [control] that differs and needs
    a restart.
    """
    before, after = _fixed(old), _fixed(new)
    changed = []
    for key, value in before.items():
        if value != after[key]:
            changed.append(
                f"{new.source}: {key}: was {str(value)!r}, is now {str(after[key])!r}:"
                " cannot change while the daemon runs; restart the daemon"
            )
    if changed:
        raise ConfigurationError("\n".join(changed))


def _fixed(config: Config) -> dict[str, object]:
    """The values that are fixed while the daemon runs. Roles, certificates and copy_rate may
    change.
    """
    control = config.control
    fixed = {
        f"controller.{key}": getattr(config.controller, key)
        for key in type(config.controller).model_fields
        if key != "copy_rate"
    }
    listen = [address.authority for address in control.tls.listen] if control.tls else None
    return {
        **fixed,
        "control.socket": control.socket,
        "control.group": control.group,
        "control.tls.listen": listen,
    }


def refuse_problems(config: Config, served: Config | None = None) -> None:
    """Raise what `preflight.look` found: ForbiddenError if only permissions are missing, else
    ConfigurationError.
    """
    if found := preflight.look(config, served):
        text = "\n".join(f"{config.source}: {problem.line}" for problem in found)
        raise (
            ForbiddenError(text)
            if all(problem.forbidden for problem in found)
            else ConfigurationError(text)
        )


def raise_open_files() -> None:
    """Raise the limit of open files: two images a volume, a socket a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class StateLock:
    """One daemon for one state directory: the kernel releases the lock however the process ends.

    The file holds the process id of the last owner and, once its recovery is complete, the line
    `serving`, which `verify-cut` reads.
    """

    def __init__(self, config: Config) -> None:
        path = config.controller.state_dir
        try:
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except PermissionError as error:
            raise ForbiddenError(
                f"{config.source}: controller.state_dir: {error.filename!r} cannot be written:"
                f" {error.strerror}"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"{config.source}: controller.state_dir: {str(path)!r}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 20, 0).decode(errors="replace").partition("\n")[0]
            os.close(self._fd)
            raise WrongStateError(
                f"{config.source}: controller.state_dir: {str(path)!r} is in use by another"
                f" duplexd, process {owner or 'unknown'}; stop that one first,"
                " or configure another state_dir"
            ) from None
        os.truncate(self._fd, 0)
        self._owner = f"{os.getpid()}\n".encode()
        os.pwrite(self._fd, self._owner, 0)

    def serving(self) -> None:
        """Record that recovery is complete: from now on the images agree with the journal."""
        os.pwrite(self._fd, b"serving\n", len(self._owner))

    def close(self) -> None:
        os.close(self._fd)
