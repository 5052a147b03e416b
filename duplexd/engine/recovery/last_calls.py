"""The calls on the state directory that end a start, each with its time-out.

Until the markers of the start are durable nobody is served, so a disk that does not answer would
keep the daemon in its start for ever, and nobody would learn why. The start ends instead, with an
error that names the path, and the service manager begins another. An image that hangs here is given
up, as in the replay.

With `on_start_error = "refuse"` one that fails here ends the start, too. Before the markers are
written, nothing was said in the journal. After that the failure is recorded, as one of a daemon
that serves: the next start finds that pair SUSPENDED, and is not refused for it.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from duplexd.core.pair_states import SUSPENDED
from duplexd.core.patience import Patience
from duplexd.engine.recovery.image_faults import Fault
from duplexd.engine.recovery.recovered import give_up, refuse
from duplexd.engine.recovery.room import ensure_room
from duplexd.journal.tally import PLACE, Tally, pack
from duplexd.replication.leg_calls import JournalHungError, StagingHungError, raise_if_of_state
from duplexd.runtime.watch import LOOK_SECONDS, HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Pair
    from duplexd.core.patience import OfState
    from duplexd.engine.checkpoint_on_disk import CheckpointFile
    from duplexd.engine.recovery.image_faults import Noted, Side
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.journal.writer import Writer
    from duplexd.limits import EngineLimits
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.tally_file import TallyFile
    from duplexd.runtime.tasks import Steps
    from duplexd.runtime.threads import Workers

T = TypeVar("T")


class EndOfStart:
    """Of one start. `waits_s`: how long the journal has not answered a write or a sync."""

    def __init__(
        self,
        recovered: Recovered,
        config: Config,
        workers: Workers,
        steps: Steps,
        waits_s: Callable[[], float],
    ) -> None:
        self._recovered = recovered
        self._config = config
        self._settings = config.controller
        self._refuses = config.controller.on_start_error == "refuse"
        self._workers = workers
        self._steps = steps
        self._waits_s = waits_s

    async def keep_tally(self, writer: Writer, file: TallyFile | None, boot_id: str) -> None:
        """From now on, before this start writes anything to the journal (`journal/tally.py`)."""
        if file is None or not boot_id:
            return
        recovered, ledger = self._recovered, self._recovered.journal.ledger
        start = ledger.ahead.next_start(ledger.starts)
        tally = Tally(start, not recovered.lost, writer.written, writer.chain)
        begin = partial(file.begin, pack(tally, writer.ring.controller, boot_id))
        kept = await self._steps.do(self._workers.run(begin))
        if kept is not None:
            writer.tally = kept[PLACE:]

    async def make_room(self, writer: Writer, file: CheckpointFile, limits: EngineLimits) -> None:
        """See `ensure_room`; again without each image that hangs. Raises JournalHungError too, and
        OSError of an image that fails if the start is to be refused then.
        """
        while True:
            watch: Watch[Noted] = Watch()
            call = partial(ensure_room, self._recovered, writer, file, limits, watch)
            try:
                await self._steps.do(patiently(self._workers, watch, call, self._seconds))
            except HungError as hung:
                raise_if_of_state(hung)
                self._give_up(cast("Side", hung.what), hung)
            else:
                break
        if self._refuses:  # others were looked at before
            refuse(self._config, self._recovered.faults, adopt=True)

    async def checkpoint(self, take: Awaitable[object], pairs: Sequence[Pair]) -> None:
        """The checkpoint that ends the start, which syncs the images. Raises OSError of one that
        fails if the start is to be refused then.
        """
        sound = [pair for pair in pairs if _is_sound(pair)]
        await self.written(take)
        for pair in sound:
            if self._refuses and not _is_sound(pair):
                why = pair.failed or (pair.cut.why if pair.cut is not None else "")
                text = f"volumes.{pair.name}: {why or 'an image failed'}; the pair is {pair.state}"
                raise OSError(errno.EIO, text)

    def _seconds(self, noted: Noted) -> float:
        settings = self._settings
        patience = Patience(settings.secondary_timeout, settings.primary_timeout)
        return patience.seconds(noted.use)

    def _give_up(self, side: Side, hung: HungError) -> None:
        text = f"{side.leg.path}: {hung.strerror}"
        self._recovered.faults.add(side, Fault(OSError(hung.errno, text)))
        ledger, record = self._recovered.journal.ledger, side.pair.record
        give_up(ledger, side, record.secondary_at, hung)

    async def written(self, work: Awaitable[T]) -> T:
        """The result of `work`, whose only waits without a time-out are those for the journal.
        Raises JournalHungError when a write or a sync of that takes too long. One that waits for
        room is not one that hangs.
        """
        running = asyncio.ensure_future(self._steps.do(work))
        seconds = self._settings.primary_timeout
        try:
            while not running.done():
                await asyncio.wait((running,), timeout=LOOK_SECONDS)
                if not running.done() and self._waits_s() >= seconds:
                    path = self._recovered.journal.ring.directory
                    why = f"the disk has not answered for {seconds:g} s"
                    text = f"{path}: the journal cannot be written: {why}"
                    raise JournalHungError(errno.ETIMEDOUT, text, path)
            return running.result()
        finally:
            running.cancel()

    async def clear(self, staging: StagingArea) -> None:
        """Remove the staging logs. Raises StagingHungError."""
        watch: Watch[OfState] = Watch()
        seconds = self._settings.primary_timeout
        call = partial(staging.clear, watch)
        try:
            await self._steps.do(patiently(self._workers, watch, call, lambda _what: seconds))
        except HungError as hung:
            raise_if_of_state(hung)
            raise


def _is_sound(pair: Pair) -> bool:
    return not pair.failed and pair.state != SUSPENDED


def leave(recovered: Recovered, steps: Steps, workers: Workers, error: BaseException) -> None:
    """Close what a start has open that ends with `error`. What hangs may hang in that, too."""
    if isinstance(error, JournalHungError | StagingHungError):
        workers.submit(recovered.close, _whatever)
    else:
        steps.afterwards(recovered.close)


def _whatever(_result: None, _error: BaseException | None) -> None:
    """The start has ended without it."""
