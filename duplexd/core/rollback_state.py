"""What is recorded of the last rollback of a volume. Pure; what follows from it: `rollback.py`."""

from __future__ import annotations

from typing import NamedTuple

DONE, ABANDONED = "done", "abandoned"


class Rollback(NamedTuple):
    """To which cut, and since when (us since 1970). `ended`: empty while it is not finished, else
    DONE or ABANDONED, and `time_us` is when that was.
    """

    id: str
    cut: str
    time_us: int
    ended: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether the volume is half-way, and closed."""
        return not self.ended

    @property
    def closed(self) -> str:
        """Why no client may use the volume; "" if nothing is in the way."""
        if self.ended:
            return ""
        return (
            f"its rollback to cut {self.cut} is not finished; `duplexctl rollback` to that cut goes"
            " on with it, and with --abandon gives it up"
        )
