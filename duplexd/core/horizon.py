"""How far a delayed secondary may go: a value, for `PairRecord`. What it is for: `delayed.py`."""

from __future__ import annotations

from typing import NamedTuple


class Horizon(NamedTuple):
    """Up to record `number`; no record up to it is later than `time_us` (since 1970)."""

    number: int
    time_us: int
