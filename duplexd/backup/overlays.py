"""An image that has only what changed, and lies on the image of an older backup.

qemu-io reads the changed extents of a new, empty image through its copy-on-read: what the image
lacks comes from the cut, which is its backing file for that time, and is written into it. Then its
backing file becomes the older image. So QEMU copies and writes, as in a full backup, and what it
reads as zeroes, trimmed blocks too, becomes zeroes of the image, which hide the older data.

Considered and rejected: `qemu-img convert -B` and `rebase` (they read everything to find what
changed), qemu-nbd with a copying client of our own (every byte goes through Python), and a mirror
job of qemu-storage-daemon (a bitmap cannot be given to it).
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup import programs, side_by_side
from duplexd.backup.saved import NAME
from duplexd.backup.side_by_side import DiffersError, ImageError
from duplexd.core.differing import differing
from duplexd.errors import DuplexdError
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from duplexd.backup.side_by_side import Job
    from duplexd.backup.sources import Source
    from duplexd.json_object import Json

# A read whose bytes are all zero takes no room, so shorter ones leave more holes.
_READ_BYTES = MIB
# What a qcow2 image begins with: magic, version, where the name of its backing file is, its length.
_HEADER = struct.Struct(">4sIQI")
_MAGIC, _NAME_BYTES_MAX = b"QFI\xfb", 1023


class Overlay(NamedTuple):
    """What to copy of a volume: (offset, length) of its `extents`, onto the image `base`."""

    base: Path
    extents: Sequence[tuple[int, int]]
    changed_bytes: int


async def write(
    path: Path,
    source: Source,
    credentials: Sequence[str],
    overlay: Overlay,
    progress: Callable[[float], None],
) -> None:
    """Make the image at `path`. Raises ProgramError."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(source.size)]
    await programs.run(create)
    if overlay.extents:
        command = ["qemu-io", *credentials, "--copy-on-read", _on(path, source.image())]
        await programs.run(command, progress, list(_script(overlay.extents)))
    base = os.path.relpath(overlay.base, path.parent)
    rebase = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base]
    await programs.run([*rebase, str(path)])


async def compare(job: Job, overlay: Overlay, progress: Callable[[float], None]) -> None:
    """Compare what changed with the cut, as QEMU reads it from the image and those below.

    Raises DiffersError if it is not the same, or QEMU cannot read the images; another DuplexdError
    if the cut cannot be read.
    """
    name = job.source.name

    async def differs(offset: int, wanted: bytes, present: bytes) -> None:
        at = offset + differing(wanted, present)[0].offset
        raise DiffersError(f"{name}: the copy differs from the cut, at {at}")

    try:
        async with side_by_side.opened(job) as disks:
            await side_by_side.compare(
                job,
                disks,
                overlay.extents,
                differs,
                lambda done, total: progress(100 * done / total),
            )
    except (ImageError, programs.ProgramError) as error:  # QEMU cannot open it, or read it
        raise DiffersError(str(error)) from None
    except OSError as error:
        raise DuplexdError(f"{name}: the cut cannot be read: {error.strerror or error}") from error


def _on(path: Path, image: str) -> str:
    """The image at `path`, with `image` as its backing file."""
    own: Json = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(path)},
        "backing": json.loads(image.removeprefix("json:")),
    }
    return "json:" + json.dumps(own)


def _script(extents: Sequence[tuple[int, int]]) -> Iterator[str]:
    for offset, length in extents:
        for at in range(offset, offset + length, _READ_BYTES):
            yield f"read -q {at} {min(_READ_BYTES, offset + length - at)}"


def lies_on(directory: Path) -> str:
    """The older backup whose images are the backing files of those in `directory`, as these say
    themselves; "" if none does.
    """
    for path in (*directory.glob("*.qcow2"), *directory.glob("*/*.qcow2")):
        for part in PurePath(_backing_file(path)).parts:
            if NAME.fullmatch(part):
                return part
    return ""


def _backing_file(path: Path) -> str:
    with suppress(OSError, struct.error), path.open("rb") as file:
        magic, _version, at, length = _HEADER.unpack(file.read(_HEADER.size))
        if magic == _MAGIC and length <= _NAME_BYTES_MAX:
            file.seek(at if length else 0)
            return file.read(length).decode(errors="replace")
    return ""
