"""From a path in the configuration to a leg.

Errors are sorted here by who can remedy them. A path that leads nowhere or a missing permission is
remedied in the configuration, or around it: ConfigurationError, so that the message names what to
change and a service manager does not start the daemon again in vain. A failing disk is not, and
stays an OSError. An image of another size is never resized: the size may be the mistake, and a
truncated image is gone.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError
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


def open_leg(disk: Disk, path: str, size: int) -> tuple[Leg, bool]:
    """The leg at `path`, and whether it was created just now: sparse, `size` bytes of zeroes.

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
    if file.size != size:
        file.close()
        kind = "device" if file.is_block else "image"
        raise ConfigurationError(
            f"{path}: the {kind} has {_bytes(file.size)}, the volume {_bytes(size)}; "
            f"images are not resized: give the size of the {kind}, or another path"
        )
    return file, created


def _bytes(size: int) -> str:
    return f"{size} bytes ({format_size(size)})"
