"""The image of a backup is compared with a volume, and what differs is written to the volume.

QEMU reads the image, with all that it lies on, and serves it over NBD; the volume is an export of
its daemon. Where QEMU says that both are zero, nothing is read. What differs is written block by
block, zeroes as zeroes, so a second run finds what the first one left.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup import programs
from duplexd.core.differing import BLOCK_BYTES, differing
from duplexd.errors import DuplexdError
from duplexd.nbd.uri import NbdUri
from duplexd.nbd_aio.connecting import connect
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from duplexd.backup.sources import Source
    from duplexd.json_object import Json
    from duplexd.nbd_aio.nbd_disk import Disk

    Range = tuple[int, int]

PIECE_BYTES = MIB
GAP_BYTES = PIECE_BYTES // 4
_AT_A_TIME = 4  # pieces of a volume
SOCKETS_BYTES = len("/12345678/volume")  # of their paths, below a job's directory
_MAP_BYTES_MAX = 64 << 20  # half a million extents; of more all is read


class Job(NamedTuple):
    """A volume, its image, and a directory for sockets. `credentials` are those of the volume."""

    image: Path
    source: Source
    credentials: list[str]
    directory: Path


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


async def bring_back(
    job: Job, figures: Figures, writes: bool, progress: Callable[[int, int], None]
) -> None:
    """Compare, and with `writes` write what differs, durably. Raises DuplexdError."""
    size = job.source.size
    ranges = await _to_compare(job)
    total = sum(length for _, length in ranges)
    async with _opened(job) as (image, volume):
        if image.size < size or volume.size != size:
            raise DuplexdError(f"{job.source.name}: its size, or that of its image, has changed")
        pieces = _pieces(ranges)

        async def work() -> None:
            for offset, length in pieces:
                await _one(job, (image, volume), (offset, length), figures, writes)
                progress(figures.compared, total)

        await together([work() for _ in range(_AT_A_TIME)])
        if writes:
            try:
                await volume.flush()
            except OSError as error:
                raise _not_written(job, error) from error


async def _one(
    job: Job,
    opened: tuple[Disk, Disk],
    at: Range,
    figures: Figures,
    writes: bool,
) -> None:
    (image, volume), (offset, length) = opened, at
    try:
        wanted = await image.read(offset, length)
    except OSError as error:
        raise DuplexdError(
            f"{job.source.name}: {job.image} cannot be read at {offset}: {error.strerror or error}"
        ) from error
    try:
        for run in differing(wanted, await volume.read(offset, length)):
            figures.differing += run.length
            if not writes:
                continue
            start = offset + run.offset
            if run.zeroes:
                await volume.write_zeroes(start, run.length)
            else:
                await volume.write(start, wanted[run.offset : run.offset + run.length])
            figures.written += run.length
    except OSError as error:
        raise _not_written(job, error) from error
    figures.compared += length


def _not_written(job: Job, error: OSError) -> DuplexdError:
    return DuplexdError(
        f"{job.source.name}: the volume cannot be read or written: {error.strerror or error}; see"
        " `duplexctl status` and the log of its daemon"
    )


async def together(works: Sequence[Awaitable[None]]) -> None:
    """The first error ends all, and is raised when they have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -------------------------------------------------------------------------------- what is opened


@asynccontextmanager
async def _opened(job: Job) -> AsyncGenerator[tuple[Disk, Disk]]:
    """The image and the volume. Over TLS another qemu-nbd is between the volume and us."""
    directory = Path(tempfile.mkdtemp(dir=job.directory))  # names may be longer than sockets' paths
    socket = str(directory / "image")
    async with (
        _served(["--read-only", as_qemu(job.image)], socket),
        _near(job, directory) as uri,
        await _connected(NbdUri("", socket)) as image,
        await _connected(uri) as volume,
    ):
        yield image, volume


@asynccontextmanager
async def _near(job: Job, directory: Path) -> AsyncGenerator[NbdUri]:
    if not job.source.uri.tls:
        yield job.source.uri
        return
    socket = str(directory / "volume")
    async with _served([*job.credentials, job.source.image()], socket):
        yield NbdUri("", socket)


def _served(options: Sequence[str], socket: str) -> AbstractAsyncContextManager[None]:
    command = ["qemu-nbd", "--persistent", "--shared=4", f"--socket={socket}", *options]
    return programs.serving(command, socket)


async def _connected(uri: NbdUri) -> Disk:
    try:
        return await connect(uri)
    except OSError as error:
        raise DuplexdError(f"{uri}: {error.strerror or error}") from error


def as_qemu(image: Path) -> str:
    """An image of a backup, as QEMU takes it; what it lies on is named in it."""
    file: Json = {"driver": "file", "filename": str(image)}
    return "json:" + json.dumps({"driver": "qcow2", "file": file})


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


def _pieces(ranges: Iterable[Range]) -> Iterator[Range]:
    for offset, length in ranges:
        for at in range(offset, offset + length, PIECE_BYTES):
            yield at, min(PIECE_BYTES, offset + length - at)
