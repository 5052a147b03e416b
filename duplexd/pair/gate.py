"""Leases: who holds which volumes, until when, and how it ended.

state      event        next
HELD       released     RELEASED   the owner let go
HELD       suspended    RELEASED   a suspend took it: cut and release are one step
HELD       deadline     LOST       the verdict of a lost lease is void
HELD       owner gone   LOST
HELD       stopping     LOST       the daemon is
RELEASED   any          RELEASED
LOST       any          LOST
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.pair.pair import Pair

HELD, RELEASED, LOST = "held", "released", "lost"

BY_OWNER, BY_SUSPEND = "released", "suspended"
DEADLINE, OWNER_GONE, STOPPING = "deadline", "owner gone", "stopping"

AFTER = {BY_OWNER: RELEASED, BY_SUSPEND: RELEASED, DEADLINE: LOST, OWNER_GONE: LOST, STOPPING: LOST}


class Lease:
    """The owner of a hold over some pairs. `ended` gets the reason when it is over, `state` tells whether it was lost."""

    __slots__ = ("began", "deadline", "ended", "hold_s", "id", "owner", "pairs", "state", "timer", "wait_s_max", "writes_held")

    def __init__(self, lease_id: str, pairs: list[Pair], owner: str, hold_s: float, began: float, ended: asyncio.Future[str]) -> None:
        self.id = lease_id
        self.pairs = pairs
        self.owner = owner
        self.hold_s = hold_s
        self.began = began
        self.deadline = began + hold_s  # on the daemon's monotonic clock
        self.state = HELD
        self.ended = ended
        self.timer: Callable[[], None] | None = None  # cancels the deadline's timer
        self.writes_held = 0
        self.wait_s_max = 0.0

    @property
    def volumes(self) -> list[str]:
        """The names of the volumes held."""
        return [pair.name for pair in self.pairs]

    @property
    def lost(self) -> bool:
        """Whether it ended other than by its owner's will."""
        return self.state == LOST

    def end(self, reason: str) -> bool:
        """Leave HELD for the state that `AFTER` gives; False if it had ended before."""
        if self.state != HELD:
            return False
        self.state = AFTER[reason]
        if self.timer is not None:
            self.timer()
            self.timer = None
        if not self.ended.done():
            self.ended.set_result(reason)
        return True
