"""Whether the journal can hold what delayed secondaries are behind by, for `duplexd check`.

A delay is kept in the journal. Where that is too small for it, the secondaries are behind by less,
and nobody learns of it before the bad day. What comes in a second is not in a configuration; but a
journal that exists has it: how many bytes lie between the first records of its segments, and how
much time. It is only looked at, also while a daemon writes to it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from duplexd.journal.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    unpack_record,
    unpack_segment_header,
)
from duplexd.replication.delayed_walk import KEPT_SHARE
from duplexd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.config.daemon_file import Config
    from duplexd.runtime.in_time import Patience

HISTORY_SECONDS_MIN = 5.0  # a shorter one says nothing of an hour, unless it filled a journal


class Pace(NamedTuple):
    """What came into a journal: bytes, and in how many seconds."""

    nbytes: int
    seconds: float


class _Segment(NamedTuple):
    number: int
    nbytes: int
    first: int  # number of its first record
    time_us: int  # and when that was


def hazard(config: Config, patience: Patience) -> Iterator[str]:
    """A line if the journal would be too small for the longest delay."""
    delays = _delays(config)
    pace = None
    with suppress(OSError):
        pace = patience.call(lambda: measured(config.controller.state_dir / "journal"))
    if not delays or pace is None:
        return
    name = max(delays, key=lambda each: delays[each])
    delay_s, size = delays[name], config.controller.journal_size
    if pace.seconds < HISTORY_SECONDS_MIN and pace.nbytes < size / 2:
        return
    held_s = size * KEPT_SHARE * pace.seconds / pace.nbytes
    if held_s < delay_s:
        enough = int(delay_s / held_s * size)
        yield (
            f"volumes.{name}.delay: at the rate of the last {format_duration(pace.seconds)} the"
            f" journal holds about {format_duration(held_s)} of {format_duration(delay_s)}: the"
            " secondary would not stay that far behind; make controller.journal_size at least"
            f" {format_size(enough)}, or the delay shorter"
        )


def room(config: Config) -> str:
    """What the configured size is enough for; "" if nothing is delayed."""
    if not (delays := _delays(config)):
        return ""
    longest_s = max(delays.values())
    rate = format_size(int(config.controller.journal_size * KEPT_SHARE / longest_s))
    return f"the journal holds {format_duration(longest_s)} of up to {rate}/s of changes"


def measured(journal: Path) -> Pace | None:
    """Of all that the journal has still; None if that is too little to say. Blocking. Raises
    OSError.
    """
    if not journal.is_dir():
        return None
    found = sorted(filter(None, map(_look, journal.glob("*.seg"))))
    whole = [
        segment
        for before, segment in zip([None, *found], found, strict=False)
        if before is None or before.first < segment.first  # else it has been begun, and no more
    ]
    if len(whole) < 2:
        return None
    seconds = (whole[-1].time_us - whole[0].time_us) / 1e6
    nbytes = sum(segment.nbytes for segment in whole[:-1])
    return Pace(nbytes, seconds) if seconds > 0 else None


def _look(path: Path) -> _Segment | None:
    """A segment that has a record."""
    try:
        with path.open("rb") as file:
            data = file.read(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES)
    except FileNotFoundError:  # it was recycled
        return None
    header, first = unpack_segment_header(data), unpack_record(data, SEGMENT_HEADER_BYTES)
    if header is None or first is None:
        return None
    return _Segment(header.number, header.size, first.sequence, first.time_us)


def _delays(config: Config) -> dict[str, float]:
    return {
        name: volume.delay
        for name, volume in config.volumes.items()
        if volume.delay is not None and volume.secondary is not None
    }
