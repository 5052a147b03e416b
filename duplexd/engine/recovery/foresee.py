"""What a start would find in the state directory, found without changing anything there.

It reads the checkpoint and the journal by the code of the start itself, through a disk that locks,
creates and removes nothing, and asks of each volume what the start asks, also whose images the
marks say they are. That the content of one is not that of the journal, the start finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from duplexd.core import pair_states
from duplexd.core.identity import judge_mark
from duplexd.core.ledger import Ledger
from duplexd.core.since import Since
from duplexd.core.since import known as known_images
from duplexd.engine.checkpoint import CheckpointFile
from duplexd.engine.opening import places, why_refused, would_overwrite
from duplexd.engine.recovery.read import fold, refuse_journal_alone
from duplexd.engine.recovery.recovered import refuse_missing_volumes
from duplexd.errors import ConfigurationError, DamageError
from duplexd.journal.inspect import WHY, Untouched
from duplexd.journal.recover import Position, Walk
from duplexd.journal.scan import DAMAGE
from duplexd.journal.segment import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.identity import Known
    from duplexd.core.pair import PairRecord
    from duplexd.images.probe import Mark
    from duplexd.limits import EngineLimits
    from duplexd.runtime.disk import Disk


class Foreseen(NamedTuple):
    """`refused`: why no start is possible with this configuration. `degraded`: what costs a volume
    something; with `on_start_error = "refuse"` no start is possible then either.
    """

    refused: list[str]
    degraded: list[str]


class Seen(NamedTuple):
    """What is asked of the paths of images. `mark`: None where there is none, or no image."""

    exists: Callable[[str], bool]
    mark: Callable[[str], Mark | None]


def foresee(disk: Disk, config: Config, seen: Seen, limits: EngineLimits) -> Foreseen:
    """Blocking. Raises DamageError, OSError, as the start would."""
    ledger, unapplied, owner = _read(disk, str(config.controller.state_dir), limits)
    refused: list[str] = []
    try:
        refuse_missing_volumes(config, ledger, unapplied)
    except ConfigurationError as error:
        refused.append(str(error))
    known = ledger.known()
    degraded = [
        line
        for name, volume in config.volumes.items()
        for line in _of_volume(name, volume, known.get(name), seen.exists)
    ]
    ours = known_images(ledger, owner)
    degraded += [
        line
        for name, volume in config.volumes.items()
        for line in _of_others(name, volume, known.get(name), ours, seen.mark)
    ]
    return Foreseen(refused, degraded)


def _read(disk: Disk, state_dir: str, limits: EngineLimits) -> tuple[Ledger, set[int], str]:
    """The states, the numbers of volumes with changes that are not on their images yet, and the
    identity of the controller; "" for one that has not run yet.
    """
    file, ledger = CheckpointFile(disk, state_dir), Ledger(limits)
    directory = f"{state_dir}/journal"
    if not file.exists():
        if disk.exists(directory):
            refuse_journal_alone(disk, file, directory)
        return ledger, set(), ""
    saved = file.read()
    ledger.restore(saved)
    untouched = cast("Disk", Untouched(disk))  # as much of one as a walk uses
    identity = bytes.fromhex(saved["controller"])
    ring = Ring(untouched, directory, identity, saved["segment_size"], 0)
    if disk.exists(directory):
        ring.open_existing()
    if not ring.live and not saved["sequence"]:
        return ledger, set(), saved["controller"]
    start = Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"])
    walk = Walk(ring, start)
    since = Since(ledger, saved["sequence"], saved.get("time", 0))
    unapplied = fold(walk, ledger, since, lambda _done_bytes: None)
    if walk.verdict() == DAMAGE:
        path, offset = walk.end
        raise DamageError(f"{path} byte {offset}: {WHY[DAMAGE].format(walk.sequence + 1)}")
    return ledger, unapplied, saved["controller"]


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


def _of_others(
    name: str,
    volume: VolumeConfig,
    known: PairRecord | None,
    ours: Known,
    mark_of: Callable[[str], Mark | None],
) -> Iterator[str]:
    """Images that are in use elsewhere, or were left by a reload: a start does not use them."""
    at, other = places(volume, known is not None and known.swapped)
    recorded = (known.primary_image, known.secondary_image) if known is not None else (None, None)
    for place, image in zip((at, other), recorded, strict=True):
        mark = mark_of(place.path) if place is not None else None
        if place is None or mark is None:
            continue
        if (wrong := judge_mark(ours, image, place.path, mark)) is not None:
            yield f"volumes.{name}.{place.key}: {wrong.why}"
