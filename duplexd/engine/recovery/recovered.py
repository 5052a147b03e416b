"""`recover` reads the journal, opens the images and applies the records; returns it as one value.

A value, not a half-built controller: what recovery found can be tested without one, and there is a
single place that closes everything if a later step fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.image_record import loosened
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.pair import Pair
from duplexd.engine.recovery.progress import JOURNAL, OPENING
from duplexd.engine.recovery.read import ReadJournal, read_journal
from duplexd.engine.recovery.replay import Replay, ReplayFailure
from duplexd.engine.volumes import Images, open_images
from duplexd.errors import ConfigurationError
from duplexd.runtime.tasks import Steps

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.engine.checkpoint import CheckpointFile
    from duplexd.engine.recovery.progress import Report
    from duplexd.limits import EngineLimits
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.threads import Workers


class Recovered(NamedTuple):
    """`pairs`: volumes that the journal knows, by name, and `known`: their images. `fresh`: images
    of volumes that the journal does not know yet. `failures`: secondaries that replay could not
    bring to where they should be.
    """

    journal: ReadJournal
    pairs: dict[str, Pair]
    known: dict[str, Images]
    fresh: dict[str, Images]
    failures: list[ReplayFailure]

    def close(self) -> None:
        """Close the images and the journal."""
        for images in (*self.known.values(), *self.fresh.values()):
            images.close()
        self.journal.ring.close()


async def recover(
    config: Config,
    disk: Disk,
    file: CheckpointFile,
    staging: StagingArea,
    boot_id: str,
    workers: Workers,
    limits: EngineLimits,
    progress: Report,
) -> Recovered:
    """Everything up to the point where the journal can be written again.

    Raises DamageError, ConfigurationError, OSError, with nothing left open. If cancelled, nothing
    is once the worker has ended what it is at, which is not waited for.
    """
    settings, steps = config.controller, Steps()
    journals: list[ReadJournal] = []  # the one that is open; known here also if cancelled meanwhile
    opened: dict[str, Images] = {}
    replay: Replay | None = None

    def close() -> None:
        for images in opened.values():
            images.close()
        for read in journals:
            read.ring.close()

    def read() -> None:
        journals.append(read_journal(disk, file, settings, boot_id, limits, progress))

    try:
        progress(JOURNAL, 0, 0)
        await steps.do(workers.run(read))
        journal = journals[0]
        progress(OPENING, 0, 0)
        await steps.do(workers.run(lambda: _open_images(disk, config, journal, opened)))
        known = journal.ledger.known()
        pairs = {
            name: Pair(known[name], images.primary, images.secondary, config.volumes[name].mode)
            for name, images in opened.items()
            if name in known
        }
        # from here on the images are written, and their times differ from what is recorded
        await steps.do(workers.run(lambda: file.replace(loosened(journal.saved))))
        replay = Replay(journal, list(pairs.values()), staging, limits, progress)
        failures = await steps.do(workers.run(replay.run))
    except BaseException:
        if replay is not None:
            replay.give_up()
        steps.afterwards(close)
        raise
    return Recovered(
        journal,
        pairs,
        {name: images for name, images in opened.items() if name in pairs},
        {name: images for name, images in opened.items() if name not in pairs},
        failures,
    )


def _open_images(
    disk: Disk, config: Config, journal: ReadJournal, opened: dict[str, Images]
) -> None:
    """Open what is configured, into `opened`: the caller closes it, whatever is raised."""
    known = journal.ledger.known()
    for name, record in known.items():
        staged = record.staging not in ("", UNCOMMITTED)
        if name not in config.volumes and (record.id in journal.unapplied or staged):
            raise ConfigurationError(
                f"volumes.{name}: missing from the configuration, but the journal has changes for "
                "it that are not on its images yet; put it back, start and stop the daemon once, "
                "then remove it"
            )
    for name, volume in config.volumes.items():
        opened[name] = open_images(disk, volume, name, known.get(name))
