"""`recover` reads the journal, opens the images and applies the records; returns it as one value.

A value, not a half-built controller: what recovery found can be tested without one, and there is a
single place that closes everything if a later step fails.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from duplexd.core.identity import away, newer
from duplexd.core.image_record import loosened
from duplexd.core.ledger import UNCOMMITTED, Ledger
from duplexd.core.pair import Pair
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.patience import JournalRead, OfState, Patience
from duplexd.core.rollback import closed
from duplexd.engine.checkpoint_on_disk import forget_mount
from duplexd.engine.opening import (
    PRIMARY,
    SECONDARY,
    Images,
    Opener,
    absent,
    places,
    why_absent,
)
from duplexd.engine.recovery import left_behind
from duplexd.engine.recovery.image_faults import Fault, Faults, Side
from duplexd.engine.recovery.judging import Judged, Judging, changed
from duplexd.engine.recovery.primary_replay import lacking
from duplexd.engine.recovery.progress import JOURNAL, OPENING
from duplexd.engine.recovery.read import ReadJournal, read_journal
from duplexd.engine.recovery.replay import Replay, unreachable
from duplexd.errors import ConfigurationError
from duplexd.images.absent import AbsentLeg
from duplexd.journal.tally import SIZE as TALLY_BYTES
from duplexd.replication.leg_calls import JournalHungError, StagingHungError, raise_if_of_state
from duplexd.runtime.tasks import Steps
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Lacks
    from duplexd.engine.checkpoint_on_disk import CheckpointFile
    from duplexd.engine.recovery.image_faults import Noted
    from duplexd.engine.recovery.progress import Report
    from duplexd.limits import EngineLimits
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.tally_file import TallyFile
    from duplexd.runtime.threads import Workers

T = TypeVar("T")

_CHUNK_BYTES = 1 << 20  # of the journal, read at once


class Recovered(NamedTuple):
    """`pairs`: volumes that the journal knows, by name. `images`: of all volumes, in the order of
    the configuration; the pairs have the legs. `faults`: images that are not what the journal says
    of them. `uncompared`: pairs whose legs may differ in their open regions, or anywhere, because
    nothing is known of the secondary. `adopted`: those whose primaries were taken as they are, with
    the changes that are given up so. `ahead`: for the marker of this start, see `identity.Known`.
    """

    journal: ReadJournal
    pairs: dict[str, Pair]
    images: dict[str, Images]
    faults: Faults
    uncompared: set[Pair]
    judged: dict[str, Judged]
    adopted: dict[Pair, Lacks | None]
    ahead: int

    @property
    def lost(self) -> bool:
        """Whether changes that were acknowledged may be missing. An older copy of the state
        directory is whole in itself.
        """
        return self.journal.lost or self.ahead > 0

    def close(self) -> None:
        """Close the images and the journal."""
        for name, images in self.images.items():
            if name not in self.pairs:
                images.close()
        for pair in self.pairs.values():
            pair.close()
        self.journal.ring.close()


class _Work:
    """What is open so far, known here also if the start is cancelled meanwhile."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        staging: StagingArea,
        workers: Workers,
        limits: EngineLimits,
        progress: Report,
        adopt: bool,
    ) -> None:
        self._adopt = adopt
        self._config = config
        self._staging = staging
        self._workers = workers
        self._limits = limits
        self._progress = progress
        self._opener = Opener(disk, workers, config.controller)
        self._replay: Replay | None = None
        self.journals: list[ReadJournal] = []
        self.opened: dict[str, Images] = {}
        self.pairs: dict[str, Pair] = {}
        self.judged: dict[str, Judged] = {}
        self.ahead = 0
        self.adopted: dict[Pair, Lacks | None] = {}
        self.faults = Faults()
        self.unproven: set[Pair] = set()  # their secondaries may be any image
        self.uncompared: set[Pair] = set()
        self.brought_along = set[int]()  # delayed ones that do not stay behind, by number

    async def open(self, journal: ReadJournal) -> None:
        """Open the images of all volumes, and judge them; a pair for each volume that the journal
        knows.
        """
        known, volumes = journal.ledger.known(), self._config.volumes
        refuse_missing_volumes(self._config, journal.ledger, journal.unapplied)
        self._progress(OPENING, 0, 0)
        await self._opener.all(volumes, known, self.opened)
        self.opened = {name: self.opened[name] for name in volumes}
        modes = {
            name: left_behind.mode(known.get(name), each.mode) for name, each in volumes.items()
        }
        judging = Judging(journal, self._opener, self._adopt)
        self.judged = await judging.all(self.opened, known, modes)
        self.ahead = judging.ahead
        for name, judged in self.judged.items():
            images = self.opened[name] = judged.images
            if name in known:
                record = known[name]
                pair = Pair(record, images.primary, images.secondary, modes[name])
                self.pairs[name] = pair
                if judged.exchanged:
                    journal.ledger.exchange_keys(record)
                await self._take(journal, pair, judged)
        is_short = left_behind.is_short(journal, self._limits)
        inexact = {
            pair
            for pair in self.pairs.values()
            if not left_behind.is_exact(journal, pair.record, is_short)
        }
        self.uncompared = self.unproven | inexact
        for pair in self.uncompared if is_short else inexact:
            journal.ledger.follows_to_the_tail(pair.record)
            self.brought_along.add(pair.id)
        self.refuse_faults()

    def refuse_faults(self) -> None:
        """With `on_start_error = "refuse"`: raises ConfigurationError for an image that cannot be
        used or is not the one of the journal, OSError for one that failed. Nothing was said in the
        journal yet, so another start finds the same, and applies again what was applied.
        """
        if self._config.controller.on_start_error != "refuse":
            return
        known = {name: pair.record for name, pair in self.pairs.items()}
        self._opener.refuse_absent(self._config.volumes, known, self.opened)
        refuse(self._config, self.faults, self._adopt)

    async def _take(self, journal: ReadJournal, pair: Pair, judged: Judged) -> None:
        """Draw the first conclusions from what was found."""
        ledger, record = journal.ledger, pair.record
        lost = judged.primary or unreachable(journal, record.primary_at)
        if lost and self._adopt and not why_absent(pair.primary):
            watch: Watch[OfState] = Watch()
            look = partial(lacking, journal.ring, pair, journal.tail.sequence, _CHUNK_BYTES, watch)
            self.adopted[pair] = await self.answered(watch, look)
            ledger.primary_holds(record, journal.tail.sequence)
            theirs = None if judged.secondary else record.secondary_image
            ledger.use_images(record, None, theirs)
        elif judged.primary:
            self.faults.add(Side(pair, PRIMARY), Fault(changed(judged.primary)))
        if judged.secondary:
            self.faults.add(Side(pair, SECONDARY), Fault(changed(judged.secondary)))
        elif record.secondary_image is None:
            self._compare_place(pair)
        elif judged.unproven and not (record.state == SUSPENDED and record.usable):
            # As if no checkpoint had recorded it: another disk may lie there since one failed.
            ledger.use_images(record, record.primary_image, None)
            self.unproven.add(pair)

    def _compare_place(self, pair: Pair) -> None:
        """Where no more is known of a secondary, one at another path than before is another."""
        volume, before = self._config.volumes[pair.name], pair.record.secondary_path
        if before not in ("", str(volume.primary), str(volume.secondary)) and pair.secondary:
            path, state = pair.secondary.path, pair.state
            why = f"{path} is not the secondary that the journal knows: {before}, {state}"
            self.faults.add(Side(pair, SECONDARY), Fault(OSError(errno.ESTALE, why)))

    async def replay(self, journal: ReadJournal) -> None:
        """Apply the records; once more for each image that hangs, without it. Raises
        JournalHungError, StagingHungError.
        """
        settings = self._config.controller
        pairs = [pair for name, pair in self.pairs.items() if not self.opened[name].refused]
        holds = {pair: pair.applied for pair in pairs}
        patience = Patience(settings.secondary_timeout, settings.primary_timeout)

        while True:
            watch: Watch[Noted] = Watch()
            replay = self._replay = Replay(
                journal, holds, self.faults, self._staging, self._limits, self._progress, watch
            )
            try:
                await patiently(
                    self._workers, watch, replay.run, lambda noted: patience.seconds(noted.use)
                )
            except HungError as error:
                raise_if_of_state(error)
                side = cast("Side", error.what)
                give_up(journal.ledger, side, holds[side.pair], error)
            else:
                self._leave_failed(journal)
                return

    def _leave_failed(self, journal: ReadJournal) -> None:
        """What the journal has for primaries that failed in the replay may be on them, or not, at
        any time. Samples of other blocks still tell an older copy from them.
        """
        for pair in self.pairs.values():
            record, leg = pair.record, pair.primary
            is_left = isinstance(leg, AbsentLeg) and leg.settled  # by who judged it
            if pair.lacks is None or is_left or record.primary_image is None:
                continue
            facts, _ = journal.since.facts(record, journal.complete, mirrors=True)
            left = away(record.primary_image, facts)._replace(loose=True)
            journal.ledger.use_images(record, left, record.secondary_image)

    async def answered(self, watch: Watch[OfState], call: Callable[[], T]) -> T:
        """The result of a call that uses the files of the state directory, and notes so in `watch`.
        Raises what it raises; JournalHungError when one of them does not answer.
        """
        seconds = self._config.controller.primary_timeout
        try:
            return await patiently(self._workers, watch, call, lambda _what: seconds)
        except HungError as hung:
            raise_if_of_state(hung)
            raise

    async def read(
        self,
        disk: Disk,
        file: CheckpointFile,
        boot_id: str,
        limits: EngineLimits,
        tally: TallyFile | None,
    ) -> ReadJournal:
        """Read the journal. It is one call that lasts, so each sign of progress is another one."""
        settings, watch = self._config.controller, Watch[OfState]()
        note = JournalRead(f"{settings.state_dir}/journal")

        def progress(stage: str, done: int, total: int) -> None:
            watch.leave()
            watch.enter(note)
            self._progress(stage, done, total)

        def read() -> None:
            with watch.at(note):
                said = b"" if tally is None else tally.read(TALLY_BYTES)
                self.journals.append(
                    read_journal(disk, file, settings, boot_id, limits, progress, said)
                )

        await self.answered(watch, read)
        return self.journals[-1]

    async def loosen(self, file: CheckpointFile, journal: ReadJournal) -> None:
        """What a start that dies in the replay leaves on the images is not held against them. It
        may die of the journal, whose sync tells of lost records once. Nor does the next one keep a
        secondary behind that this one brings along. That the state directory is an older copy is
        noted before the journal becomes longer.
        """
        loose = forget_mount(loosened(journal.saved, newer(journal.ledger.pairs.values())))
        loose["ahead"] = journal.ledger.ahead.pack()
        loose = left_behind.brought_along(loose, self.brought_along)
        watch: Watch[OfState] = Watch()

        def replace() -> None:
            with watch.at(JournalRead(journal.ring.directory)):
                file.replace(loose)

        await self.answered(watch, replace)

    def close(self) -> None:
        """Close everything; a replay that runs ends soon."""
        for name, images in self.opened.items():
            if name not in self.pairs:
                images.close()
        for pair in self.pairs.values():
            pair.close()
        for journal in self.journals:
            journal.ring.close()

    def give_up(self) -> None:
        """Let a replay that runs end soon."""
        if self._replay is not None:
            self._replay.give_up()


