"""That a state directory is an older copy than its images, once a start has found out.

It goes on counting starts and records by itself from then on, so the numbers in the marks of the
images would soon look as if it knew of them. So it keeps what it lacks: everything after number
`end` of the start after which it was copied, and of all later ones up to the `latest`.
"""

from __future__ import annotations

from typing import NamedTuple


class OlderState(NamedTuple):
    """`copied`: the start after which it was copied, and `latest`: the latest one that an image was
    used at; 0 for a state directory that is no such copy. `end`: the last number that it had when
    that was found; 0 where nobody noted it.
    """

    copied: int = 0
    latest: int = 0
    end: int = 0

    def found(self, starts: int, latest: int, end: int = 0) -> OlderState:
        """A start has found that out, after `starts` that are known; it may not be the first. With
        `latest` 0 it has not.
        """
        if not latest:
            return self
        return OlderState(self.copied or starts, max(self.latest, latest), self.end or end)

    def next_start(self, starts: int) -> int:
        """The number of the start after so many: none of those that it lacks."""
        return max(starts, self.latest) + 1

    def pack(self) -> tuple[int, ...]:
        """For the checkpoint. `end` came later, and is left out where there is none."""
        return tuple(self) if self.end else (self.copied, self.latest)

    def lacks(self, generation: int, number: int) -> bool:
        """Whether it does not know what an image was used for, at this start and up to there."""
        if generation > self.latest:
            return False
        return generation > self.copied or (
            generation == self.copied and 0 < self.end < number  # copied while that start ran
        )
