"""Blocking calls on legs: in a worker of that leg, each with its time-out.

All of the engine but its write thread reaches the disks through here, so that one place decides
where a call may hang and how long it is waited for. A reload replaces `patience`.

Who follows the journal may hang in it, too: between two calls on legs, in the same thread. No leg
is to blame for that, so it is another error. The same is true of a staging log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from duplexd.core.patience import (
    SYNC,
    Access,
    JournalRead,
    OverlayCall,
    Patience,
    StagingCall,
    Waited,
)
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.journal.segment import Ring
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.threads import Workers

T = TypeVar("T")


class JournalHungError(OSError):
    """The journal could not be read in time, and the thread that reads it was given up."""


class StagingHungError(OSError):
    """A staging log did not answer in time, and the thread that uses it was given up."""


class OverlayHungError(OSError):
    """The overlay of a clone did not answer in time, and the thread that uses it was given up."""


class LegCalls:
    """Calls in `workers`. A cancelled waiter does not stop a call. `on_hung(pair, leg, error)` is
    called when a leg hung or has lost writes, before the caller gets the error.
    """

    def __init__(self, workers: Workers, patience: Patience | None = None) -> None:
        self.workers = workers
        self.patience = patience or Patience()
        self.on_hung: Callable[[Pair, Leg, OSError], None] = _nobody_cares

    def seconds(self, waited: Waited) -> float:
        """How long this may be waited for, as of now."""
        return self.patience.seconds(waited.use)

    async def on(self, pair: Pair, leg: Leg, use: str, call: Callable[[], T]) -> T:
        """The result of one call on a leg of a pair. Raises what it raises; HungError, whose `what`
        is the Access, when it takes too long.
        """
        watch: Watch[Waited] = Watch()
        access = Access(pair, leg, use)

        def watched() -> T:
            with watch.at(access):
                return call()

        return await self.walk(leg, watch, watched)

    async def on_journal(self, ring: Ring, call: Callable[[], T]) -> T:
        """The result of one call that reads the journal. Raises what it raises; JournalHungError
        when it takes too long.
        """
        watch: Watch[Waited] = Watch()

        def watched() -> T:
            with watch.at(JournalRead(ring.directory)):
                return call()

        return await self.walk(ring, watch, watched)

    async def on_staging(self, area: StagingArea, call: Callable[[], T]) -> T:
        """The result of one call on the disk of the staging logs. Raises what it raises;
        StagingHungError when it takes too long.
        """
        watch: Watch[Waited] = Watch()

        def watched() -> T:
            with watch.at(StagingCall(area.directory)):
                return call()

        return await self.walk(area, watch, watched)

    async def walk(self, owner: object, watch: Watch[Waited], call: Callable[[], T]) -> T:
        """The same of a call on several legs, which enters and leaves `watch` for each of them, and
        for each call on the journal or a staging log: JournalHungError or StagingHungError if one
        of those takes too long.

        It runs in a worker of `owner`: of whatever makes such calls one after the other.
        """
        try:
            return await patiently(self.workers.of(owner), watch, call, self.seconds)
        except HungError as hung:
            raise_if_of_state(hung)
            pair, leg, use = hung_in(hung)
            hung.filename = leg.path
            if use != SYNC:  # a sync that did not end has other consequences
                self.on_hung(pair, leg, hung)
            raise


def raise_if_of_state(hung: HungError) -> None:
    """Raises JournalHungError, StagingHungError, OverlayHungError if no leg hangs but a file of the
    state directory.
    """
    if isinstance(hung.what, JournalRead):
        path = hung.what.path
        why = f"{path}: the journal cannot be {hung.what.does}: {hung.strerror}"
        raise JournalHungError(hung.errno, why, path) from hung
    if isinstance(hung.what, StagingCall):
        path = hung.what.path
        why = f"{path}: the staging log cannot be used: {hung.strerror}"
        raise StagingHungError(hung.errno, why, path) from hung
    if isinstance(hung.what, OverlayCall):
        path = hung.what.path
        why = f"{path}: the overlay cannot be used: {hung.strerror}"
        raise OverlayHungError(hung.errno, why, path) from hung


def hung_in(hung: HungError) -> Access:
    """In which call."""
    access = hung.what
    if not isinstance(access, Access):
        raise TypeError(f"a call on a leg hangs in {access!r}, expected an Access")
    return access


def _nobody_cares(_pair: Pair, _leg: Leg, _error: OSError) -> None:
    """Nobody uses it."""
