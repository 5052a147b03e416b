"""The last drill of a pair: whether an application could be recovered from a cut of it. Pure.

A backup that nobody has restored is a hope, and one that was restored a year ago nearly is. So the
outcome of a drill belongs to the journal: health has to know it after any number of restarts. It
is recorded when the drill has ended, and while its clones are there: one that was killed, or whose
cut was left meanwhile, leaves what was recorded before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

PASSED, FAILED = "passed", "failed"
_MS, _US = 1000, 1_000_000


class Report(NamedTuple):
    """What the one who ran CMD says, on the clones of this name, of this cut."""

    id: str
    cut: str
    clone: str
    exit_code: int
    took_ms: int


class Drilled(NamedTuple):
    """The marker of a drill that has ended: these volumes, at this cut, with CMD's exit code.

    A drill over several controllers has one `id` on all of them.
    """

    id: str
    cut: str
    exit_code: int
    took_ms: int
    volumes: Sequence[int]

    def pack(self) -> Json:
        return {
            "m": "drilled", "id": self.id, "cut": self.cut, "exit": self.exit_code,
            "took": self.took_ms, "volumes": list(self.volumes),
        }  # fmt: skip

    @classmethod
    def unpack(cls, fields: Json) -> Drilled:
        exit_code, took_ms = int(fields["exit"]), int(fields["took"])
        volumes = numbers(fields["volumes"])
        return cls(str(fields["id"]), str(fields["cut"]), exit_code, took_ms, volumes)


class Drill(NamedTuple):
    """What is recorded of a pair: the last drill, which ended at `time_us`; and when the last one
    that passed had ended, 0 if none has. Times in microseconds since 1970. For the checkpoint it is
    the list of its fields.
    """

    id: str
    cut: str
    exit_code: int
    took_ms: int
    time_us: int
    passed_us: int

    def show(self) -> Json:
        """As status has it."""
        return {
            "id": self.id,
            "cut": self.cut,
            "outcome": outcome(self.exit_code),
            "exit_code": self.exit_code,
            "time": self.time_us / _US,
            "took_s": self.took_ms / _MS,
            "passed_time": self.passed_us / _US if self.passed_us else None,
        }


def outcome(exit_code: int) -> str:
    """PASSED or FAILED: CMD alone says so."""
    return FAILED if exit_code else PASSED


def after(last: Drill | None, marker: Drilled, time_us: int) -> Drill:
    """What is recorded once this one has ended, too."""
    passed_us = last.passed_us if last is not None else 0
    if not marker.exit_code:
        passed_us = time_us
    return Drill(marker.id, marker.cut, marker.exit_code, marker.took_ms, time_us, passed_us)
