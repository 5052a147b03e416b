"""A point of the past to bring secondaries to, as a command names it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.printable import printable
from duplexd.units import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class PastPoint(NamedTuple):
    """A number of the sequence, a time (seconds since 1970), or a mark, by its id or tag: one of
    these.
    """

    sequence: int | None = None
    time: float | None = None
    mark: str | None = None

    def __str__(self) -> str:
        if self.mark is not None:
            return f"mark {printable(self.mark)}"
        return f"number {self.sequence}" if self.time is None else format_time(self.time)

    def json(self) -> Json:
        """As a request names it."""
        if self.mark is not None:
            return {"at": {"mark": self.mark}}
        return {"at": {"sequence": self.sequence} if self.time is None else {"time": self.time}}


class PastCut(NamedTuple):
    """A cut at a point of the past, as a command wants it. `onward`: SUSPENDED secondaries go on to
    it. `id`, `group`, `members`: of several controllers, which all go to one mark; else empty.
    """

    point: PastPoint
    onward: bool = False
    id: str = ""
    group: str = ""
    members: Sequence[str] = ()
