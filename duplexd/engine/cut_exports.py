"""Cuts as NBD exports, and who keeps secondaries there: points, clones, readers, drills.

They know each other: a clone begins with a point and is a reader, a reader that ends takes its
point or clone with it, and a drill is recorded while its clones are there. So they are put together
here and not in the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.allocation import Extents
from duplexd.engine.clones import Clones
from duplexd.engine.cut_readers import CutReaders
from duplexd.engine.drills import Drills
from duplexd.engine.overlay import OverlayFiles
from duplexd.engine.points import Points
from duplexd.engine.question_line import QuestionLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Changes
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.reads import Reads
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import Disk


class CutExports:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        archive: CutArchive,
        legs: LegCalls,
        reads: Reads,
        volumes_take: Changes,
        disk: Disk,
        state_dir: str,
        on_leg_failed: Callable[[Pair, Leg, OSError], None],
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`volumes_take`: who takes the changes of volumes. `on_leg_failed` is called for a
        secondary that has lost writes.
        """
        readers = timeline.ledger.readers
        line = QuestionLine(limits.extents_slow_seconds)
        extents = Extents(legs, line, clock, limits)
        overlays = OverlayFiles(disk, f"{state_dir}/clones", limits)
        self.points = Points(volumes, archive, legs, reads, extents, readers, on_leg_failed)
        self.readers = CutReaders(timeline, self.points, archive, events, limits)
        timeline.on_moved = self.readers.moved
        self.clones = Clones(
            volumes, self.points, volumes_take, archive, readers, overlays, legs, on_leg_failed,
            line, events, clock, limits,
        )  # fmt: skip
        self.drills = Drills(timeline, volumes, self.clones, archive, events)
