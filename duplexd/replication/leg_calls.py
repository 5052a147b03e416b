"""Blocking calls on legs: in a worker of that leg, each with its time-out.

All of the engine but its write thread reaches the disks through here, so that one place decides
where a call may hang and how long it is waited for. A reload replaces `patience`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from duplexd.core.patience import SYNC, Access, Patience
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.runtime.threads import Workers

T = TypeVar("T")


class LegCalls:
    """Calls in `workers`. A cancelled waiter does not stop a call. `on_hung(pair, leg, error)` is
    called when a leg hung, before the caller gets the error.
    """

    def __init__(self, workers: Workers, patience: Patience | None = None) -> None:
        self.workers = workers
        self.patience = patience or Patience()
        self.on_hung: Callable[[Pair, Leg, OSError], None] = _nobody_cares

    def seconds(self, access: Access) -> float:
        """How long this may be waited for, as of now."""
        return self.patience.seconds(access.use)

    async def on(self, pair: Pair, leg: Leg, use: str, call: Callable[[], T]) -> T:
        """The result of one call on a leg of a pair. Raises what it raises; HungError, whose `what`
        is the Access, when it takes too long.
        """
        watch: Watch[Access] = Watch()
        access = Access(pair, leg, use)

        def watched() -> T:
            with watch.at(access):
                return call()

        return await self.walk(leg, watch, watched)

    async def walk(self, owner: object, watch: Watch[Access], call: Callable[[], T]) -> T:
        """The same of a call on several legs, which enters and leaves `watch` for each of them.

        It runs in a worker of `owner`: of whatever makes such calls one after the other.
        """
        try:
            return await patiently(self.workers.of(owner), watch, call, self.seconds)
        except HungError as hung:
            pair, leg, use = hung_in(hung)
            hung.filename = leg.path
            if use != SYNC:  # a sync that did not end has other consequences
                self.on_hung(pair, leg, hung)
            raise


def hung_in(hung: HungError) -> Access:
    """In which call."""
    access = hung.what
    if not isinstance(access, Access):
        raise TypeError(f"a call on a leg hangs in {access!r}, expected an Access")
    return access


def _nobody_cares(_pair: Pair, _leg: Leg, _error: OSError) -> None:
    """Nobody uses it."""
