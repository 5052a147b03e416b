"""What the engine counts, for metrics: plain numbers, read when metrics are scraped."""

from __future__ import annotations

from typing import NamedTuple


class Counters(NamedTuple):
    """Since the start of this run. Counts, bytes, seconds, as the names say."""

    batches: int  # written to the journal
    changes_by_threads: int  # the others were done in the event loop
    cuts: int  # asked for
    holds_lost: int  # leases that ended before their owner ended them
    checkpoints: int
    copied_bytes: int  # to secondaries
    journal_syncs: int
    journal_sync_seconds: float
