"""The image of a backup is compared with a volume, and what differs is written to the volume.

Where QEMU says that both are zero, nothing is read. What differs is written block by block, zeroes
as zeroes, so a second run finds what the first one left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.backup import programs
from duplexd.backup.side_by_side import PIECE_BYTES, as_qemu, compare, opened
from duplexd.core.differing import BLOCK_BYTES, differing
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.backup.side_by_side import Job, Range
    from duplexd.json_object import Json
    from duplexd.nbd_aio.nbd_disk import Disk

GAP_BYTES = PIECE_BYTES // 4
_MAP_BYTES_MAX = 64 << 20  # half a million extents; of more all is read


class Figures:
    """Of one volume, in bytes."""

    def __init__(self) -> None:
        self.compared = self.differing = self.written = 0

    def json(self) -> Json:
        """As the answer has it."""
        return {
            "compared_bytes": self.compared,
            "differing_bytes": self.differing,
            "written_bytes": self.written,
        }


async def bring_back(job: Job, figures: Figures, progress: Callable[[int, int], None]) -> None:
    """Compare, and if the job `writes` write what differs, durably. Raises DuplexdError."""
    ranges = await _to_compare(job)

    def compared(done: int, total: int) -> None:
        figures.compared = done
        progress(done, total)

    async with opened(job) as disks:
        _, volume = disks

        async def differs(offset: int, wanted: bytes, present: bytes) -> None:
            for run in differing(wanted, present):
                figures.differing += run.length
                if job.writes:
                    part = wanted[run.offset : run.offset + run.length]
                    await _put(volume, offset + run.offset, part, run.zeroes)
                    figures.written += run.length

        try:
            await compare(job, disks, ranges, differs, compared)
            if job.writes:
                await volume.flush()
        except OSError as error:
            raise DuplexdError(
                f"{job.source.name}: the volume cannot be read or written:"
                f" {error.strerror or error}; see `duplexctl status` and the log of its daemon"
            ) from error


async def _put(volume: Disk, offset: int, content: bytes, zeroes: bool) -> None:
    if zeroes:
        await volume.write_zeroes(offset, len(content))
    else:
        await volume.write(offset, content)


# ------------------------------------------------------------------------------ what is compared


async def _to_compare(job: Job) -> list[Range]:
    size = job.source.size
    ranges: list[Range] = []
    for credentials, image in (([], as_qemu(job.image)), (job.credentials, job.source.image())):
        command = ["qemu-img", "map", "--output=json", *credentials, image]
        text = await programs.run(command, output_bytes_max=_MAP_BYTES_MAX)
        ranges += _data(text, size)
    return united(ranges, size)


def _data(text: bytes, size: int) -> list[Range]:
    """All but what reads as zeroes."""
    try:
        rows = json.loads(text)
    except ValueError:  # it is longer than what is kept of it
        return [(0, size)]
    return [(row["start"], row["length"]) for row in rows if not row["zero"]]


def united(ranges: Iterable[Range], size: int) -> list[Range]:
    """What they cover, in whole blocks, in order, and each byte once; with the small gaps between
    them, because a request costs as much as reading these.
    """
    found: list[Range] = []
    for offset, length in sorted(ranges):
        start = offset // BLOCK_BYTES * BLOCK_BYTES
        end = min(size, -(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES)
        if found and start <= (before := sum(found[-1])) + GAP_BYTES:
            start, end = found.pop()[0], max(end, before)
        if start < end:
            found.append((start, end - start))
    return found
