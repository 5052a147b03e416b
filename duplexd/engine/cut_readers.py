"""Readers of cuts: who has begun, who has ended, and how a command gets past them.

`core/readers.py` refuses what would take a secondary from its readers. Here they come and go: named
ones by markers, connections with their points. A command that is to take secondaries from their cut
asks for that first (`leaving`), so that it is refused before it has done anything, and so that
nobody new comes in between. All that ends is said by an event, whatever ended it: a backup that was
overtaken has to learn of it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from duplexd.core.markers import Reader, Unread
from duplexd.core.point import is_at_cut
from duplexd.core.rollback import refuse
from duplexd.errors import LimitError, NotFoundError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from duplexd.core.leaving import Leaving
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.points import Points
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits

FORCED = "a command ended it with --force"
RELEASED = "released"


class CutReaders:
    """Of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        points: Points,
        archive: CutArchive,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._readers = timeline.ledger.readers
        self._points = points
        self._archive = archive
        self._events = events
        self._named_max = limits.named_readers_max
        self._known = {
            number: list(record.readers) for number, record in timeline.ledger.pairs.items()
        }

    def why_not(self, number: int) -> str:
        """See `Readers.why_not`."""
        return self._readers.why_not(number)

    # ------------------------------------------------------------------------ coming and going

    def begin(self, pairs: Sequence[Pair], name: str) -> None:
        """A named reader of pairs that are at a cut. At rest. Raises as `check_new`."""
        self.check_new(pairs, name)
        self._timeline.append(Reader(name, [pair.id for pair in pairs]))
        self._look(pairs, "")
        cuts = sorted({pair.cut.id for pair in pairs if pair.cut is not None})
        names = [pair.name for pair in pairs]
        self._events.emit("reader-began", reader=name, volumes=names, cut=", ".join(cuts))

    def check_new(self, pairs: Sequence[Pair], name: str) -> None:
        """Raises WrongStateError for a name that reads already, LimitError where there are too
        many.
        """
        for pair in pairs:
            if name in pair.record.readers:
                raise WrongStateError(
                    f"{pair.name} is read by {name!r} already; choose another name, or end that one"
                    f" with `duplexctl release-reader {pair.name} {name}`"
                )
            if len(pair.record.readers) >= self._named_max:
                raise LimitError(
                    f"{pair.name} has {len(pair.record.readers)} named readers, and no more is "
                    "possible (named_readers_max); end one with `duplexctl release-reader`"
                )

    async def add(self, pairs: Sequence[Pair], name: str, cut_id: str) -> Json:
        """A named reader of a cut that is there. Returns once a restart would know it."""

        def step() -> None:
            self._check_cut(pairs, cut_id)
            self.begin(pairs, name)

        await self._timeline.at_rest(step)
        await self._timeline.durable()
        return {"reader": name, "cut": cut_id, "volumes": [pair.name for pair in pairs]}

    async def release(self, pairs: Sequence[Pair], name: str) -> Json:
        """End a named reader. Raises NotFoundError if it reads none of these pairs."""
        reading = [pair for pair in pairs if name in pair.record.readers]
        if not reading:
            names = ", ".join(pair.name for pair in pairs)
            raise NotFoundError(
                f"no reader {name!r} of {names}; `duplexctl status` lists the readers of a volume"
            )
        await self._timeline.at_rest(lambda: self._end_named(reading, [name], RELEASED))
        await self._timeline.durable()
        return {"reader": name, "volumes": [pair.name for pair in reading]}

    # ------------------------------------------------------------------------------- leaving

    @asynccontextmanager
    async def leaving(self, pairs: Sequence[Pair], how: Leaving) -> AsyncIterator[list[str]]:
        """Around what takes these pairs from their cut. It gets who reads them still: not empty
        only if `how.reader` ended, and others did not.

        Raises WrongStateError, with nothing ended, if there are readers and no `force`, if one of
        the pairs is not at `how.cut`, or if `how.reader` does not read them any more.
        """
        left = await self._timeline.at_rest(lambda: self._make_way(pairs, how))
        try:
            yield left
        finally:
            self._points.closed.difference_update(pairs)

    def _make_way(self, pairs: Sequence[Pair], how: Leaving) -> list[str]:
        self.moved(pairs)  # a secondary that hangs is gone without a marker
        refuse(pair.record for pair in pairs)  # also with --force
        if how.cut:
            self._check_cut(pairs, how.cut)
        if how.reader:
            _check_reads(pairs, how.reader)
        others = [
            name
            for name in dict.fromkeys(n for pair in pairs for n in self._readers.names(pair.id))
            if name != how.reader
        ]
        if others and not how.force and not how.reader:
            self._readers.refuse(pair.id for pair in pairs)
        if how.reader:
            self._end_named(pairs, [how.reader], RELEASED)
        if others and not how.force:
            return others
        if others:
            self._end_named(pairs, others, FORCED)
            for pair in pairs:
                self._end_connections(pair, FORCED)
        self._points.closed.update(pairs)
        return []

    def _check_cut(self, pairs: Sequence[Pair], cut_id: str) -> None:
        away = [pair for pair in pairs if not self._is_at(pair, cut_id)]
        if away:
            names = ", ".join(f"{pair.name} ({_where(pair)})" for pair in away)
            raise WrongStateError(
                f"not at cut {cut_id}: {names}; nothing was changed. A copy of that cut that was "
                "being made is not complete: suspend again, and copy again"
            )

    def _is_at(self, pair: Pair, cut_id: str) -> bool:
        cut = pair.cut
        settled = cut is not None and cut.id == cut_id and cut_id not in self._archive.unsettled
        return settled and is_at_cut(pair, cut)

    # ---------------------------------------------------------------------------- what has ended

    def moved(self, pairs: Iterable[Pair]) -> None:
        """In the turn that folds a marker: who read what has moved, by a failure, has ended."""
        for pair in pairs:
            if self._points.has_ended(pair):
                self._end_connections(pair, f"the secondary has left the cut ({_where(pair)})")
        self._look(pairs, "the secondary has left the cut")

    def _end_named(self, pairs: Sequence[Pair], names: Iterable[str], why: str) -> None:
        named = [name for name in names if any(name in pair.record.readers for pair in pairs)]
        if named:
            self._timeline.append(Unread(named, [pair.id for pair in pairs]))
            self._look(pairs, why)

    def _end_connections(self, pair: Pair, why: str) -> None:
        self._points.end(pair, why)
        for reader, who in self._readers.clear(pair.id).items():
            self._ended(who.name, who.kind, [pair.name], why)
            reader.end_reading(why)

    def _look(self, pairs: Iterable[Pair], why: str) -> None:
        """Which named ones have ended since the last look."""
        ended: dict[str, list[str]] = {}
        for pair in pairs:
            now = list(pair.record.readers)
            for name in self._known.get(pair.id, ()):
                if name not in now:
                    ended.setdefault(name, []).append(pair.name)
            self._known[pair.id] = now
        for name, volumes in ended.items():
            self._ended(name, "named", volumes, why)

    def _ended(self, name: str, kind: str, volumes: list[str], why: str) -> None:
        self._events.emit("reader-ended", reader=name, kind=kind, volumes=volumes, reason=why)


def _check_reads(pairs: Sequence[Pair], name: str) -> None:
    """Raises WrongStateError if this reader does not read all of these pairs."""
    missing = [pair.name for pair in pairs if name not in pair.record.readers]
    if missing:
        raise WrongStateError(
            f"reader {name!r} does not read {', '.join(missing)}: it never began, or was ended; "
            "nothing was changed. What it copied may be of no point in time: suspend again, and "
            "copy again"
        )


def _where(pair: Pair) -> str:
    reason = f" {pair.reason}" if pair.reason else ""
    cut = f", cut {pair.cut.id}" if pair.cut is not None and pair.cut.id else ""
    return f"{pair.state}{reason}{cut}"
