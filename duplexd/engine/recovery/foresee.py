"""What a start would find in the state directory, found without changing anything there.

It reads the checkpoint and the journal by the code of the start itself, through a disk that locks,
creates and removes nothing, and asks of each volume what the start asks: also whether its images
are those of the journal, as it left them (`foreseen_images.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from duplexd.core import pair_states
from duplexd.core.ledger import Ledger
from duplexd.core.since import Since
from duplexd.core.since import known as known_images
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.opening import places, why_refused, would_overwrite
from duplexd.engine.recovery.foreseen_images import Judge
from duplexd.engine.recovery.read import fold, is_complete, refuse_journal_alone
from duplexd.engine.recovery.recovered import refuse_missing_volumes
from duplexd.errors import ConfigurationError, DamageError
from duplexd.journal.inspect import WHY, Untouched
from duplexd.journal.recover import Position, Walk
from duplexd.journal.scan import DAMAGE
from duplexd.journal.segment import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import PairRecord
    from duplexd.engine.recovery.foreseen_images import Look
    from duplexd.limits import EngineLimits
    from duplexd.runtime.disk import Disk


class Foreseen(NamedTuple):
    """`refused`: why no start is possible with this configuration. `degraded`: what costs a volume
    something; with `on_start_error = "refuse"` no start is possible then either. `exchanged`:
    pairs whose roles a start exchanges, as their images lie; that keeps none from starting.
    """

    refused: list[str]
    degraded: list[str]
    exchanged: list[str]


class Seen(NamedTuple):
    """What is asked of the paths of images."""

    exists: Callable[[str], bool]
    look: Look


class _Journal(NamedTuple):
    """`unapplied`: numbers of volumes with changes that are not on their images yet. `owner`: the
    identity of the controller; "" for one that has not run yet. `end`: its last number. The rest as
    of `ReadJournal`.
    """

    ledger: Ledger
    unapplied: set[int]
    owner: str
    since: Since
    end: int = 0
    complete: bool = False


def foresee(disk: Disk, config: Config, seen: Seen, boot_id: str, limits: EngineLimits) -> Foreseen:
    """Blocking. Raises DamageError, OSError, as the start would."""
    journal = _read(disk, str(config.controller.state_dir), boot_id, limits)
    ledger = journal.ledger
    refused: list[str] = []
    try:
        refuse_missing_volumes(config, ledger, journal.unapplied)
    except ConfigurationError as error:
        refused.append(str(error))
    known = ledger.known()
    degraded = [
        line
        for name, volume in config.volumes.items()
        for line in _of_volume(name, volume, known.get(name), seen.exists)
    ]
    judge = Judge(
        known_images(ledger, journal.owner, journal.end),
        journal.since,
        journal.complete,
        seen.look,
        config.controller.on_primary_error == "swap",
    )
    exchanged: list[str] = []
    for name, volume in config.volumes.items():
        if not why_refused(name, volume, known.get(name)):
            found = judge.of(name, volume, known.get(name))
            degraded += found.faults
            exchanged += found.exchanged
    return Foreseen(refused, degraded, exchanged)


def _read(disk: Disk, state_dir: str, boot_id: str, limits: EngineLimits) -> _Journal:
    file, ledger = CheckpointFile(disk, state_dir), Ledger(limits)
    directory = f"{state_dir}/journal"
    if not file.exists():
        if disk.exists(directory):
            refuse_journal_alone(disk, file, directory)
        return _Journal(ledger, set(), "", Since(ledger, 0, 0))
    saved = file.read()
    ledger.restore(saved)
    untouched = cast("Disk", Untouched(disk))  # as much of one as a walk uses
    identity = bytes.fromhex(saved["controller"])
    ring = Ring(untouched, directory, identity, saved["segment_size"], 0)
    if disk.exists(directory):
        ring.open_existing()
    since = Since(ledger, saved["sequence"], saved.get("time", 0))
    if not ring.live and not saved["sequence"]:
        return _Journal(ledger, set(), saved["controller"], since)
    start = Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"])
    walk = Walk(ring, start)
    unapplied = fold(walk, ledger, since, lambda _done_bytes: None)
    if walk.verdict() == DAMAGE:
        path, offset = walk.end
        raise DamageError(f"{path} byte {offset}: {WHY[DAMAGE].format(walk.sequence + 1)}")
    complete = is_complete(ledger.boot, boot_id, saved, file)
    return _Journal(ledger, unapplied, saved["controller"], since, walk.sequence, complete)


def _of_volume(
    name: str, volume: VolumeConfig, known: PairRecord | None, exists: Callable[[str], bool]
) -> Iterator[str]:
    if why := why_refused(name, volume, known):
        yield why
        return
    at, other = places(volume, known is not None and known.swapped)
    if known is None:
        if other is not None and exists(other.path) and not exists(at.path):
            yield would_overwrite(name, at, other)
        return
    if not exists(at.path):
        yield f"volumes.{name}.{at.key}: {at.path}: the image is missing"
    may_be_new = known.state == pair_states.SIMPLEX
    if other is not None and not may_be_new and not exists(other.path):
        yield (
            f"volumes.{name}.{other.key}: {other.path}: the image is missing, the pair is "
            f"{known.state}: it would be SUSPENDED; only a reload of a daemon that runs makes a "
            "new image for it"
        )
