"""Leases: who holds which volumes, until when, and how it ended. Pure.

`TRANSITIONS[state, reason]` is what a lease becomes when it ends for that reason; one that has ended stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.core.waits import Waits

HELD, RELEASED, LOST = "held", "released", "lost"

BY_OWNER = "released"  # the owner let go
BY_SUSPEND = "suspended"  # a suspend took it, or the gates were opened after the cut
DEADLINE = "deadline"
OWNER_GONE = "owner gone"
STOPPING = "stopping"  # the daemon is
ABORTED = "aborted"  # the group's cut was given up

TRANSITIONS = {
    (HELD, BY_OWNER): RELEASED,
    (HELD, BY_SUSPEND): RELEASED,
    (HELD, DEADLINE): LOST,  # the verdict of a lost lease is void
    (HELD, OWNER_GONE): LOST,
    (HELD, STOPPING): LOST,
    (HELD, ABORTED): LOST,
}
# What a held write meets: the gate closes, all are drained, the cut is made and the gate not yet opened
DRAINING, HOLDING, CUTTING = "draining", "held", "cut"
PHASES = (DRAINING, HOLDING, CUTTING)
REASONS = tuple(reason for _, reason in TRANSITIONS)


class Lease:
    """The owner of a hold over some pairs. `ended` gets the reason when it is over, `state` tells whether it was lost.

    `fence` is a number that no earlier lease of this controller had, not even before a restart; it rises when the lease is renewed, and
    commands with an older one are refused. `cut_id` is the group's cut that it is held for, "" for none.
    """

    __slots__ = (
        "began", "cut_at", "cut_id", "deadline", "drained", "ended", "fence", "held_s", "hold_s", "id", "owner", "pairs", "phases", "state", "timer", "waited", "waits",
    )  # fmt: skip

    def __init__(
        self,
        lease_id: str,
        pairs: Sequence[Pair],
        owner: str,
        hold_s: float,
        began: float,
        ended: asyncio.Future[str] | None = None,
        cut_id: str = "",
    ) -> None:
        self.id = lease_id
        self.pairs = pairs
        self.owner = owner
        self.hold_s = hold_s
        self.began = began
        self.deadline = began + hold_s  # on the daemon's monotonic clock
        self.drained: float | None = None  # when nothing was in flight any more
        self.cut_at: float | None = None  # when its cut was made
        self.held_s = 0.0  # how long it lasted, once it has ended
        self.fence = 0
        self.cut_id = cut_id
        self.state = HELD
        self.ended: Any = ended  # None where nobody waits for it
        self.timer: Callable[[], None] | None = None  # cancels the deadline's timer
        self.waits: Waits | None = None  # of the writes that it held, once it has ended
        self.waited: dict[str, Waits] = {}  # the same by volume
        self.phases = dict.fromkeys(PHASES, 0)  # in which phase they came

    @property
    def volumes(self) -> list[str]:
        """The names of the volumes held."""
        return [pair.name for pair in self.pairs]

    @property
    def lost(self) -> bool:
        """Whether it ended other than by its owner's will."""
        return self.state == LOST

    def end(self, reason: str) -> bool:
        """Leave HELD for the state that the table gives; False if it had ended before."""
        after = TRANSITIONS.get((self.state, reason))
        if after is None:
            return False
        self.state = after
        if self.timer is not None:
            self.timer()
            self.timer = None
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(reason)
        return True
