"""A point of the past to suspend delayed secondaries at, as a command names it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.units import format_time

if TYPE_CHECKING:
    from duplexd.json_object import Json


class PastPoint(NamedTuple):
    """A number of the sequence, or a time (seconds since 1970): one of the two."""

    sequence: int | None = None
    time: float | None = None

    def __str__(self) -> str:
        return f"number {self.sequence}" if self.time is None else format_time(self.time)

    def json(self) -> Json:
        """As a request names it."""
        if self.time is None:
            return {"at_sequence": self.sequence}
        return {"at_time": self.time}