async def recover(
    config: Config,
    disk: Disk,
    file: CheckpointFile,
    staging: StagingArea,
    boot_id: str,
    workers: Workers,
    limits: EngineLimits,
    progress: Report,
    adopt: bool = False,
    tally: TallyFile | None = None,
) -> Recovered:
    """Everything up to the point where the journal can be written again. `adopt`: primaries that
    are not the images of the journal are taken as they are. `tally`: see `journal/tally.py`.

    Raises DamageError, ConfigurationError, OSError, with nothing left open; JournalHungError or
    StagingHungError if the disk of the state directory does not answer. If cancelled, nothing
    is once the worker has ended what it is at, which is not waited for.
    """
    steps = Steps()
    work = _Work(config, disk, staging, workers, limits, progress, adopt)

    try:
        progress(JOURNAL, 0, 0)
        journal = await steps.do(work.read(disk, file, boot_id, limits, tally))
        await steps.do(work.open(journal))
        await steps.do(work.loosen(file, journal))
        await steps.do(work.replay(journal))
        work.refuse_faults()
    except (JournalHungError, StagingHungError):
        workers.submit(work.close, _whatever)  # it may hang, too
        raise
    except BaseException:
        work.give_up()
        steps.afterwards(work.close)
        raise
    return Recovered(
        journal, work.pairs, work.opened, work.faults, work.uncompared, work.judged, work.adopted,
        work.ahead,
    )  # fmt: skip


