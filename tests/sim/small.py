"""The limits of simulations, so small that a scenario of a few hundred writes reaches them: the
ring wraps, batches go to threads, copies take several pieces, change maps are used.
"""

from __future__ import annotations

from duplexd.limits import EngineLimits
from duplexd.units import KIB

GRAIN_BYTES = 4 * KIB
JOURNAL_BYTES = 320 * KIB

SMALL = EngineLimits(
    inline_batch_bytes_max=24 * KIB,
    batch_bytes_max=40 * KIB,
    change_cost_bytes=72,
    shared_cost_max=24 * KIB,
    shared_piece_bytes=6 * KIB,
    turn_cost=12 * KIB,
    zero_bytes_first=12 * KIB,
    zero_bytes_max=48 * KIB,
    marker_reserve_bytes=8 * KIB,
    record_bytes_max=12 * KIB,
    journal_segments=5,
    segment_bytes_min=16 * KIB,
    change_grain_bytes_min=GRAIN_BYTES,
    region_bytes_min=32 * KIB,
    follower_chunk_bytes=16 * KIB,
    staged_piece_bytes_max=16 * KIB,
    copied_mark_bytes=48 * KIB,
    copy_ahead_bytes_max=32 * KIB,
    staging_file_bytes_max=20 * KIB,
    follower_final_bytes=8 * KIB,
    async_lag_bytes_max=64 * KIB,
)
