"""How far the scrub of a pair is, and when one is due. Pure.

A scrub compares a whole pair, a little at a time, and it takes days on large volumes. So where it
is belongs to the journal, as do the times: a daemon that is restarted every night would else never
get to the end of a volume.
"""

from __future__ import annotations

from typing import NamedTuple


class Scrub(NamedTuple):
    """`at`: all before it is compared in the pass that began at `began_us`; 0 while none is under
    way. `done_us`: when the last pass ended, or the legs became a pair by a copy. Times in
    microseconds since 1970, 0 for never.
    """

    at: int = 0
    began_us: int = 0
    done_us: int = 0

    @property
    def under_way(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self.at > 0

    def due_us(self, every_us: int) -> int:
        """When the next pass is due, or this one goes on."""
        if self.under_way:
            return self.began_us
        return self.done_us + every_us if self.done_us else 0

    def paired(self, time_us: int) -> Scrub:
        """A copy has made both legs equal."""
        return self if self.done_us or self.under_way else Scrub(0, 0, time_us)
