"""The copies of a cut: one image for each volume, written and compared by programs of QEMU.

Comparing reads the copy and the cut again, the copy from its disk: it is synced and dropped from
the page cache first. It is done for every backup: what a disk or a network changed on the way is
found while the cut can still be copied once more, and not at the restore. The check-sum of the
image is computed at the same time, so that its disk is read once for both.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duplexd.backup import overlays, programs
from duplexd.backup.background import in_background
from duplexd.backup.destination import in_words
from duplexd.backup.proofs import Sum, sum_of, to_disk
from duplexd.backup.saved import SavedVolume, image_file
from duplexd.backup.side_by_side import DiffersError, Job
from duplexd.errors import DuplexdError
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from duplexd.backup.overlays import Overlay
    from duplexd.backup.sources import Source

    Progress = Callable[[str, int, int], None]

T = TypeVar("T")
CREDENTIALS = "+tls"  # no controller is called that: their images lie beside it
_DIFFER = 1  # how `qemu-img compare` ends then


class Copies:
    """Of all volumes of a cut, into one directory. `together` run at a time. Those that have one of
    `changed`, by their names, are copied as that; if not `whole`, that alone is compared, by way of
    sockets in `sockets`. `sums`: of what was compared, by the names of volumes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        directory: Path,
        together: int,
        progress: Progress,
        changed: Mapping[str, Overlay],
        whole: bool,
        sockets: Path,
    ) -> None:
        self.sums: dict[str, Sum] = {}
        self._sources = sources
        self._directory = directory
        self._slots = asyncio.Semaphore(together)
        self._progress = progress
        self._changed = changed
        self._whole = whole
        self._sockets = sockets

    async def needed_bytes(self) -> int:
        """What the images take at most: holes take nothing."""
        return sum(await self._each(self._needed))

    async def copy(self) -> None:
        """Write them. Raises ProgramError."""
        await self._each(self._copy)

    async def compare(self) -> None:
        """With their check-sums. Raises DiffersError if one is not its volume at the cut."""
        await self._each(self._prove)

    def saved(self) -> tuple[SavedVolume, ...]:
        """As the manifest has them; after `compare`."""
        return tuple(map(self._saved, self._sources))

    async def _each(self, work: Callable[[Source], Awaitable[T]]) -> list[T]:
        """The first error cancels the others, and is raised when they have ended."""

        async def one(source: Source) -> T:
            async with self._slots:
                return await work(source)

        tasks: list[asyncio.Task[T]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(source)) for source in self._sources]
        except BaseExceptionGroup as errors:
            # not `except*`: the Python of Debian 12 wraps what is raised there in a group again
            known, others = errors.split(DuplexdError)
            if known is None or others is not None:
                raise
            raise _first(known) from None
        return [task.result() for task in tasks]

    def _path(self, source: Source) -> Path:
        return self._directory / image_file(source.name)

    def _command(self, source: Source, verb: str, *options: str) -> list[str]:
        credentials = source.credentials(self._directory / CREDENTIALS)
        return ["qemu-img", verb, *credentials, *options]

    def _shown(self, source: Source, doing: str) -> Callable[[float], None]:
        name = f"{source.name}: {doing}"
        return lambda percent: self._progress(name, int(source.size * percent / 100), source.size)

    async def _needed(self, source: Source) -> int:
        """Of changes at most what a whole copy takes: a whole region may count as changed that has
        hardly any data, as after a kill.
        """
        whole = await self._measured(source, source.image())
        overlay = self._changed.get(source.name)
        if overlay is None:
            return whole
        empty = await self._measured(source, "--size", str(source.size))
        return min(whole, empty + overlay.changed_bytes)

    async def _measured(self, source: Source, *what: str) -> int:
        command = self._command(source, "measure", "--output", "json", "-O", "qcow2", *what)
        return int(json.loads(await programs.run(command))["required"])

    async def _copy(self, source: Source) -> None:
        path = self._path(source)
        with in_words(path):
            path.parent.mkdir(0o700, exist_ok=True)
        if (overlay := self._changed.get(source.name)) is not None:
            credentials = source.credentials(self._directory / CREDENTIALS)
            shown = self._shown(source, "copying changes")
            await overlays.write(path, source, credentials, overlay, shown)
            return
        command = self._command(source, "convert", "-p", "-O", "qcow2")
        await programs.run([*command, source.image(), str(path)], self._shown(source, "copying"))

    async def _prove(self, source: Source) -> None:
        path = self._path(source)
        await in_background(partial(to_disk, path))
        summing = asyncio.ensure_future(in_background(partial(sum_of, path)))
        try:
            overlay = self._changed.get(source.name)
            if overlay is None or self._whole:
                await self._compare(source)
            else:
                credentials = source.credentials(self._directory / CREDENTIALS)
                job = Job(path, source, credentials, self._sockets)
                await overlays.compare(job, overlay, self._shown(source, "comparing changes"))
            self.sums[source.name] = await summing
        finally:
            summing.cancel()

    async def _compare(self, source: Source) -> None:
        copy = {"driver": "qcow2", "file": {"driver": "file", "filename": str(self._path(source))}}
        command = self._command(source, "compare", "-p")
        images = ["json:" + json.dumps(copy), source.image()]
        try:
            await programs.run([*command, *images], self._shown(source, "comparing"))
        except programs.ProgramError as error:
            if error.status != _DIFFER:
                raise
            raise DiffersError(
                f"{source.name}: the copy differs from the cut, and is no backup: {error}; check"
                " the disk that it was written to, and the network"
            ) from None

    def _saved(self, source: Source) -> SavedVolume:
        found = self.sums[source.name]
        return SavedVolume(
            source.name,
            source.controller,
            source.volume,
            source.size,
            image_file(source.name),
            found.bytes,
            found.sha256,
        )


def _first(errors: BaseExceptionGroup[DuplexdError]) -> DuplexdError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def check_room(needed_bytes: int, free_bytes: int, path: Path) -> None:
    """Raises DuplexdError before a disk is filled in vain."""
    if needed_bytes > free_bytes:
        raise DuplexdError(
            f"{path}: a backup takes up to {format_size(needed_bytes)}, and"
            f" {format_size(free_bytes)} are free; make room there, or keep fewer backups"
        )
