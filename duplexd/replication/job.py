"""A job: one resync, or one copy, of a set of pairs.

Pairs that are resynced together share one walk along the journal, so that they are at one number if
it fails half-way. A pair leaves its job when it becomes DUPLEX.
"""

from __future__ import annotations

import errno
import math
import secrets
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.images.absent import AbsentLeg
from duplexd.known import known
from duplexd.replication.follower import SinkError, UntouchedError
from duplexd.replication.pieces import PrimaryUnreadableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from duplexd.core.pair import Pair
    from duplexd.replication.follower import Follower

JOURNAL, MAP, COPY, ALREADY = "journal", "map", "copy", "already"  # how
READ = "read"  # not begun: a reader has ended, and others read the cut still


class Job:
    """`pairs` are those that are not DUPLEX yet. `floor` is the number after which it still needs
    the journal; `cap` is the lag in bytes beyond which new changes wait for it, and `late` says
    that they have waited for too long. `step_bytes`: how much of the journal it takes at once while
    there is a cap. `whole`: whether the secondaries hold a state that existed,
    apart from those that are `torn`. `spoiled`: the volumes that were not served at some moment;
    what was copied from their primaries may lack changes that the journal has. `without_primary`:
    those that were not served when it began.
    """

    __slots__ = (
        "began", "begun_at", "cap", "floor", "follower", "how", "id", "late", "pairs", "reasons",
        "spoiled", "step_bytes", "task", "torn", "whole", "without_primary",
    )  # fmt: skip

    def __init__(self, how: str, pairs: Iterable[Pair], floor: int) -> None:
        self.id = secrets.token_hex(4)
        self.how = how
        self.pairs = list(pairs)
        self.reasons = {pair.id: pair.reason for pair in self.pairs}  # why they were suspended
        self.floor = floor
        self.begun_at = floor  # what comes after this number is new, and not counted as copied
        self.began = 0.0  # monotonic seconds
        self.follower: Follower | None = None
        self.cap = math.inf
        self.late = False
        self.step_bytes = 0  # as little as there can be
        self.task: asyncio.Task[None] | None = None
        self.whole = True
        self.torn: set[Pair] = set()
        self.spoiled: set[Pair] = set()
        self.without_primary: set[Pair] = set()

    def lag_bytes(self, log_position: int) -> int:
        """How many bytes of journal it trails behind."""
        return self.follower.lag_bytes(log_position) if self.follower is not None else 0

    def end(self) -> None:
        """Clients have waited for it for too long."""
        self.late = True
        if self.follower is not None:
            self.follower.ends = True

    def walk(self) -> Follower:
        """Its follower, once it has begun."""
        return known(self.follower, "a job that has begun has a follower")


def copied_well(job: Job, pairs: Iterable[Pair]) -> None:
    """Raises PrimaryUnreadableError if what was copied of a pair is worth nothing, or will be."""
    for pair in pairs:
        if pair in job.spoiled:
            why = f"{pair.primary.path}: the primary failed while it was copied"
            raise PrimaryUnreadableError(errno.EIO, why, pair.primary.path)


def in_work(pairs: Iterable[Pair]) -> None:
    """Raises SinkError if a pair was suspended meanwhile, because its secondary could not be
    synced.
    """
    for pair in pairs:
        if pair.state != pair_states.PENDING:
            raise SinkError(pair, 0, OSError(errno.EIO, "the secondary could not be synced"))


def not_given_up(pairs: Iterable[Pair]) -> None:
    """Raises SinkError if a secondary was given up because it hangs. A job that had nothing left to
    apply to it does not find that out.
    """
    for pair in pairs:
        if isinstance(pair.secondary, AbsentLeg):
            kind = OSError if pair.secondary_dirty else UntouchedError
            raise SinkError(pair, 0, kind(errno.EIO, pair.secondary.why))
