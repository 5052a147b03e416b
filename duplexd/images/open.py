"""From a path in the configuration to a leg.

Errors are sorted here by who can remedy them. A path that leads nowhere or a missing permission is
remedied in the configuration, or around it: ConfigurationError, so that the message names what to
change and a service manager does not start the daemon again in vain. A failing disk is not, and
stays an OSError. An image of another size is not resized here: the size may be the mistake, and a
truncated image is gone. Only a secondary loses nothing by it, because it is copied again: there the
message has the command.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError
from duplexd.images.place import to_extend
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Disk

# Remedied by another path, or by permissions for it.
_PATH_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EFBIG,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
    }
)


class TooShortError(ConfigurationError):
    """`place`: which file it is. If it is as long as its volume later, its content was lost."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


def open_leg(
    disk: Disk,
    path: str,
    size: int,
    longest: int = 0,
    copied_to: bool = False,
    is_known: bool = False,
) -> tuple[Leg, bool]:
    """The leg at `path`, and whether it was created just now: sparse, `size` bytes of zeroes. One
    that is there may have up to `longest` bytes: its volume was about to grow. `copied_to`: its
    content can be had again from another image. `is_known`: of the journal, so a device may be any
    longer: it was enlarged, and its volume grows later.

    ConfigurationError, naming the path, if an image of another size is there, if another opener has
    it, or if the path cannot be used. OSError if the disk fails. Nothing stays open after an error.
    """
    try:
        created = not disk.exists(path)
        file = disk.create(path, size) if created else disk.open(path)
    except OSError as error:
        if error.errno in _PATH_ERRORS:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        raise
    if size < file.size and (file.size <= longest or (is_known and file.is_block)):
        file.size = size
    if file.size != size:
        try:
            place = file.stamp().place
        finally:
            file.close()
        raise _of_another_size(file, size, place, copied_to)
    return file, created


def _of_another_size(file: Leg, size: int, place: str, copied_to: bool) -> ConfigurationError:
    kind = "device" if file.is_block else "image"
    found = f"{file.path}: the {kind} has {_bytes(file.size)}, the volume {_bytes(size)}"
    advice = f"images are not resized: give the size of the {kind}, or another path"
    if file.size > size:
        return ConfigurationError(f"{found}; {advice}")
    if copied_to and file.is_block:
        advice = f"the device is too small: give the path of one of {size} bytes"
    elif copied_to:
        advice = f"images are not resized: {to_extend(file.path, size)}, or give another path"
    return TooShortError(f"{found}; {advice}", place)


def _bytes(size: int) -> str:
    return f"{size} bytes ({format_size(size)})"
