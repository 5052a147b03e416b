"""From a path in the configuration to a leg."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError
from duplexd.images.blockdev import BlockDeviceLeg
from duplexd.images.file import FileLeg
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Disk

# What a person puts right by giving another path, or rights to it. Anything else is the machine's trouble and stays an OSError.
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

    ConfigurationError, naming the path, if an image of another size is there, if somebody else has it, or if the path is no good.
    OSError if the disk fails. Nothing stays open after an error.
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
            f"{path}: the {kind} has {_bytes(file.size)}, the volume {_bytes(size)}; images are not resized: "
            f"give the size of the {kind}, or another path"
        )
    return (BlockDeviceLeg(file) if file.is_block else FileLeg(file)), created


def _bytes(size: int) -> str:
    return f"{size} bytes ({format_size(size)})"
