"""Taking images back into service while the daemon runs: what a resync begins with.

    a pair whose secondary is absent   what lies at its path is opened. If it is the image that was
                                       there before, only what it lacks is copied; any other image
                                       that belongs to nobody else is the new secondary, and gets
                                       all of it
    a pair whose secondary is open,    the same: its disk was replaced while the daemon runs. The
    and another image is at its path   open one is closed once the other is in its place
    a volume that is not served        its primary is opened, and gets from the journal what it
                                       lacks; or, to roll it forward, its secondary

One command at a time does that with a volume (`alone`): a replay of a long journal takes a while,
and another command would exchange the image under it. One that had to wait looks the volume up
again: the one before it may have recorded it, and then clients are served by another `Pair`.

Nothing is created here. A path without an image may be a mount point without its disk, and the new
image would fill another one.
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.identity import Facts, Judgement, is_of_others, judge
from duplexd.core.markers import Copy, Missed, Regions
from duplexd.core.since import EVERYTHING, known, uncertain
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, may_have, places, why_absent
from duplexd.engine.opening import absent as gone
from duplexd.engine.recovery.image_faults import Noted
from duplexd.engine.recovery.primary_replay import PrimaryReplay, touching
from duplexd.engine.recovery.progress import ignore
from duplexd.engine.volumes import introduce
from duplexd.errors import DamageError, DuplexdError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.images.probe import as_on_the_medium, probe
from duplexd.replication.leg_calls import JournalHungError, raise_if_of_state
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.core.image_record import Image
    from duplexd.core.pair import Pair, PairRecord
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.failures import Failures
    from duplexd.engine.opening import Opener
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.seams import Gates
    from duplexd.runtime.threads import Workers


class Reopening:
    """`config()`: the configuration in force."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        gates: Gates,
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
        self._gates = gates
        self._followers = followers
        self._failures = failures
        self._opener = opener
        self._workers = workers
        self._config = config
        self._emit = emit
        self._chunk_bytes = limits.follower_chunk_bytes
        self._turns: dict[str, asyncio.Lock] = {}  # by volume

    # ---------------------------------------------------------------------------------- commands

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[Pair]:
        """Around what opens the images of a volume again: the next command for it begins when this
        one has ended, and finds what it has done. No swap exchanges the images of one that is not
        served. Yields the volume as it is by then; raises WrongStateError if a reload removed it.
        """
        async with self._turns.setdefault(name, asyncio.Lock()):
            pair = self._volumes.by_name.get(name)
            if pair is None:
                raise WrongStateError(f"{name}: a reload removed it")
            pair.returning = bool(pair.failed)
            try:
                yield pair
            finally:
                pair.returning = False

    async def before_resync(self, pairs: Sequence[Pair], known_only: bool = False) -> None:
        """Open what is absent of these pairs. Raises WrongStateError for what cannot be used; with
        `known_only` also for a secondary that is another image than before.
        """
        for given in pairs:
            async with self.alone(given.name) as pair:
                await to_its_end(self._before_resync(pair, known_only))

    async def before_roll_forward(self, pairs: Sequence[Pair]) -> None:
        """Open the secondaries that are absent of volumes that are not served: a disk that hung may
        answer again. Raises WrongStateError for one that cannot be used, or is another image.
        """
        for given in filter(_lacks_secondary, pairs):
            async with self.alone(given.name) as pair:
                if _lacks_secondary(pair):
                    await to_its_end(self._take_secondary(pair, known_only=True))

    async def _before_resync(self, pair: Pair, known_only: bool) -> None:
        if pair.failed and pair.id < 0:  # in no journal, so it has nothing to get from there
            raise WrongStateError(
                f"{pair.name} is not served: {pair.failed}; `duplexctl adopt {pair.name}` "
                "takes its images as they are"
            )
        if why_absent(pair.secondary) or await self._is_replaced(pair):
            try:
                await self._take_secondary(pair, known_only)
            except WrongStateError:
                if not pair.failed:  # else the primary alone is enough
                    raise
        if pair.failed:
            self._refuse_rolled_forward(pair)
            pair.returning = True  # it may have failed since the command began
            await self._serve(pair)

    def _refuse_rolled_forward(self, pair: Pair) -> None:
        """After an unclean stop the primary may hold changes whose records were lost, and the
        journal does not bring those to the secondary. Both would be called equal at the end.
        """
        if self._followers.is_rolled_forward(pair):
            raise WrongStateError(
                f"{pair.name} is not served: {pair.failed}; its secondary is being rolled forward, "
                "to be swapped to; try again when that has ended"
            )

    # -------------------------------------------------------------------------------- secondaries

    async def _is_replaced(self, pair: Pair) -> bool:
        """Whether the open secondary has another image at its path. A copy that writes to it goes
        on: it is not closed under it.
        """
        leg = pair.secondary
        if leg is None or pair.state not in {pair_states.SUSPENDED, pair_states.DUPLEX}:
            return False
        with suppress(OSError):  # what hangs or fails is found by its next use
            is_open = await self._opener.look(leg, SECONDARY, leg.in_place)
            return not is_open and await self._opener.is_there(leg.path, SECONDARY)
        return False

    async def _take_secondary(self, pair: Pair, known_only: bool) -> None:
        """Use what lies at the path of a secondary that is absent, or lies there no more."""
        before = pair.copy_of
        path = before.path
        leg, judgement = await self.open(pair, SECONDARY)

        def use() -> None:
            same = pair.secondary is before and before.path == path
            written = pair.state == pair_states.PENDING or self._followers.is_on_its_way(pair)
            if written and not isinstance(before, AbsentLeg):
                raise WrongStateError(f"{pair.name}: {path} is being written just now; try again")
            if not same or pair.name not in self._config().volumes:
                raise WrongStateError(f"{pair.name}: a reload replaced {path}; try again")
            self._use_secondary(pair, leg, judgement)

        if known_only and not judgement.current:
            await self._opener.close(leg)
            raise WrongStateError(
                f"{judgement.why}; `duplexctl resync {pair.name}` takes it for the new secondary"
            )
        try:
            # No worker may be using an image that is about to be closed.
            async with self._checkpointer.no_syncs(), self._followers.stepping:
                await self._timeline.at_rest(use)
        except WrongStateError:
            await self._opener.close(leg)
            raise
        await self._opener.close(before)
        if pair.record.secondary_image is None:
            # If the former image is put back while this one is copied to, a start has to notice.
            try:
                await self._checkpointer.checkpoint()
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                why = f"no checkpoint could record {leg.path}: {where}{_text(error)}"
                raise WrongStateError(f"{pair.name}: {why}") from error

    def _use_secondary(self, pair: Pair, leg: Leg, judgement: Judgement) -> None:
        pair.set_legs(pair.primary, leg, pair.mode)
        if not judgement.current or pair.record.secondary_image is None:
            self.forget_content(pair, judgement.why or f"{leg.path}: a new image")

    def forget_content(self, pair: Pair, why: str) -> None:
        """The secondary holds something else than the journal says: a resync copies all of it."""
        timeline, record = self._timeline, pair.record
        timeline.ledger.use_images(record, record.primary_image, None)
        everything = record.full_map()
        if pair.state == pair_states.SUSPENDED and not (record.usable or record.rebuildable):
            timeline.append(Missed({pair.id: everything}))
        elif pair.state != pair_states.SIMPLEX:
            at = timeline.written if pair.state == pair_states.DUPLEX else pair.applied
            error = OSError(errno.ESTALE, why)
            self._failures.freeze({pair}, pair, at, error, {pair}, {pair: everything})

    # ------------------------------------------------------------------------------ whole volumes

    async def _serve(self, pair: Pair) -> None:
        """Serve a volume again whose primary is there again, and is the one of the journal."""
        checkpointer, is_served = self._checkpointer, False
        while not is_served:
            if why := await checkpointer.know():
                raise WrongStateError(f"{pair.name} is not served: {why}")
            taken = checkpointer.taken
            primary = await self.primary(pair, adopt=False)
            # The checkpoint by which it was judged stays the last one until it has all of it. One
            # under way would call durable what its syncs did not cover.
            async with self.recorded(pair), checkpointer.none(), checkpointer.copying:
                if is_served := checkpointer.is_known and checkpointer.taken == taken:
                    await self._bring_back(pair, primary)
                else:
                    await self._opener.close(primary)
        self._emit("volume-served", volume=pair.name, path=pair.primary.path, lost=None)

    async def _bring_back(self, pair: Pair, primary: Leg) -> None:
        await self._timeline.at_rest(lambda: self.use_primary(pair, primary))
        try:
            await self._replay(pair)
        except (DamageError, LookupError, OSError) as error:
            of_journal = isinstance(error, JournalHungError)
            why = _text(error) if of_journal else f"{primary.path}: {_text(error)}"
            await self._timeline.at_rest(lambda: self._put_aside(pair, why))
            advice = "`duplexctl adopt` takes it as it is"
            advice = "try again once that disk answers" if of_journal else advice
            raise WrongStateError(f"{pair.name} is not served: {why}; {advice}") from error
        await self._timeline.at_rest(lambda: self.begin_to_serve(pair))

    @asynccontextmanager
    async def recorded(self, pair: Pair) -> AsyncIterator[None]:
        """Around `begin_to_serve`: no client writes to an image that is new before a checkpoint has
        recorded it. A start that finds another one in its place could not know.
        """
        if pair.record.primary_image is not None:
            yield
            return
        self._gates.close_gates([pair])
        try:
            yield
            with suppress(OSError, DuplexdError):  # it is reported, and tried again
                await self._checkpointer.checkpoint()
        finally:
            self._gates.open_gates([pair])

    def use_primary(self, pair: Pair, primary: Leg) -> None:
        pair.set_legs(primary, pair.secondary, pair.mode)

    def _put_aside(self, pair: Pair, why: str) -> None:
        """The image is not used after all: another attempt has to be able to open it."""
        leg, absent = pair.primary, gone(pair.primary.path, pair.size, why)
        pair.failed = why
        pair.set_legs(absent, pair.secondary, pair.mode)
        self._opener.close_later(leg)

    async def _replay(self, pair: Pair) -> None:
        """Bring the primary to the last number. No change of this volume comes meanwhile."""
        # A start that finds what this writes, or a client after it, may have no other record of it.
        await self._timeline.at_rest(lambda: self._timeline.append(Regions({}, late=(pair.id,))))
        await self._timeline.durable()
        if pair.lacks is not None and not pair.lacks.records:
            return
        # What it has applied by then may be older than what the image held. The next checkpoint,
        # which waits for the end of this (`copying`), lets the journal drop these records again.
        self._checkpointer.keep_from(pair.record.primary_at)
        tail, watch = self._timeline.written, Watch[Noted]()
        replay = PrimaryReplay(self._timeline.writer.ring, self._chunk_bytes, watch)
        seconds = self._opener.seconds(PRIMARY)
        run = partial(replay.run, [pair], tail, ignore)
        try:
            refused = await patiently(self._workers, watch, run, lambda _what: seconds)
        except HungError as hung:
            raise_if_of_state(hung)
            raise
        for error in refused.values():
            raise error

    async def leave(self, *images: Leg | None) -> None:
        """Images that were opened are not used after all: another attempt has to be able to."""
        for leg in images:
            if leg is not None:
                await self._opener.close(leg)

    def begin_to_serve(self, pair: Pair) -> None:
        """Its legs may differ in the regions that were open when it was served last."""
        if pair.halfway is not None:  # it is brought to no number any more
            why, missed = pair.halfway
            at = self._timeline.written if pair.state == pair_states.DUPLEX else pair.applied
            error = OSError(errno.EIO, why)
            self._failures.freeze({pair}, pair, at, error, {pair}, {pair: missed})
        self._failures.served(pair)
        pair.primary_dirty = True
        if pair.secondary is not None and pair.state == pair_states.SIMPLEX:
            images = Images(pair.primary, pair.secondary)
            introduce(self._timeline, pair.name, pair.mode, images, pair)
        if pair.secondary is not None and pair.regions.open:  # more, where it was replayed
            self._timeline.append(Regions({pair.id: sorted(pair.regions.open)}))
        changed = pair.new_map()
        for offset, length in pair.regions.ranges(pair.size):
            changed.set(offset, length)
        if changed.any() and pair.state == pair_states.DUPLEX and pair.record.horizon is not None:
            changed.set_all()  # it lacks what it may not get yet, too
        if (why := why_absent(pair.secondary)) and pair.state == pair_states.DUPLEX:
            error, at = OSError(errno.EIO, why), self._timeline.written
            self._failures.freeze({pair}, pair, at, error, {pair}, {pair: changed})
        elif pair.state == pair_states.DUPLEX and changed.any():
            self._timeline.append(Copy({pair.id: changed}, pair_states.UNCLEAN_STOP))
        elif pair.state == pair_states.SUSPENDED and changed.any():
            self._timeline.append(Missed({pair.id: changed}))
        self._followers.adopt([pair])

    # ------------------------------------------------------------------------------------- opening

    async def primary(self, pair: Pair, adopt: bool) -> Leg:
        """The image at the path of the primary. Raises WrongStateError if it cannot be used.

        One that failed while the daemon ran is still open, and locked: it is closed first.
        """
        if not why_absent(pair.primary):
            failed, absent = pair.primary, gone(pair.primary.path, pair.size, pair.failed)
            await self._timeline.at_rest(lambda: self.use_primary(pair, absent))
            await self._opener.close(failed)
        leg, judgement = await self.open(pair, PRIMARY, adopt)
        if not judgement.current and not adopt:
            await self._opener.close(leg)
            raise WrongStateError(
                f"{pair.name} is not served: {judgement.why}; `duplexctl adopt {pair.name}` takes "
                "this image as it is"
            )
        return leg

    async def open(self, pair: Pair, role: str, adopt: bool = False) -> tuple[Leg, Judgement]:
        """The image of a role, and what it is. Raises WrongStateError if it cannot be used, or
        belongs to another volume.
        """
        volume, record = self._config().volumes[pair.name], pair.record
        at, other = places(volume, record.swapped)
        place = at if role == PRIMARY or other is None else other
        before = pair.primary if role == PRIMARY else pair.copy_of
        # As a start does: it may have become longer for a volume that did not grow after all.
        longest = may_have(volume, record, role)
        leg, _ = await self._opener.leg(place.path, pair.size, role, False, longest)
        if isinstance(leg, AbsentLeg):
            if isinstance(before, AbsentLeg):
                before.short = leg.short or before.short
            raise WrongStateError(f"{pair.name}: {why_absent(leg)}")
        try:
            known_then = _recorded(record, role)
            offsets = known_then.offsets if known_then is not None else ()
            if adopt and role == PRIMARY:
                await self._opener.look(leg, role, partial(as_on_the_medium, leg))
            found = await self._opener.look(leg, role, lambda: probe(leg, offsets))
        except OSError as error:
            await self._opener.close(leg)
            text = f"{pair.name}: {leg.path}: {_text(error)}"
            raise WrongStateError(text + (_instead(pair) if adopt else "")) from error
        timeline = self._timeline
        owner = timeline.writer.ring.controller.hex()
        ours = known(timeline.ledger, owner, timeline.written)
        # A checkpoint may have ended meanwhile: what it recorded goes with what is said of it.
        recorded, facts = _recorded(record, role), facts_of(pair, before)
        if role == PRIMARY and pair.lacks is not None:  # its samples are those that count
            facts = facts._replace(uncertain=())
        if recorded is not None and role == PRIMARY and pair.lacks is None and not facts.complete:
            if self._checkpointer.has_records(record):
                facts = await self._by_records(pair, recorded, facts)
            elif record.swaps and recorded.sampled_at != self._checkpointer.sequence:
                # It was the secondary, and has left its cut, for which it was sampled.
                facts = facts._replace(uncertain=EVERYTHING)
        judgement = judge(ours, recorded, found, facts)
        if judgement.current and isinstance(before, AbsentLeg) and before.short == found.place:
            judgement = Judgement(
                "changed", f"{before.path}: the image was truncated, and extended"
            )
        if is_of_others(ours, pair.name, found) and not adopt:
            await self._opener.close(leg)
            raise WrongStateError(judgement.why)
        return leg, judgement

    async def _by_records(self, pair: Pair, recorded: Image, facts: Facts) -> Facts:
        """The same of a primary that failed while the daemon ran, and was not copied to since the
        last checkpoint: each change that may be on it, or not, has a record, and says nothing of
        other blocks of its region.
        """
        ring, tail, watch = self._timeline.writer.ring, self._timeline.written, Watch[Noted]()
        first, chunk = min(pair.record.primary_at, recorded.sampled_at) + 1, self._chunk_bytes
        look = partial(touching, ring, pair, first, tail, recorded.offsets, chunk, watch)
        seconds = self._opener.seconds(PRIMARY)
        try:
            touched = await patiently(self._workers, watch, look, lambda _what: seconds)
        except HungError:
            return facts  # the replay says so
        return facts if touched is None else facts._replace(touched=touched, uncertain=())


def _recorded(record: PairRecord, role: str) -> Image | None:
    return record.primary_image if role == PRIMARY else record.secondary_image


def facts_of(pair: Pair, before: Leg) -> Facts:
    """What may have been written to an image that was absent. If it was there until something
    failed, its last changes may be on it or not.
    """
    if isinstance(before, AbsentLeg) and before.settled:
        return Facts()
    where = uncertain(pair.record, pair.state)
    return Facts(writing="anything", uncertain=where, complete=False)


def _lacks_secondary(pair: Pair) -> bool:
    """Whether it is not served, and what could be rolled forward is absent."""
    suspended = bool(pair.failed) and pair.state == pair_states.SUSPENDED
    return suspended and bool(why_absent(pair.secondary))


def _instead(pair: Pair) -> str:
    """What to do about a primary that is not adopted."""
    nothing = "; nothing was changed"
    if pair.secondary is None or isinstance(pair.secondary, AbsentLeg):
        return nothing
    return f"{nothing}; `duplexctl swap {pair.name}` says what its secondary has"


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
