"""What the engine counts, for metrics: plain numbers, read when metrics are scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
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
