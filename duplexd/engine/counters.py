"""What the engine counts, for metrics: plain numbers, read when metrics are scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from duplexd.engine.apply import Executor
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.journal_space import JournalSpace
    from duplexd.engine.leases import Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.write_path import WritePath
    from duplexd.replication.copying import Copying
    from duplexd.runtime.histogram import Histogram


class Counters(NamedTuple):
    """Since the start of this run. Counts, bytes, seconds, as the names say."""

    batches: int  # written to the journal
    changes_by_threads: int  # the others were done in the event loop
    cuts: int  # asked for
    holds_lost: int  # leases that ended before their owner ended them
    checkpoints: int
    copied_bytes: int  # to secondaries
    journal_appends: Histogram  # seconds that writing a batch to the journal took
    journal_syncs: Histogram
    journal_pinned_bytes: int = 0  # what cannot be written over now
    marks: int = 0  # consistent ones
    last_mark_time: float = 0.0  # of the newest consistent mark that is kept; 0: there is none


def count(
    write_path: WritePath,
    executor: Executor,
    archive: CutArchive,
    leases: Leases,
    checkpointer: Checkpointer,
    copying: Copying,
    timeline: Timeline,
    space: JournalSpace,
) -> Counters:
    """What these parts have counted."""
    return Counters(
        batches=write_path.batches,
        changes_by_threads=executor.heavy_changes,
        cuts=archive.made,
        marks=archive.marked,
        holds_lost=leases.lost,
        checkpoints=checkpointer.taken,
        copied_bytes=copying.copied_bytes,
        journal_appends=executor.appends,
        journal_syncs=timeline.group_commit.took,
        journal_pinned_bytes=space.pinned_bytes,
        last_mark_time=archive.last_mark_time,
    )
