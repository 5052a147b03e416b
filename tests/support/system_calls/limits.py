"""Limits so small that a day needs few calls."""

from __future__ import annotations

from dataclasses import replace

from duplexd.limits import DaemonLimits, EngineLimits, Limits
from duplexd.units import KIB

JOURNAL_BYTES = 256 * KIB
LIMITS = Limits(
    engine=replace(
        EngineLimits(),
        inline_batch_bytes_max=12 * KIB,
        batch_bytes_max=16 * KIB,
        change_cost_bytes=72,
        marker_reserve_bytes=8 * KIB,
        record_bytes_max=8 * KIB,
        shared_piece_bytes=8 * KIB,
        journal_segments=8,
        segment_bytes_min=32 * KIB,
        segment_bytes_max=32 * KIB,
        # no timer is to add calls in the midst of a day of a second
        sync_interval_s=5.0,
        checkpoint_interval_s=3600.0,
        change_grain_bytes_min=4 * KIB,
        region_bytes_min=64 * KIB,
        follower_chunk_bytes=32 * KIB,
        staged_piece_bytes_max=32 * KIB,
        copied_mark_bytes=128 * KIB,
        async_lag_bytes_max=128 * KIB,
    ),
    daemon=replace(DaemonLimits(), reserve_bytes=16 * KIB, passing_seconds_max=0.0),
)
