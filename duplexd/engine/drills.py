"""Drills that have ended, recorded: what health says of recoveries rests on it, so it is recorded
only while the clones that CMD was given are still there, at a cut that is consistent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.drill_record import Drilled, outcome
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.drill_record import Report
    from duplexd.core.pair import Pair
    from duplexd.engine.clones import Clones
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json


class Drills:
    """Of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        clones: Clones,
        archive: CutArchive,
        events: Events,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._clones = clones
        self._archive = archive
        self._events = events

    async def record(self, names: Sequence[str], report: Report) -> Json:
        """Returns once a restart would know it. Raises WrongStateError, with nothing recorded, if
        one of the clones has ended, or the cut is not consistent; or a drill on a clone that a
        request failed of is to have passed.
        """
        pairs = self._volumes.named(names)

        def step() -> None:
            self._check(pairs, report)
            numbers = [pair.id for pair in pairs]
            ended = Drilled(report.id, report.cut, report.exit_code, report.took_ms, numbers)
            self._timeline.append(ended)

        await self._timeline.at_rest(step)
        await self._timeline.durable()
        said = outcome(report.exit_code)
        of = {"cut": report.cut, "exit_code": report.exit_code, "volumes": list(names)}
        self._events.emit(f"drill-{said}", drill=report.id, took_s=report.took_ms / 1000, **of)
        return {"id": report.id, "outcome": said, **of}

    def _check(self, pairs: Sequence[Pair], report: Report) -> None:
        for pair in pairs:
            clone = self._clones.find(pair.name, report.clone)
            if clone is None or clone.cut.id != report.cut:
                raise WrongStateError(
                    f"{pair.name} has no clone {report.clone!r} of cut {report.cut} any more; the"
                    " drill was not recorded"
                )
            if clone.first_fault and not report.exit_code:
                raise WrongStateError(
                    f"{pair.name}: a request of clone {report.clone!r} failed"
                    f" ({clone.first_fault}), so what was found on it is not the cut's; the drill"
                    " was not recorded"
                )
            if (verdict := self._archive.verdict(clone.cut)) != CONSISTENT:
                raise WrongStateError(
                    f"cut {report.cut} is {verdict or 'in doubt'}, so a drill of it says nothing of"
                    " backups; it was not recorded"
                )
