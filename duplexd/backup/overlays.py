"""An image that has only what changed, and lies on the image of an older backup.

qemu-img copies as in a full backup, but from an image of the cut that has holes where nothing
changed (`nbd/contexts.py`): these it leaves to the older image. What it reads as zeroes, trimmed
blocks too, becomes zeroes of the new image, which hide the older data. Changes are known by whole
clusters of qcow2, so nothing of the older image is needed to write the new one: meanwhile zeroes
take its place, so that an older image which cannot be read shows only where it is compared.

Considered and rejected: `qemu-img rebase` (it reads everything to find what changed), qemu-io with
reads that it copies (one after the other: half as fast), qemu-nbd with a copying client of our own
(every byte goes through Python), and a mirror job of qemu-storage-daemon (a bitmap cannot be given
to it).
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup import programs, side_by_side
from duplexd.backup.saved import NAME
from duplexd.backup.side_by_side import DiffersError, ImageError
from duplexd.core.differing import differing
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from duplexd.backup.side_by_side import Job
    from duplexd.backup.sources import Source
    from duplexd.json_object import Json

# What a qcow2 image begins with: magic, version, where the name of its backing file is, its length.
_HEADER = struct.Struct(">4sIQI")
_MAGIC, _NAME_BYTES_MAX = b"QFI\xfb", 1023


class Overlay(NamedTuple):
    """What to copy of a volume: (offset, length) of its `extents`, onto the image `base`, which is
    one of the cut `since`.
    """

    base: Path
    since: str
    extents: Sequence[tuple[int, int]]
    changed_bytes: int


async def write(
    path: Path,
    source: Source,
    credentials: Sequence[str],
    overlay: Overlay,
    progress: Callable[[float], None],
) -> None:
    """Make the image at `path`. Raises ProgramError; DiffersError if the controller does not say
    what changed: it has forgotten that meanwhile, or is older than the context.
    """
    onto = ["-W", "-O", "qcow2", "-F", "raw", "-B", _zeroes(source.size)]
    command = ["qemu-img", "convert", *credentials, "-p", *onto]
    changed = source.image(overlay.since)
    try:
        await programs.run([*command, changed, str(path)], progress)
    except programs.ProgramError:
        opens = partial(_opens, credentials)
        if await opens(changed) or not await opens(source.image()):
            raise
        raise DiffersError(
            f"{source.name}: what changed since cut {overlay.since} cannot be asked for any more"
        ) from None
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


async def _opens(credentials: Sequence[str], image: str) -> bool:
    try:
        await programs.run(["qemu-img", "info", *credentials, image])
    except programs.ProgramError:
        return False
    return True


def _zeroes(size: int) -> str:
    """An image of so many zeroes, as QEMU takes it."""
    file: Json = {"driver": "null-co", "size": size, "read-zeroes": True}
    return "json:" + json.dumps({"driver": "raw", "file": file})


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
