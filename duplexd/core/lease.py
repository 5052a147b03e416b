"""Leases: who holds which volumes, until when, and how it ended. Pure.

NBD clients time out on requests that wait too long, so every hold is bounded: a lease has a
deadline, ends when its owner disconnects, and ends exactly once. The table says which ends count as
lost; what was done under a lost lease is void.

`TRANSITIONS[state, reason]` is the state of a lease that ended for that reason; an ended lease does
not change again.

Leases overlap, and a write waits for all that hold its volume, one after the other. So the bound is
on how long a *write* waits, not on how long a lease lasts: a volume counts as held without a gap
from a time `since`, and no lease may hold it beyond `since` + the longest hold (`room_s`). A lease
that asks for more is refused, because one that ends earlier than its owner expects is lost, and its
verdict void.

| the volume, when a lease is taken or renewed | `since` |
|---|---|
| nothing holds it, no write waits | now |
| held by other leases, or by the one renewed | when the first of them closed its gate |
| released, but writes that waited have not begun | the arrival of the oldest of them |
| released, and all that waited have begun | now |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.pair import Pair

HELD, RELEASED, LOST = "held", "released", "lost"

BY_OWNER = "released"  # by its owner
BY_SUSPEND = "suspended"  # a suspend took it, or the gates were opened after the cut
DEADLINE = "deadline"
OWNER_GONE = "owner gone"
STOPPING = "stopping"  # the daemon stops
ABORTED = "aborted"  # the group's cut was aborted

TRANSITIONS = {
    (HELD, BY_OWNER): RELEASED,
    (HELD, BY_SUSPEND): RELEASED,
    (HELD, DEADLINE): LOST,  # the verdict of a lost lease is void
    (HELD, OWNER_GONE): LOST,
    (HELD, STOPPING): LOST,
    (HELD, ABORTED): LOST,
}
# The phases of a hold: from the closing of the gates, from the moment nothing is in flight, from
# the cut on
DRAINING, HOLDING, CUTTING = "draining", "held", "cut"
PHASES = (DRAINING, HOLDING, CUTTING)
REASONS = tuple(reason for _, reason in TRANSITIONS)


def room_s(since: Iterable[float], now: float, longest_s: float) -> float:
    """For how many seconds from now on a lease may hold volumes that count as held since then."""
    return longest_s - (now - min(since, default=now))


class Lease:
    """The owner of a hold over some pairs; `state` says whether it is held, or how it ended.

    `fence` is a number that no earlier lease of this controller had, not even before a restart; it
    rises when the lease is renewed, and commands with an older one are refused. `cut_id` is the
    group's cut that it is held for, "" for none; `mark`: that is a mark, which suspends nobody.
    Times are seconds of the daemon's monotonic clock.
    """

    __slots__ = (
        "began", "cut_at", "cut_id", "deadline", "drained", "fence", "held_s", "hold_s", "id",
        "mark", "owner", "pairs", "state", "volumes",
    )  # fmt: skip

    def __init__(
        self,
        lease_id: str,
        pairs: Sequence[Pair],
        owner: str,
        hold_s: float,
        began: float,
        cut_id: str = "",
        mark: bool = False,
    ) -> None:
        self.id = lease_id
        self.pairs = pairs
        self.owner = owner
        self.hold_s = hold_s
        self.began = began
        self.deadline = began + hold_s
        self.drained: float | None = None  # from when on nothing was in flight
        self.cut_at: float | None = None  # when its cut was made
        self.held_s = 0.0  # how long it lasted, once it has ended
        self.fence = 0
        self.cut_id = cut_id
        self.mark = mark
        self.state = HELD
        self.volumes = [pair.name for pair in pairs]

    @property
    def lost(self) -> bool:
        """Whether it ended otherwise than by its owner."""
        return self.state == LOST

    def phase(self, arrival: float) -> str:
        """In which phase of the hold a write came."""
        if self.drained is None or arrival < self.drained:
            return DRAINING
        return HOLDING if self.cut_at is None or arrival < self.cut_at else CUTTING

    def spans(self) -> dict[str, float]:
        """How many seconds each phase of a hold that has ended took."""
        ended = self.began + self.held_s
        marks = [self.began, self.drained or ended, self.cut_at or ended, ended]
        return {
            name: end - start for name, start, end in zip(PHASES, marks, marks[1:], strict=False)
        }
