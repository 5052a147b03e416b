"""How far the scrub of a pair is, and when one is due. Pure.

A scrub compares a whole pair, a little at a time, and it takes days on large volumes. So where it
is belongs to the journal, as do the times: a daemon that is restarted every night would else never
get to the end of a volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# While clients use the disks, a scrub leaves them for so many times as long as it took
_LEFT_TO_CLIENTS = 49
_US = 1_000_000


class Scrub(NamedTuple):
    """`at`: all before it is compared in the pass that began at `began_us`; 0 while none is under
    way. `done_us`: when the last pass ended, or the legs became a pair by a copy of all; until then
    `began_us` says that such a copy has begun, which no checkpoint keeps: the pair is due earlier
    then. Times in microseconds since 1970, 0 for never. `error`: what could not be read, in
    the pass that is under way or else in the last one. `earlier`: while one is under way, the same
    of the last one: it holds until a pass has read all.
    """

    at: int = 0
    began_us: int = 0
    done_us: int = 0
    error: str = ""
    earlier: str = ""

    def pack(self) -> list[int | str]:
        """For the checkpoint; empty if nothing is to be remembered."""
        if not (self.at or self.done_us or self.unreadable):
            return []
        fields: list[int | str] = [self.at, self.began_us, self.done_us, self.error, self.earlier]
        while not fields[-1]:
            fields.pop()
        return fields

    @property
    def unreadable(self) -> str:
        """What could not be read, and has not been since."""
        return self.error or self.earlier

    @property
    def under_way(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self.at > 0

    def due_us(self, every_us: int) -> int:
        """When the next pass is due; 0 for at once, as one that is under way is."""
        if self.under_way:
            return 0
        return self.done_us + every_us if self.done_us else 0

    def copied_to(self, time_us: int) -> Scrub:
        """A copy of all begins. One of a part says nothing of the rest."""
        return self if self.done_us or self.under_way else Scrub(0, time_us, 0)

    def paired(self, time_us: int) -> Scrub:
        """A copy has made both legs equal."""
        copied = self.began_us and not self.under_way
        return Scrub(0, 0, time_us) if copied else self


def unpack(packed: Sequence[int | str]) -> Scrub:
    """The reverse of `pack`. Raises ValueError, TypeError."""
    at, began_us, done_us = [*map(int, packed[:3]), 0, 0, 0][:3]
    error, earlier = [*map(str, packed[3:5]), "", ""][:2]
    return Scrub(at, began_us, done_us, error, earlier)


def due(scrubs: Mapping[int, Scrub], every_s: float, now_us: int) -> int | None:
    """Of these pairs, by number, the one that is to be scrubbed now: one whose scrub is under way,
    else the one that is due for the longest time; None if none is.
    """
    every_us = int(every_s * _US)
    waiting = [
        (not scrub.under_way, at_us, number)
        for number, scrub in scrubs.items()
        if (at_us := scrub.due_us(every_us)) <= now_us
    ]
    return min(waiting)[2] if waiting else None


def pause_s(read_bytes: int, took_s: float, rate: int, busy: bool) -> float:
    """How long to wait after a piece, of which so much was read from each disk in this time: until
    the rate allows the next one, and longer if clients are busy.
    """
    pace_s = read_bytes / rate - took_s
    return max(0.0, pace_s, _LEFT_TO_CLIENTS * took_s if busy else 0.0)
