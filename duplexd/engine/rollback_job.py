"""One rollback while the daemon runs: it waits for the last client, then writes what differs.

The volumes are closed, so nothing else changes them. What may change is the secondary: if it fails,
it leaves the cut, and nothing that is read of it after that counts.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duplexd.engine.compare import Legs
from duplexd.engine.rollback_check import left_cut
from duplexd.engine.rollback_content import differing, pieces
from duplexd.engine.verify import lost_leg
from duplexd.errors import DuplexdError, TimedOutError, WrongStateError
from duplexd.images.place import misplaced
from duplexd.images.unreadable import UnreadableError
from duplexd.runtime.watch import HungError, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.engine.own_writes import Content, OwnWrites
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls

T = TypeVar("T")

_PAUSE_SECONDS, _LOOKS = 0.02, 3000  # a minute: a client that takes no replies is cut off by then


class RollbackJob:
    """`done` is set when it has ended; `copied`: the volumes hold what the cut holds. `error`: why
    it failed.
    """

    def __init__(self, rollback_id: str, cut: Cut, pairs: Sequence[Pair]) -> None:
        self.id = rollback_id
        self.cut = cut
        self.pairs = list(pairs)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.copied = False
        self.error = ""
        self.total_bytes = {pair: _changed_bytes(pair) for pair in pairs}
        self.done_bytes = dict.fromkeys(pairs, 0)
        self.differing_bytes = dict.fromkeys(pairs, 0)
        self.written_bytes = dict.fromkeys(pairs, 0)
        self._stopped = ""

    @property
    def failed(self) -> bool:
        """Whether another one has to go on."""
        return bool(self.error)

    def stop(self, why: str) -> None:
        """End soon, between two pieces."""
        self._stopped = why

    def fail(self, error: DuplexdError) -> None:
        """It has ended half-way."""
        self.error, self.copied = str(error), False
        self.done.set_exception(error)
        self.done.exception()  # nobody need wait for it

    def row(self, pair: Pair) -> Json:
        """As the answer has it."""
        return {
            "name": pair.name,
            "served": not (pair.failed or pair.closed),
            "compared_bytes": self.done_bytes[pair],
            "differing_bytes": self.differing_bytes[pair],
            "written_bytes": self.written_bytes[pair],
        }

    # ------------------------------------------------------------------------------- the work

    async def run(self, timeline: Timeline, own_writes: OwnWrites, legs: LegCalls) -> None:
        """Raises DuplexdError, OSError, with the volumes half-way. The marker that closes them is
        durable before the first change: a power cut must not leave a changed volume that is open.
        """
        await self._clients_gone()
        await timeline.at_rest(_nothing)  # their last batch is over
        await timeline.durable()
        for pair in self.pairs:
            await self._copy(pair, timeline, own_writes, legs)
        await timeline.durable()
        self.copied = True

    async def _clients_gone(self) -> None:
        await clients_gone(self.pairs, self._check_on)

    async def _copy(
        self, pair: Pair, timeline: Timeline, own_writes: OwnWrites, legs: LegCalls
    ) -> None:
        images = Legs(pair.primary, pair.copy_of)
        good = partial(self._is_good, pair, images)
        for offset, length in pieces(pair.changed.copy() if pair.changed else None):
            self._check_on()
            found = await self._differing(pair, images, legs, offset, length)
            if found:
                await own_writes.room(sum(len(each.data) for each in found), len(found))
                if not await own_writes.write_all(pair, found, good):
                    raise DuplexdError(f"{pair.name}: {self._why_not(pair, timeline)}")
                self.written_bytes[pair] += sum(each.length for each in found)
            self.done_bytes[pair] += length
        if not good():
            raise DuplexdError(f"{pair.name}: {self._why_not(pair, timeline)}")
        await check_place(pair, legs)

    async def measure(self, pair: Pair, legs: LegCalls) -> None:
        """Compare, and write nothing. Raises as `run` does."""
        images = Legs(pair.primary, pair.copy_of)
        for offset, length in pieces(pair.changed.copy() if pair.changed else None):
            await self._differing(pair, images, legs, offset, length)
            self.done_bytes[pair] += length

    async def _differing(
        self, pair: Pair, images: Legs, legs: LegCalls, offset: int, length: int
    ) -> list[Content]:
        found = await _in_worker(
            pair, images, legs, lambda watched: differing(watched, offset, length)
        )
        self.differing_bytes[pair] += sum(each.length for each in found)
        return found

    def _is_good(self, pair: Pair, images: Legs) -> bool:
        """Whether what was read is what the volume is to hold: in the step that writes it."""
        rollback = pair.record.rollback
        ours = rollback is not None and rollback.unfinished and rollback.id == self.id
        there = images.are_of(pair) and not left_cut(pair, self.cut)
        return ours and there and not pair.failed and not self._stopped

    def _check_on(self) -> None:
        if self._stopped:
            raise DuplexdError(
                f"the rollback to cut {self.cut.id} has ended half-way: {self._stopped}"
            )

    def _why_not(self, pair: Pair, timeline: Timeline) -> str:
        """Why a piece was not written."""
        why = timeline.failed or pair.failed or left_cut(pair, self.cut) or self._stopped
        return why or (
            "its changes could not be written: the journal has no room, or its primary has failed; "
            "see `duplexctl status` and the log"
        )


def _nothing() -> None:
    """Only to be between two batches, or to wait whatever happens."""


async def clients_gone(pairs: Sequence[Pair], go_on: Callable[[], None] = _nothing) -> None:
    """Wait until no client of closed volumes is left. `go_on` raises if that is in vain."""
    for _ in range(_LOOKS):
        if not any(pair.connections for pair in pairs):
            return
        go_on()
        await asyncio.sleep(_PAUSE_SECONDS)
    names = " ".join(pair.name for pair in pairs if pair.connections)
    raise TimedOutError(
        f"{names}: requests of clients that were disconnected have not ended; the volumes are"
        " closed: the same command tries again"
    )


async def check_place(pair: Pair, legs: LegCalls) -> None:
    """Raises WrongStateError if what lies at the path of the primary is not the image that is
    written to, or not all of it: what is not read here would not be missed.
    """
    images = Legs(pair.primary, pair.copy_of)
    if why := await _in_worker(pair, images, legs, lambda watched: misplaced(watched.primary)):
        raise WrongStateError(f"{pair.name}: {why}")


async def _in_worker(pair: Pair, images: Legs, legs: LegCalls, call: Callable[[Legs], T]) -> T:
    """The result of a call with both images. Raises DuplexdError for one that cannot be read."""
    watch: Watch[Waited] = Watch()
    watched = images.watched(pair, watch)
    try:
        return await legs.walk(pair, watch, lambda: call(watched))
    except HungError as hung:
        raise TimedOutError(f"{pair.name}: {hung.filename}: {hung.strerror}") from hung
    except UnreadableError as error:
        lost = lost_leg(images, error)
        if lost is not None and isinstance(error.__cause__, OSError):
            legs.on_hung(pair, lost, error.__cause__)
        raise DuplexdError(f"{pair.name}: {error.strerror}") from error


def _changed_bytes(pair: Pair) -> int:
    return pair.changed.changed_bytes if pair.changed is not None else 0