def _whatever(_result: None, _error: BaseException | None) -> None:
    """The start has ended without it."""


def give_up(ledger: Ledger, side: Side, holds: int, error: HungError) -> None:
    """Go on without an image that hangs: the thread in it has the file open, which closes itself
    when that thread ends. `holds`: what its pair's secondary holds durably.
    """
    leg, pair = side.leg, side.pair
    gone = absent(leg.path, leg.size, error.strerror or str(error))
    if side.role == PRIMARY:
        pair.set_legs(gone, pair.secondary, pair.mode)
    else:
        pair.set_legs(pair.primary, gone, pair.mode)
        ledger.secondary_lacks(pair.record, holds)


def refuse(config: Config, faults: Faults, adopt: bool) -> None:
    """Raise the first of these, with its key. With `adopt` images are taken as they are."""
    for role in (PRIMARY, SECONDARY):
        for pair, fault in faults.of(role).items():
            number, why = fault.error.errno, fault.error.strerror or str(fault.error)
            first, second = places(config.volumes[pair.name], pair.record.swapped)
            key = (first if role == PRIMARY or second is None else second).key
            text = f"volumes.{pair.name}.{key}: {why}; the pair is {pair.state}"
            if number != errno.ESTALE:
                raise OSError(number, text)
            if not adopt:
                raise ConfigurationError(text)


def refuse_missing_volumes(config: Config, ledger: Ledger, unapplied: set[int]) -> None:
    """Raises ConfigurationError for a volume that is removed, but has changes to be applied, or is
    half-way back to a cut: the others of that rollback would be served without it, and if it came
    back, nothing would say what it holds, and its secondary would be copied over.
    """
    for name, record in ledger.known().items():
        if name in config.volumes:
            continue
        staged = record.staging not in ("", UNCOMMITTED)
        if record.id in unapplied or staged:
            raise ConfigurationError(
                f"volumes.{name}: missing from the configuration, but the journal has changes for "
                "it that are not on its images yet; put it back, start and stop the daemon once, "
                "then remove it"
            )
        if why := closed(record):
            raise ConfigurationError(
                f"volumes.{name}: missing from the configuration, but {why}; put it back, end the "
                "rollback, then remove it"
            )
