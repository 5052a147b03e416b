"""The image of a backup beside its volume, or the cut of it, piece by piece.

QEMU reads the image, with all that it lies on, and serves it over NBD; the volume is an export of
its daemon. A few pieces are read at a time, so that neither side waits for the other.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup import programs
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
    # an offset, and what the image and the volume hold there
    Differs = Callable[[int, bytes, bytes], Awaitable[None]]

PIECE_BYTES = MIB
_AT_A_TIME = 4  # pieces of a volume
SOCKETS_BYTES = len("/12345678/volume")  # of their paths, below a job's directory


class DiffersError(DuplexdError):
    """A copy is not what its volume is at the cut."""


class ImageError(DuplexdError):
    """The image, or one that it lies on, cannot be read."""


class Job(NamedTuple):
    """A volume, its image, and a directory for sockets. `credentials` are those of the volume;
    `writes`: it is to be written to, as a point cannot be.
    """

    image: Path
    source: Source
    credentials: list[str]
    directory: Path
    writes: bool = False


async def compare(
    job: Job,
    disks: tuple[Disk, Disk],
    ranges: Sequence[Range],
    differs: Differs,
    progress: Callable[[int, int], None],
) -> None:
    """Compare these ranges of what `opened` gave; `differs` is called for pieces that are not the
    same. What it and reads of the volume raise comes through. Raises ImageError.
    """
    image, volume = disks
    total, done = sum(length for _, length in ranges), 0
    pieces = _pieces(ranges)

    async def work() -> None:
        nonlocal done
        for offset, length in pieces:
            try:
                wanted = await image.read(offset, length)
            except OSError as error:
                raise _unreadable(job, offset, error) from error
            present = await volume.read(offset, length)
            if wanted != present:
                await differs(offset, wanted, present)
            done += length
            progress(done, total)

    await together([work() for _ in range(_AT_A_TIME)])


def _unreadable(job: Job, offset: int, error: OSError) -> ImageError:
    return ImageError(
        f"{job.source.name}: {job.image} cannot be read at {offset}: {error.strerror or error}"
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


def _pieces(ranges: Iterable[Range]) -> Iterator[Range]:
    for offset, length in ranges:
        for at in range(offset, offset + length, PIECE_BYTES):
            yield at, min(PIECE_BYTES, offset + length - at)


# -------------------------------------------------------------------------------- what is opened


@asynccontextmanager
async def opened(job: Job) -> AsyncGenerator[tuple[Disk, Disk]]:
    """The image and the volume. Over TLS another qemu-nbd is between the volume and us. Raises
    ImageError, or another DuplexdError.
    """
    directory = Path(tempfile.mkdtemp(dir=job.directory))  # names may be longer than sockets' paths
    socket = str(directory / "image")
    async with (
        _served(["--read-only", as_qemu(job.image)], socket),
        _near(job, directory) as uri,
        await _image(job, socket) as image,
        await _connected(uri) as volume,
    ):
        if image.size < job.source.size or volume.size != job.source.size:
            raise DuplexdError(f"{job.source.name}: its size, or that of its image, has changed")
        yield image, volume


@asynccontextmanager
async def _near(job: Job, directory: Path) -> AsyncGenerator[NbdUri]:
    if not job.source.uri.tls:
        yield job.source.uri
        return
    socket = str(directory / "volume")
    how = [] if job.writes else ["--read-only"]
    async with _served([*how, *job.credentials, job.source.image()], socket):
        yield NbdUri("", socket)


def _served(options: Sequence[str], socket: str) -> AbstractAsyncContextManager[None]:
    command = ["qemu-nbd", "--persistent", "--shared=4", f"--socket={socket}", *options]
    return programs.serving(command, socket)


async def _image(job: Job, socket: str) -> Disk:
    """What qemu-nbd serves, which listens before it opens the image."""
    try:
        return await connect(NbdUri("", socket))
    except OSError as error:
        raise ImageError(
            f"{job.source.name}: qemu-nbd cannot open {job.image}, or what it lies on:"
            f" {error.strerror or error}"
        ) from error


async def _connected(uri: NbdUri) -> Disk:
    try:
        return await connect(uri)
    except OSError as error:
        raise DuplexdError(f"{uri}: {error.strerror or error}") from error


def as_qemu(image: Path) -> str:
    """An image of a backup, as QEMU takes it; what it lies on is named in it."""
    file: Json = {"driver": "file", "filename": str(image)}
    return "json:" + json.dumps({"driver": "qcow2", "file": file})
