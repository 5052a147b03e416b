"""A batch: changes that get their numbers together, how far they are, and what failed.

The progress is kept here and not on the stack of the worker that performs the batch (`apply.py`),
because another one goes on with it when that worker hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.backend import Client
    from duplexd.core.pair import Pair, PairChange
    from duplexd.images.leg import Leg

    Done = Callable[["Batch", BaseException | None], None]

    # What a worker notes of the call that it is in: the journal; the place of the change that it
    # applies to the secondary, or `~place` to the primary; or, where a leg has failed (`Batch.at`
    # is the place then), the leg.
    Note = str | int | Leg

NOT_YET, READING, GIVING = range(3)  # `Batch.restoring`


class SecondaryFailure:
    """A secondary that could not take change `sequence`.

    `torn`: part of that change may be on it. `lost`: changes before it may not be. `members`: the
    pairs that are suspended with it.
    """

    __slots__ = ("error", "lost", "members", "pair", "sequence", "torn")

    def __init__(self, pair: Pair, sequence: int, error: OSError) -> None:
        self.pair = pair
        self.sequence = sequence
        self.error = error
        self.torn = self.lost = False
        self.members = {pair}


class PrimaryFailure(NamedTuple):
    """A change that a primary did not take."""

    change: PairChange
    error: OSError


class Batch:
    """What the write path passes to the timeline, its progress, and the outcome.

    `regions` are new dirty regions by volume number: made durable before any leg is written.
    `heavy`: too long for the thread of the event loop. `answer` is called when it is done, with the
    error if it failed as a whole.

    `client`: of all its changes, if none has FUA; None if that is not known. `tracked`: some of
    them may have to be noted in change maps.

    `at` is the place of the change where something failed, or while `GIVING` that of the restored
    one. `frozen`: pairs whose secondaries get nothing more. `dead`: pairs whose primaries get
    nothing more, with the failure; the secondary goes on alone. `restored`: what primaries hold
    where they refused a change, `restoring` how far that is.
    """

    __slots__ = (
        "answer", "at", "changes", "client", "dead", "failures", "frozen", "healing", "heavy",
        "journaled", "primary_errors", "regions", "regions_sequence", "restored", "restoring",
        "time_us", "tracked",
    )  # fmt: skip

    def __init__(
        self,
        changes: Sequence[PairChange],
        regions: Mapping[int, Sequence[int]],
        heavy: bool,
        answer: Done,
        client: Client | None = None,
        tracked: bool = True,
    ) -> None:
        self.changes = changes
        self.regions = regions
        self.regions_sequence = 0
        self.time_us = 0  # of its records, microseconds since 1970
        self.heavy = heavy
        self.answer = answer
        self.client = client
        self.tracked = tracked
        self.journaled = False  # it is in the journal: a later error is not a refusal
        self.at = 0
        self.failures: list[SecondaryFailure] = []
        self.primary_errors: list[PrimaryFailure] = []
        self.frozen: set[Pair] = set()
        self.dead: dict[Pair, PrimaryFailure] = {}
        self.healing: SecondaryFailure | None = None
        self.restored: list[PairChange] = []
        self.restoring = NOT_YET

    def place(self, note: int | Leg) -> tuple[int, Leg]:
        """Of the change that a worker is at, and the leg, by its note."""
        if not isinstance(note, int):
            return self.at, note
        if note < 0:
            return ~note, self.changes[~note].volume.primary
        return note, self.changes[note].volume.copy_of
