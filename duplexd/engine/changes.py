"""What changed between two cuts of a volume that are remembered, or since one of them until now.

The maps are `core/change_history.py`'s. This part finds the cuts that a caller names, unites the
maps in between, in a worker, because those of older intervals are in files, and says what the
answer is worth: its grain, and why it may count more than what changed.

Until now means until `Between.sequence`: the changes that were answered when it was asked. A reader
of the primary may see later ones, so who copies from it takes a cut first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.pair import refresh
from duplexd.engine.change_files import ChangeFiles, Wanted
from duplexd.errors import DuplexdError, NotFoundError, UsageError, WrongStateError
from duplexd.replication.leg_calls import JournalHungError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.core.change_history import ChangeHistory, KnownCut
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls


@dataclass(frozen=True, slots=True)
class Between:
    """What changed in `volume` after `since`, and not after `until`, or, if that is None, until
    number `sequence`. `changed` is the caller's own, and of the size that the volume had then.
    `why`: reasons why it may be too large by more than its grain.
    """

    volume: Pair
    since: KnownCut
    until: KnownCut | None
    sequence: int
    changed: ChangeMap
    why: tuple[str, ...]

    def extents(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(offset, length) of what changed from byte `start` on, in order: whole grains, but for
        the volume's end, and never two that touch.
        """
        changed = self.changed
        while (run := changed.next_run(start, changed.size_bytes)) is not None:
            yield run
            start = run[0] + run[1]


class _Asked(NamedTuple):
    pair: Pair
    history: ChangeHistory
    since: KnownCut
    until: KnownCut | None


