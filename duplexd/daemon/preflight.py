"""Whether a configuration fits this machine: images, directories, permissions, certificates.

`duplexd check` and the start of the daemon run the same checks, so a configuration that passes
`check` starts. They only look: if a check created an image, the next start would take it for an
existing one, and begin with a full copy.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import ConfigurationError, ForbiddenError
from duplexd.net import tls
from duplexd.net.listen import group_id
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.config.daemon_file import Config


class Problem(NamedTuple):
    """One line of text. `forbidden`: permissions are missing; the configuration itself is right."""

    line: str
    forbidden: bool = False


def look(config: Config, served: Config | None = None) -> list[Problem]:
    """What would keep the daemon from serving this configuration, each as `dotted.key: what is
    wrong; what to do`.

    Images that a running daemon has open already, by the configuration `served`, are skipped.
    """
    found = [
        *_directory("controller.state_dir", config.controller.state_dir),
        *_group(config),
        *_tls(config),
    ]
    in_use = leg_keys(served) if served is not None else {}
    for name, volume in config.volumes.items():
        for key, path in (("primary", volume.primary), ("secondary", volume.secondary)):
            if path is not None and in_use.get(path) != f"volumes.{name}.{key}":
                found += _image(f"volumes.{name}.{key}", path, volume.size)
    return found


def leg_keys(config: Config) -> dict[Path, str]:
    """The key at which each image is named."""
    keys = {volume.primary: f"volumes.{name}.primary" for name, volume in config.volumes.items()}
    return keys | {
        volume.secondary: f"volumes.{name}.secondary"
        for name, volume in config.volumes.items()
        if volume.secondary
    }


def _image(key: str, path: Path, size: int) -> Iterator[Problem]:
    try:
        status = path.stat()
    except FileNotFoundError:
        yield from _new_image(key, path)
        return
    except OSError as error:
        yield Problem(
            f"{key}: {str(path)!r} is not accessible: {error.strerror}",
            error.errno == errno.EACCES,
        )
        return
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        kind = (
            "a directory" if stat.S_ISDIR(status.st_mode) else "neither a file nor a block device"
        )
        yield Problem(f"{key}: {str(path)!r} is {kind}; give the path of an image")
        return
    if not os.access(path, os.R_OK | os.W_OK):
        yield Problem(
            f"{key}: {str(path)!r} cannot be read and written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )
        return
    try:
        actual = _size(path)
    except OSError as error:
        yield Problem(f"{key}: {str(path)!r} cannot be opened: {error.strerror}")
        return
    if actual != size:
        yield Problem(
            f"{key}: {str(path)!r} has {actual} bytes ({format_size(actual)}),"
            f" the configuration says {size} ({format_size(size)}); images are never resized:"
            " correct the size or give another image"
        )


def _size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _new_image(key: str, path: Path) -> Iterator[Problem]:
    if path.is_symlink():
        yield Problem(
            f"{key}: {str(path)!r} is a dangling symbolic link; remove it or create its target"
        )
    elif not path.parent.is_dir():
        yield Problem(
            f"{key}: there is no directory {str(path.parent)!r} to create the image in;"
            " create it, or correct the path"
        )
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield Problem(
            f"{key}: {str(path.parent)!r} cannot be written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )


def _directory(key: str, path: Path) -> Iterator[Problem]:
    """A directory that is created if it does not exist."""
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        yield Problem(f"{key}: {str(nearest)!r} is not a directory; correct the path")
    elif not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        yield Problem(
            f"{key}: {str(nearest)!r} cannot be written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )


def _group(config: Config) -> Iterator[Problem]:
    if config.control.group is not None:
        try:
            group_id("control.group", config.control.group)
        except ConfigurationError as error:
            yield Problem(str(error))


def _tls(config: Config) -> Iterator[Problem]:
    if config.control.tls is not None:
        try:
            tls.server_context(config.control.tls)
        except (ConfigurationError, ForbiddenError) as error:
            yield Problem(str(error), isinstance(error, ForbiddenError))
