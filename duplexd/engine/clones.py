"""Clones: secondaries at a cut that can be written to, as NBD exports `VOLUME@POINT+NAME`.

For looking into a cut with the application's own tools, which nearly all write: a file system
replays its log, a database recovers. Neither the secondary nor the journal gets any of it.

A clone is made for all volumes of a command or for none, all at one cut. It is a reader of that
cut, ends with it, and does not survive the daemon. Requests of other volumes and points go on from
here to who serves them; changes of clones never meet the write path.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, cast

from duplexd.core.clone import Clone, parse
from duplexd.core.patience import OverlayCall
from duplexd.core.readers import CLONE, Who
from duplexd.engine.clone_requests import CloneRequests
from duplexd.engine.overlay import Overlay
from duplexd.errors import LimitError, NotFoundError, UsageError, WrongStateError
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import Watch
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from duplexd.backend import Changes, Extent, Volume
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.core.point import Point
    from duplexd.core.readers import Readers
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.overlay import OverlayFiles
    from duplexd.engine.points import Points
    from duplexd.engine.question_line import QuestionLine
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import File

    Done = Callable[[int, bytearray], None]
    SparseDone = Callable[[int, bytearray, list[Extent]], None]

DROPPED = "it was dropped"
STOPPING = "the daemon stops"


class Clones:
    """Of a controller: which there are; and what `Backend` says of reading and writing."""

    def __init__(
        self,
        volumes: Volumes,
        points: Points,
        volumes_take: Changes,
        archive: CutArchive,
        readers: Readers,
        files: OverlayFiles,
        legs: LegCalls,
        on_leg_failed: Callable[[Pair, Leg, OSError], None],
        line: QuestionLine,
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`volumes_take`: who takes the changes of volumes. `on_leg_failed` is called for a
        secondary that has lost writes.
        """
        self._volumes = volumes
        self._points = points
        self._volumes_take = volumes_take
        self._archive = archive
        self._readers = readers
        self._files = files
        self._legs = legs
        self._on_leg_failed = on_leg_failed
        self._line = line
        self._events = events
        self._clock = clock
        self._limits = limits
        self._clones: dict[tuple[str, str], Clone] = {}  # by volume and name
        self._making = asyncio.Lock()
        self._closing: dict[Clone, asyncio.Task[None]] = {}
        self._ends: dict[Clone, asyncio.Future[str]] = {}
        self.limit_bytes = 0  # of one that asks for no less

    # ----------------------------------------------------------------------- making and dropping

    async def make(
        self, names: Sequence[str], cut_id: str, name: str, limit_bytes: int | None = None
    ) -> Json:
        """A clone of each pair, at a cut that all of them are at; all, or none.

        Raises WrongStateError where the cut or the name is not to be had, LimitError where there
        are too many, UsageError for more room than is allowed, OSError.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        if limit > self.limit_bytes:
            raise UsageError(
                f"a limit of {format_size(limit)} is above clone_limit, which is "
                f"{format_size(self.limit_bytes)}: ask for less, or raise it in [controller]"
            )
        pairs = self._volumes.named(names)
        async with self._making:
            self._check(pairs, cut_id, name)
            files = await self._files_for([pair.size for pair in pairs])
            try:
                bases = self._check(pairs, cut_id, name)
            except BaseException:
                for file in files:
                    file.close()
                raise
            made = [
                self._begin(base, name, file, limit)
                for base, file in zip(bases, files, strict=True)
            ]
        self._events.emit("reader-began", reader=made[0].reader, volumes=list(names), cut=cut_id)
        return {
            "name": name,
            "cut": cut_id,
            "tag": made[0].cut.tag,
            "verdict": self._archive.verdict(made[0].cut),
            "volumes": [self._show(clone) for clone in made],
        }

    def _check(self, pairs: Sequence[Pair], cut_id: str, name: str) -> list[Point]:
        """The points to begin with."""
        away, bases = [], []
        for pair in pairs:
            cut = self._points.cut_of(pair)
            if cut is None or cut.id != cut_id:
                away.append(pair.name)
            elif (pair.name, name) in self._clones:
                raise WrongStateError(
                    f"{pair.name} has a clone {name!r} already; choose another name, or drop that "
                    f"one with `duplexctl drop-clone {pair.name} {name}`"
                )
            else:
                bases.append(self._points.at(pair, cut))
        if away:
            raise WrongStateError(
                f"cannot be read at cut {cut_id} now: {', '.join(away)}; no clone was made. "
                "`duplexctl points` shows what can be read"
            )
        if len(self._clones) + len(pairs) > self._limits.clones_max:
            raise LimitError(
                f"there are {len(self._clones)} clones of volumes, and no more than "
                f"{self._limits.clones_max} are possible (clones_max); drop one with "
                "`duplexctl drop-clone`"
            )
        return bases

    async def _files_for(self, sizes: list[int]) -> list[File]:
        """The next caller waits for it, also if this one has gone: it is one directory."""
        watch: Watch[Waited] = Watch()
        files: list[File] = []

        def make() -> None:
            with watch.at(OverlayCall(self._files.directory)):
                files.extend(self._files.make(sizes))

        try:
            await to_its_end(self._legs.walk(self._files, watch, make))
        except BaseException:
            for file in files:
                file.close()
            raise
        return files

    def _begin(self, base: Point, name: str, file: File, limit: int) -> Clone:
        pair, now = base.pair, self._clock.wall()
        overlay = Overlay(pair, pair.copy_of, file, self._files, limit)
        clone = Clone(base, name, limit, overlay.can_punch, now, self._forget)
        clone.takes = CloneRequests(
            clone, overlay, self._legs, self._on_leg_failed, self._end, self._clock, self._limits
        )
        self._clones[pair.name, name] = clone
        self._ends[clone] = asyncio.get_running_loop().create_future()
        self._readers.join(pair.id, clone, Who(clone.reader, CLONE, now))
        return clone

    async def drop(self, names: Sequence[str], name: str) -> Json:
        """End the clones of that name, and give their room back. Raises NotFoundError if none of
        the volumes has one.
        """
        found = [clone for of in names if (clone := self._clones.get((of, name)))]
        if not found:
            raise NotFoundError(
                f"no clone {name!r} of {', '.join(names)}; `duplexctl clones` lists them"
            )
        for clone in found:
            self._end(clone, DROPPED)
        await self._closed(found)
        return {"name": name, "volumes": [clone.of for clone in found]}

    def _end(self, clone: Clone, why: str) -> None:
        if clone.ended:
            return
        self._readers.leave(clone.pair.id, clone)
        self._events.emit(
            "reader-ended", reader=clone.reader, kind=CLONE, volumes=[clone.of], reason=why
        )
        clone.end_reading(why)

    def _forget(self, clone: Clone) -> None:
        """It has ended, by a command or with its cut: give its room back."""
        del self._clones[clone.of, clone.clone]
        self._ends.pop(clone).set_result(clone.ended)
        task = asyncio.get_running_loop().create_task(_of(clone).close())
        self._closing[clone] = task
        task.add_done_callback(lambda _: self._closing.pop(clone))

    async def _closed(self, clones: Iterable[Clone]) -> None:
        tasks = [task for clone in clones if (task := self._closing.get(clone)) is not None]
        if tasks:
            await asyncio.wait(tasks)

    def ends(self, names: Sequence[str], name: str) -> list[asyncio.Future[str]]:
        """Of each clone of that name: done, with the reason, when it has ended."""
        return [self._ends[clone] for of in names if (clone := self._clones.get((of, name)))]

    async def end(self, ends: Sequence[asyncio.Future[str]]) -> None:
        """End the clones that these are of, and no others of their names; those that have ended
        already are no error.
        """
        found = [clone for clone, end in self._ends.items() if end in ends]
        for clone in found:
            self._end(clone, DROPPED)
        await self._closed(found)

    async def stop(self) -> None:
        """End all of them."""
        for clone in list(self._clones.values()):
            self._end(clone, STOPPING)
        await self._closed(list(self._closing))

    def show(self, names: Sequence[str] | None = None) -> Json:
        """All, or those of these volumes. One that nothing can be read of is there no more."""
        for clone in list(self._clones.values()):
            if clone.why_not:  # its secondary was opened anew, which is no marker
                self._end(clone, clone.why_not)
        clones = [c for c in self._clones.values() if names is None or c.of in names]
        return {"clones": [self._show(clone) for clone in clones]}

    def _show(self, clone: Clone) -> Json:
        return {
            "name": clone.clone,
            "volume": clone.of,
            "export": clone.name,
            "cut": clone.cut.id,
            "size": clone.size,
            "limit_bytes": clone.limit_bytes,
            "used_bytes": _of(clone).overlay.map.data_bytes,
            "connections": clone.connections,
            "since": clone.since,
            "first_fault": clone.first_fault,
        }

    # -------------------------------------------------------------------------- looking it up

    def volume(self, name: str) -> Volume | None:
        """See `Backend`. A volume or a point comes before a clone of the same name."""
        found = self._points.volume(name)
        if found is not None or (wanted := parse(name)) is None:
            return found
        clone = self.find(wanted.of.volume, wanted.clone)
        if clone is None:
            return None
        consistent = self._archive.verdict(clone.cut) == "consistent"
        return clone if wanted.of.means(clone.cut, consistent) else None

    def find(self, volume: str, name: str) -> Clone | None:
        """The clone of that name, if it can be read."""
        clone = self._clones.get((volume, name))
        return None if clone is None or clone.why_not else clone

    def point_names(self) -> Iterator[str]:
        """See `Backend`: points, then clones."""
        yield from self._points.point_names()
        yield from [clone.name for clone in self._clones.values()]

    def changes_of(self, volume: Volume) -> Changes:
        """See `Backend`."""
        return volume.takes if isinstance(volume, Clone) else self._volumes_take

    # --------------------------------------------------------------------------------- reading

    def read(self, volume: Volume, offset: int, length: int, room: int, done: Done) -> None:
        """See `Backend`."""
        if not isinstance(volume, Clone):
            self._points.read(volume, offset, length, room, done)
            return

        def plainly(number: int, content: bytearray, _extents: list[Extent]) -> None:
            done(number, content)

        _of(volume).read(offset, length, room, sparse=False, done=plainly)

    def read_sparse(
        self, volume: Volume, offset: int, length: int, room: int, done: SparseDone
    ) -> None:
        """See `Backend`."""
        if isinstance(volume, Clone):
            _of(volume).read(offset, length, room, sparse=True, done=done)
        else:
            self._points.read_sparse(volume, offset, length, room, done)

    def extents(
        self,
        volume: Volume,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """See `Backend`."""
        if isinstance(volume, Clone):
            requests = _of(volume)
            self._line.ask(requests, partial(requests.ask, offset, length, one, done))
        else:
            self._points.extents(volume, offset, length, one, done)


def _of(clone: Clone) -> CloneRequests:
    return cast("CloneRequests", clone.takes)
