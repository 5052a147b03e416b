"""Taking images back into service while the daemon runs, on command: `resync` and `adopt`.

    resync   of a pair whose secondary is absent: what lies at its path is opened. If it is the
             image that was there before, only what it lacks is copied; any other image that
             belongs to nobody else is the new secondary, and gets all of it
    resync   of a volume that is not served: its primary is opened, and gets from the journal what
             it lacks
    adopt    of a volume that is not served: its images are taken as they are; the primary is what
             the volume holds then, and the secondary gets all of it

Nothing is created here. A path without an image may be a mount point without its disk, and the new
image would fill another one.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.identity import Facts, is_of_others, judge
from duplexd.core.markers import Copy, Missed
from duplexd.core.since import known
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, places, why_absent
from duplexd.engine.opening import absent as gone
from duplexd.engine.recovery.degraded import said
from duplexd.engine.recovery.image_faults import Side
from duplexd.engine.recovery.primary_replay import PrimaryReplay, lacking
from duplexd.engine.recovery.progress import ignore
from duplexd.engine.volumes import introduce
from duplexd.errors import DamageError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.images.probe import probe
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.core.identity import Judgement
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.failures import Failures
    from duplexd.engine.opening import Opener
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.runtime.threads import Workers

# Of an image that was there until something failed: its last changes may be on it or not.
_UNKNOWN = Facts(writing="anything")


class Reopening:
    """`config()`: the configuration in force."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        followers: Followers,
        failures: Failures,
        opener: Opener,
        workers: Workers,
        config: Callable[[], Config],
        emit: Callable[..., None],
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._followers = followers
        self._failures = failures
        self._opener = opener
        self._workers = workers
        self._config = config
        self._emit = emit
        self._chunk_bytes = limits.follower_chunk_bytes
        self._closing: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------------------------- commands

    async def before_resync(self, pairs: Sequence[Pair], known_only: bool = False) -> None:
        """Open what is absent of these pairs. Raises WrongStateError for what cannot be used; with
        `known_only` also for a secondary that is another image than before.
        """
        for pair in pairs:
            if pair.failed:
                await to_its_end(self._serve(pair))
            elif why_absent(pair.secondary):
                await to_its_end(self._take_secondary(pair, known_only))

    async def adopt(self, pairs: Sequence[Pair]) -> Json:
        """Take the images of volumes that are not served as they are. Raises WrongStateError."""
        return {"volumes": [await to_its_end(self._adopt(pair)) for pair in pairs]}

    def _result(self, pair: Pair, lost: Json | None, already: bool) -> Json:
        return {
            "name": pair.name,
            "state": pair.state,
            "reason": pair.reason or None,
            "swapped": pair.record.swapped,
            "primary": pair.primary.path,
            "secondary": pair.secondary.path if pair.secondary is not None else None,
            "sequence": self._timeline.written,
            "lost": lost,
            "already": already,
        }

    # -------------------------------------------------------------------------------- secondaries

    async def _take_secondary(self, pair: Pair, known_only: bool) -> None:
        """Use what lies at the path of an absent secondary."""
        leg, judgement = await self._open(pair, SECONDARY)
        if known_only and not judgement.current:
            await self._opener.close(leg)
            raise WrongStateError(
                f"{judgement.why}; `duplexctl resync {pair.name}` takes it for the new secondary"
            )
        await self._timeline.at_rest(lambda: self._use_secondary(pair, leg, judgement))

    def _use_secondary(self, pair: Pair, leg: Leg, judgement: Judgement) -> None:
        absent = pair.copy_of
        pair.set_legs(pair.primary, leg, pair.mode)
        if not judgement.current or pair.record.secondary_image is None:
            self._forget_content(pair, judgement.why or f"{leg.path}: a new image")
        absent.close()

    def _forget_content(self, pair: Pair, why: str) -> None:
        """The secondary holds something else than the journal says: a resync copies all of it."""
        timeline, record = self._timeline, pair.record
        timeline.ledger.use_images(record, record.primary_image, None)
        everything = record.full_map()
        if pair.state == pair_states.SUSPENDED and not pair.usable:
            timeline.append(Missed({pair.id: everything}))
        elif pair.state != pair_states.SIMPLEX:
            at = timeline.written if pair.state == pair_states.DUPLEX else pair.applied
            error = OSError(errno.ESTALE, why)
            self._failures.freeze({pair}, pair, at, error, {pair}, {pair: everything})

    # ------------------------------------------------------------------------------ whole volumes

    async def _serve(self, pair: Pair) -> None:
        """Serve a volume again whose primary is there again, and is the one of the journal."""
        primary = await self._primary(pair, adopt=False)
        # The checkpoint that recorded what it lacks stays the last one until it has all of it.
        async with self._checkpointer.copying:
            await self._timeline.at_rest(lambda: self._use_primary(pair, primary))
            try:
                await self._replay(pair)
            except (DamageError, LookupError, OSError) as error:
                why = f"{primary.path}: {_text(error)}"
                await self._timeline.at_rest(lambda: self._put_aside(pair, why))
                raise WrongStateError(
                    f"{pair.name} is not served: {why}; `duplexctl adopt` takes it as it is"
                ) from error
            await self._timeline.at_rest(lambda: self._begin_to_serve(pair))
        self._emit("volume-served", volume=pair.name, path=pair.primary.path, lost=None)

    def _use_primary(self, pair: Pair, primary: Leg) -> None:
        absent = pair.primary
        pair.set_legs(primary, pair.secondary, pair.mode)
        absent.close()

    def _put_aside(self, pair: Pair, why: str) -> None:
        """The image is not used after all: another attempt has to be able to open it."""
        leg, absent = pair.primary, gone(pair.primary.path, pair.size, why)
        pair.failed = why
        pair.set_legs(absent, pair.secondary, pair.mode)
        self._closing.add(
            closing := asyncio.get_running_loop().create_task(self._opener.close(leg))
        )
        closing.add_done_callback(self._closing.discard)

    async def _replay(self, pair: Pair) -> None:
        """Bring the primary to the last number. No change of this volume comes meanwhile."""
        tail, watch = self._timeline.written, Watch[Side]()
        replay = PrimaryReplay(self._timeline.writer.ring, self._chunk_bytes, watch)
        seconds = self._opener.seconds(PRIMARY)
        run = partial(replay.run, [pair], tail, ignore)
        refused = await patiently(self._workers, watch, run, lambda _side: seconds)
        for error in refused.values():
            raise error

    def _begin_to_serve(self, pair: Pair) -> None:
        """Its legs may differ in the regions that were open when it was served last."""
        self._failures.served(pair)
        pair.primary_dirty = True
        changed = pair.new_map()
        for offset, length in pair.regions.ranges(pair.size):
            changed.set(offset, length)
        if pair.state == pair_states.DUPLEX and changed.any():
            self._timeline.append(Copy({pair.id: changed}, pair_states.UNCLEAN_STOP))
        elif pair.state == pair_states.SUSPENDED and changed.any():
            self._timeline.append(Missed({pair.id: changed}))
        self._followers.adopt([pair])

    async def _adopt(self, pair: Pair) -> Json:
        secondary = await self._adopted_secondary(pair)
        if not pair.failed:
            return await self._timeline.at_rest(lambda: self._with_secondary(pair, secondary))
        return await self._adopt_whole(pair, secondary)

    def _with_secondary(self, pair: Pair, secondary: Leg | None) -> Json:
        """A volume that is served gets a secondary, at most."""
        if secondary is not None:
            self._use_adopted(pair, secondary)
        return self._result(pair, None, already=secondary is None)

    async def _adopted_secondary(self, pair: Pair) -> Leg | None:
        """What lies at the path of an absent secondary; None if it cannot be used."""
        if not why_absent(pair.secondary):
            return None
        try:
            return (await self._open(pair, SECONDARY, adopt=True))[0]
        except WrongStateError:
            return None  # it stays absent, and status says why

    def _use_adopted(self, pair: Pair, secondary: Leg) -> None:
        absent = pair.copy_of
        pair.set_legs(pair.primary, secondary, pair.mode)
        absent.close()
        self._forget_content(pair, f"{secondary.path} was adopted as it is")

    async def _adopt_whole(self, pair: Pair, secondary: Leg | None) -> Json:
        """What is given up is recorded before a client is served: a restart must not apply it."""
        timeline, ledger = self._timeline, self._timeline.ledger
        primary = await self._primary(pair, adopt=True)
        ring, tail, chunk = timeline.writer.ring, timeline.written, self._chunk_bytes
        lost = await self._workers.run(lambda: lacking(ring, pair, tail, chunk))

        def take() -> None:
            self._use_primary(pair, primary)
            if secondary is not None:
                pair.set_legs(primary, secondary, pair.mode)
            if pair.id > 0:
                ledger.use_images(pair.record, None, pair.record.secondary_image)
                ledger.primary_holds(pair.record, tail)
                self._give_up_secondary(pair, secondary is not None)

        await timeline.at_rest(take)
        await timeline.durable()
        await self._checkpointer.checkpoint()
        if pair.id < 0:
            pair = await timeline.at_rest(lambda: self._record(pair))
        await timeline.at_rest(lambda: self._begin_to_serve(pair))
        self._emit("volume-served", volume=pair.name, path=primary.path, lost=said(lost))
        return self._result(pair, said(lost), already=False)

    def _give_up_secondary(self, pair: Pair, another: bool) -> None:
        """It differs from the adopted primary where nobody knows. At its cut it is as good as it
        was, unless it is another image.
        """
        if pair.state == pair_states.SUSPENDED and pair.usable and not another:
            self._timeline.append(Missed({pair.id: pair.record.full_map()}))
        elif pair.secondary is not None:
            self._forget_content(pair, f"{pair.primary.path} was adopted as it is")

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

    # ------------------------------------------------------------------------------------- opening

    async def _primary(self, pair: Pair, adopt: bool) -> Leg:
        """The image at the path of the primary. Raises WrongStateError if it cannot be used."""
        leg, judgement = await self._open(pair, PRIMARY, adopt)
        if not judgement.current and not adopt:
            await self._opener.close(leg)
            raise WrongStateError(
                f"{pair.name} is not served: {judgement.why}; `duplexctl adopt {pair.name}` takes "
                "this image as it is"
            )
        return leg

    async def _open(self, pair: Pair, role: str, adopt: bool = False) -> tuple[Leg, Judgement]:
        """The image of a role, and what it is. Raises WrongStateError if it cannot be used, or
        belongs to another volume.
        """
        at, other = places(self._config().volumes[pair.name], pair.record.swapped)
        place = at if role == PRIMARY or other is None else other
        record = pair.record
        recorded = record.primary_image if role == PRIMARY else record.secondary_image
        before = pair.primary if role == PRIMARY else pair.copy_of
        settled = isinstance(before, AbsentLeg) and before.settled
        leg, _ = await self._opener.leg(place.path, pair.size, role, create=False)
        if isinstance(leg, AbsentLeg):
            raise WrongStateError(f"{pair.name}: {why_absent(leg)}; nothing was started")
        try:
            offsets = recorded.offsets if recorded is not None else ()
            found = await self._opener.look(leg, role, lambda: probe(leg, offsets))
        except OSError as error:
            await self._opener.close(leg)
            raise WrongStateError(f"{pair.name}: {leg.path}: {_text(error)}") from error
        ours = known(self._timeline.ledger, self._timeline.writer.ring.controller.hex())
        judgement = judge(ours, recorded, found, Facts() if settled else _UNKNOWN)
        if is_of_others(ours, pair.name, found) and not adopt:
            await self._opener.close(leg)
            raise WrongStateError(f"{judgement.why}; nothing was started")
        return leg, judgement


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