class Changes:
    """Of a controller's volumes. Called from the event loop."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        files: ChangeFiles,
        archive: CutArchive,
        legs: LegCalls,
        limits: EngineLimits,
    ) -> None:
        self._archive = archive
        self._timeline = timeline
        self._volumes = volumes
        self._files = files
        self._legs = legs
        self._extents_max = limits.changed_extents_max

    def remember(self, tracked_cuts: int) -> None:
        """So many cuts of each volume, from now on."""
        self._timeline.ledger.remember_cuts(tracked_cuts)
        refresh(self._volumes.all())  # whether they note changes

    async def extents(self, volume: str, since: str, until: str | None = None) -> Between:
        """What changed in a volume between two points, each the id of a cut, a tag, or `latest`;
        until now, if `until` is None. As for `VOLUME@POINT`, only an id names a cut that is not
        known to be consistent.

        Covers every block that differs between the contents at the two points. Raises NotFoundError
        for a cut of the volume that is not remembered; UsageError if `since` is later than `until`,
        or is a tag of several cuts, as where every night has the same: the newest could be one that
        the caller has not copied;
        WrongStateError where nothing is remembered at all; DuplexdError if the state directory does
        not answer.
        """
        return (await self._between([volume], since, until))[0]

    async def _between(
        self, names: Sequence[str], since: str, until: str | None
    ) -> Sequence[Between]:
        asked = [self._find(pair, since, until) for pair in self._volumes.named(names)]
        sequence = self._timeline.performed
        wanted = [_wanted(each) for each in asked]
        ring = self._timeline.writer.ring
        try:
            found = await self._legs.on_journal(ring, lambda: self._files.unite(wanted))
        except JournalHungError as error:
            raise DuplexdError(
                f"{ring.directory}: the disk of the state directory does not answer, and has the"
                " change maps; try again when it does"
            ) from error
        return [_answer(each, sequence, united) for each, united in zip(asked, found, strict=True)]

    def _find(self, pair: Pair, since: str, until: str | None) -> _Asked:
        history = pair.record.history
        if history is None:
            why = "no cut of it has been made since changes are tracked"
            if not self._timeline.ledger.tracked_cuts:
                why = "tracked_cuts is 0 in the configuration"
            raise WrongStateError(
                f"{pair.name}: what changed is not known: {why}; copy all of the volume"
            )
        if until is None and pair.failed:
            raise WrongStateError(f"{pair.name} is not served: {pair.failed}")
        first = self._known(pair, history, since)
        last = None if until is None else self._known(pair, history, until)
        if last is not None and last.sequence < first.sequence:
            raise UsageError(
                f"{pair.name}: cut {last.id} ({until}) is older than cut {first.id} ({since});"
                " expected --since to be the older one"
            )
        others = [cut.id for cut in history.tagged(since, self._is_good) if cut.id != first.id]
        if others and since == first.tag:
            raise UsageError(
                f"{pair.name}: {len(others) + 1} cuts have the tag {since!r}; give the id of the"
                f" one that --since is to be: {', '.join([*others, first.id])} (newest last)"
            )
        return _Asked(pair, history, first, last)

    def _known(self, pair: Pair, history: ChangeHistory, point: str) -> KnownCut:
        found = history.find(point, self._is_good)
        if found is None:
            raise NotFoundError(
                f"{pair.name}: {point!r} is not a cut for which changes are remembered, or is not"
                f" consistent; known, the newest first: {self._listed(history)}"
            )
        return found

    def _listed(self, history: ChangeHistory) -> str:
        return ", ".join(
            " ".join(filter(None, (cut.id, cut.tag and f"({cut.tag})", self._flaw(cut))))
            for cut in reversed(history.cuts)
        )

    def _flaw(self, known: KnownCut) -> str:
        return "" if self._is_good(known) else self._verdict(known) or "of unknown verdict"

    def _is_good(self, known: KnownCut) -> bool:
        return self._verdict(known) == CONSISTENT

    def _verdict(self, known: KnownCut) -> str | None:
        """Not known any more where only its map is remembered."""
        cut = self._timeline.ledger.cut(known.id)
        return None if cut is None else self._archive.verdict(cut)

    # ------------------------------------------------------------------------------ for the API

    async def show(
        self, names: Sequence[str], since: str, until: str | None, offset: int, extents_max: int
    ) -> Json:
        """The same of several volumes, as JSON. All of them know both cuts, or none is answered.

        An answer has at most `extents_max` extents in all, and no more than the limit: what a
        volume has beyond that is answered from its `next_offset` on, when it is asked for with that
        `offset`.
        """
        between = await self._between(names, since, until)
        left = min(extents_max, self._extents_max)
        rows: list[Json] = []
        for each in between:
            row = self._row(each, offset, left)
            left -= len(row["extents"])
            rows.append(row)
        return {"volumes": rows}

    def _row(self, found: Between, offset: int, extents_max: int) -> Json:
        extents: list[Json] = []
        next_offset = None
        for start, length in found.extents(offset):
            if len(extents) >= extents_max:
                next_offset = start
                break
            extents.append({"offset": start, "length": length})
        now = {"cut": None, "tag": "", "sequence": found.sequence, "time": None, "verdict": None}
        changed = found.changed
        return {
            "name": found.volume.name,
            "size": changed.size_bytes,
            "grain_bytes": changed.grain_bytes,
            "since": self._point(found.since),
            "until": now if found.until is None else self._point(found.until),
            "changed_bytes": changed.changed_bytes,
            "exact": not found.why,
            "why": list(found.why),
            "extents": extents,
            "next_offset": next_offset,
        }

    def _point(self, known: KnownCut) -> Json:
        return {
            "cut": known.id,
            "tag": known.tag,
            "sequence": known.sequence,
            "time": known.time_us / 1e6,
            "verdict": self._verdict(known),
        }


def _answer(asked: _Asked, sequence: int, united: Wanted) -> Between:
    pair, _, since, until = asked
    changed = united.changed
    if until is not None:  # it may be of a time before the volume grew
        changed = changed.cut_to(pair.record.size_at(until.sequence))
    return Between(pair, since, until, sequence, changed, united.why)


def _wanted(asked: _Asked) -> Wanted:
    """What a worker unites: it must not use the live map, which goes on changing."""
    pair, history, since, until = asked
    intervals = history.between(since, until)
    if until is not None:
        return Wanted(pair.id, pair.new_map(), intervals)
    return Wanted(pair.id, history.live.copy(), intervals, history.why)
