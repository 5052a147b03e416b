"""What a controller counts from its start on: one value, so that metrics ask for it by type.

The parts keep plain ints, added to where the work is done; nothing is computed before somebody asks.
"""

from __future__ import annotations

from typing import NamedTuple


class Counters(NamedTuple):
    """Totals since the start. They only grow."""

    batches: int = 0  # written to the journal
    changes_by_threads: int = 0  # changes applied in worker threads, the others in the event loop
    cuts: int = 0  # asked for
    holds_lost: int = 0  # ended before their owner ended them
    checkpoints: int = 0
    copied_bytes: int = 0  # to secondaries
    journal_syncs: int = 0
    journal_sync_seconds: float = 0.0  # spent in them, together
