"""`adopt`: the images of a volume that is not served are taken as they are, whatever they are.

The primary is what the volume holds from then on. What the journal has that it does not have is
given up, and said: from which number to which, and how much. That has to be in a checkpoint before
a client is served, because a restart must not apply it any more. The secondary differs from the
primary where nobody knows, so a resync copies all of it; until then it is left alone, because it
may be the only good copy.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.markers import Missed
from duplexd.engine.each_of import each_of
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, why_absent
from duplexd.engine.recovery.degraded import said
from duplexd.engine.recovery.primary_replay import lacking
from duplexd.engine.volumes import introduce
from duplexd.errors import WrongStateError
from duplexd.replication.leg_calls import JournalHungError
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.failures import Failures
    from duplexd.engine.reopen import Reopening
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls


class Adoptions:
    """Of volumes of a controller. `images` opens what is absent."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        failures: Failures,
        images: Reopening,
        legs: LegCalls,
        emit: Callable[..., None],
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._failures = failures
        self._images = images
        self._legs = legs
        self._emit = emit
        self._chunk_bytes = limits.follower_chunk_bytes

    async def adopt(self, pairs: Sequence[Pair]) -> Json:
        """Take the images of volumes that are not served as they are. Raises WrongStateError for
        those that cannot be, when the others are served, see `each_of`.
        """
        return {"volumes": await each_of(pairs, self._adopt, "adopted")}

    def _result(self, pair: Pair, lost: Json | None, taken: Sequence[str]) -> Json:
        return {
            "name": pair.name,
            "state": pair.state,
            "reason": pair.reason or None,
            "swapped": pair.record.swapped,
            "primary": pair.primary.path,
            "secondary": pair.secondary.path if pair.secondary is not None else None,
            "sequence": self._timeline.written,
            "lost": lost,
            "already": not taken,
            "taken": list(taken),
            "secondary_error": why_absent(pair.secondary) or None,
        }

    async def _adopt(self, given: Pair) -> Json:
        async with self._images.alone(given.name) as pair:
            before, secondary = pair.secondary, await self._adopted_secondary(pair)
            if not pair.failed:
                return await self._with_secondary(pair, before, secondary)
            return await self._adopt_whole(pair, secondary)

    async def _with_secondary(self, pair: Pair, before: Leg | None, secondary: Leg | None) -> Json:
        """A volume that is served gets a secondary, at most. The checkpoint forgets the former
        image: a start that finds it there again has to notice.
        """
        if secondary is None:
            return self._result(pair, None, taken=())
        try:
            await self._timeline.at_rest(lambda: self._use_adopted(pair, before, secondary))
        except WrongStateError:
            await self._images.leave(secondary)
            raise
        await self._checkpointer.checkpoint()
        return self._result(pair, None, taken=(SECONDARY,))

    async def _adopted_secondary(self, pair: Pair) -> Leg | None:
        """What lies at the path of an absent secondary; None if it cannot be used."""
        if not why_absent(pair.secondary):
            return None
        try:
            return (await self._images.open(pair, SECONDARY, adopt=True))[0]
        except WrongStateError:
            return None  # it stays absent, and status says why

    def _use_adopted(self, pair: Pair, before: Leg | None, secondary: Leg) -> None:
        """A reload does not wait for a command that opens an image of a volume that is served."""
        if pair.secondary is not before or self._volumes.by_name.get(pair.name) is not pair:
            raise WrongStateError(f"{pair.name}: a reload changed it meanwhile; try again")
        pair.set_legs(pair.primary, secondary, pair.mode)
        self._images.forget_content(pair, f"{secondary.path} was adopted as it is")

    async def _adopt_whole(self, pair: Pair, secondary: Leg | None) -> Json:
        """What is given up is recorded before a client is served: a restart must not apply it."""
        timeline, ledger = self._timeline, self._timeline.ledger
        primary = await self._images.primary(pair, adopt=True)
        ring, tail, chunk = timeline.writer.ring, timeline.written, self._chunk_bytes
        watch: Watch[Waited] = Watch()
        look = partial(lacking, ring, pair, tail, chunk, watch)
        try:
            lost = await self._legs.walk(ring, watch, look)
        except JournalHungError as error:  # what would be given up has to be known
            await self._images.leave(primary, secondary)
            why = f"{error.strerror}; try again once that disk answers"
            raise WrongStateError(f"{pair.name} is not adopted: {why}") from error

        def take() -> None:
            self._images.use_primary(pair, primary)
            if secondary is not None:
                pair.set_legs(primary, secondary, pair.mode)
            if pair.id > 0:
                ledger.use_images(pair.record, None, pair.record.secondary_image)
                ledger.primary_holds(pair.record, tail)
                ledger.adopted(pair.record)
                self._give_up_secondary(pair, secondary is not None)

        await timeline.at_rest(take)
        await timeline.durable()
        await self._checkpointer.checkpoint()
        if pair.id < 0:
            pair = await timeline.at_rest(lambda: self._record(pair))
        async with self._images.recorded(pair):
            await timeline.at_rest(lambda: self._images.begin_to_serve(pair))
        self._emit("volume-served", volume=pair.name, path=primary.path, lost=said(lost))
        taken = (PRIMARY,) if secondary is None else (PRIMARY, SECONDARY)
        return self._result(pair, said(lost), taken)

    def _give_up_secondary(self, pair: Pair, another: bool) -> None:
        """It differs from the adopted primary where nobody knows. At its cut it is as good as it
        was, unless it is another image.
        """
        if pair.state == pair_states.SUSPENDED and pair.usable and not another:
            self._timeline.append(Missed({pair.id: pair.record.full_map()}, (pair.id,)))
        elif pair.secondary is not None:
            self._images.forget_content(pair, f"{pair.primary.path} was adopted as it is")

    def _record(self, pair: Pair) -> Pair:
        """Make a volume known to the journal that is not."""
        self._volumes.remove(pair.name)
        images = Images(pair.primary, pair.secondary)
        known_now = introduce(self._timeline, pair.name, pair.mode, images, None)
        self._volumes.add(known_now)
        if known_now.secondary is not None:  # copying over it is for a resync to begin
            why = why_absent(known_now.secondary) or f"{pair.primary.path} was adopted as it is"
            missed = {known_now: known_now.record.full_map()}
            at, error = known_now.applied, OSError(errno.EIO, why)
            self._failures.freeze({known_now}, known_now, at, error, {known_now}, missed)
        return known_now
