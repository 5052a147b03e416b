"""The markers that a start writes after the replay, in one step at rest.

The order matters. Known volumes are introduced before failures suspend them. Failed primaries are
replaced before failed secondaries are suspended: they are secondaries then. Failures come before
the comparison after an unclean stop, because a failed secondary is copied as a whole anyway. OPEN
comes last: until it is written, a journal that ends in CLOSE still says that nothing was lost.

Every stop without a CLOSE is treated like a power cut, whatever boot the machine is on. A disk that
fails, is repaired and mounted again loses its un-synced writes without a boot, and the journal may
then lack changes that a leg has. Considered and rejected: to compare less by what the replay wrote
again. Bytes that a record covers are equal on both legs afterwards, but what a lost record changed
is elsewhere in the open regions, and nothing on the disk says where.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.leg_differences import joined
from duplexd.core.markers import Abandon, Copy, Differ, Equal, Missed, Open, Remove
from duplexd.engine.opening import why_absent
from duplexd.engine.recovery import left_behind
from duplexd.engine.recovery.degraded import Degraded
from duplexd.engine.volumes import introduce, unrecorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.config.daemon_file import Config
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.core.participant import Participant
    from duplexd.engine.failures import Failures
    from duplexd.engine.leases import Hold
    from duplexd.engine.opening import Images
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.limits import EngineLimits


def reconcile(
    recovered: Recovered,
    config: Config,
    boot_id: str,
    timeline: Timeline,
    volumes: Volumes,
    failures: Failures,
    participant: Participant[Hold],
    emit: Callable[..., None],
    limits: EngineLimits,
) -> list[Pair]:
    """Write the markers; fill `volumes`. Returns the pairs whose resync was interrupted and has to
    begin again. Raises OSError if the journal cannot be written.
    """
    ledger, tail = timeline.ledger, recovered.journal.tail.sequence
    known = ledger.known()
    may_swap = config.controller.on_primary_error == "swap"
    uncompared = recovered.uncompared
    degraded = Degraded(
        timeline, volumes, failures, emit, recovered.faults, tail, may_swap, uncompared
    )
    for pair in recovered.pairs.values():
        # What a killed daemon wrote may not be on the disk yet, replayed or not.
        pair.primary_dirty = not why_absent(pair.primary)
        pair.secondary_dirty = pair.secondary is not None and not why_absent(pair.secondary)
        volumes.add(pair)
    volumes.assign_groups(config.groups)
    for name, pair in recovered.pairs.items():
        if refused := recovered.images[name].refused:
            degraded.refuse(pair, refused)
    _announce_changed(recovered, emit)
    degraded.primaries()
    for name, pair in recovered.pairs.items():
        if not pair.failed:
            _widen_alone(timeline, pair, recovered.images[name])
            introduce(timeline, name, pair.mode, recovered.images[name], pair)
    _suspend_new(recovered, volumes, failures)
    degraded.secondaries()
    for pair, lost in recovered.adopted.items():
        degraded.adopted(pair, lost)
    interrupted = _abandon_uncommitted(timeline, volumes)
    _compare_open_regions(timeline, recovered.uncompared, limits.differing_runs_max)
    _end_arrived(timeline, volumes)
    interrupted += left_behind.left(timeline, volumes, config.volumes)
    for name, record in known.items():
        if name not in config.volumes:
            timeline.append(Remove(record.id))
    _add_fresh(recovered, config, timeline, volumes, degraded, emit, limits)
    _suspend_new(recovered, volumes, failures)
    _announce_overwritten(recovered, volumes, emit)
    volumes.assign_groups(config.groups)
    at_cuts = [record.cut for record in ledger.pairs.values() if record.cut is not None]
    cuts = (*ledger.cuts.values(), *ledger.book.marks.known.values(), *at_cuts)
    participant.restarted([cut.id for cut in cuts if cut.members and not cut.mark])
    timeline.append(Open(boot_id, recovered.ahead, lost=recovered.lost))
    return interrupted


def _announce_changed(recovered: Recovered, emit: Callable[..., None]) -> None:
    """Which images are not those of the journal."""
    for name, judged in recovered.judged.items():
        images = recovered.images[name]
        for why, leg in ((judged.primary, images.primary), (judged.secondary, images.secondary)):
            if why and leg is not None:
                emit("image-changed", volume=name, error=why, path=leg.path)


def _announce_overwritten(
    recovered: Recovered, volumes: Volumes, emit: Callable[..., None]
) -> None:
    """Which existing images a first copy goes onto. Block devices and some file systems carry no
    mark: if the state directory was lost, or is not mounted, nothing else tells.
    """
    for name, images in recovered.images.items():
        pair = volumes.by_name[name]
        if images.overwrites and pair.reason == pair_states.FIRST_COPY:
            path, why = pair.copy_of.path, "it holds data that the first copy overwrites"
            emit("secondary-overwritten", volume=name, error=f"{path}: {why}", path=path)


def _add_fresh(
    recovered: Recovered,
    config: Config,
    timeline: Timeline,
    volumes: Volumes,
    degraded: Degraded,
    emit: Callable[..., None],
    limits: EngineLimits,
) -> None:
    """Add the volumes that are new to the journal; all are in the order of the configuration then.
    Nothing is recorded of one whose primary cannot be used: the next start can still create it.
    """
    served = {**volumes.by_name}
    for name, images in recovered.images.items():
        mode = config.volumes[name].mode
        if name in served:
            continue
        if why := images.refused or why_absent(images.primary):
            served[name] = pair = unrecorded(name, mode, images, -len(served) - 1, limits)
            degraded.not_served(pair, why)
            emit("volume-not-served", volume=name, error=why, path=pair.primary.path)
        else:
            served[name] = introduce(timeline, name, mode, images, None)
    for name in recovered.images:
        volumes.by_name.pop(name, None)
        volumes.add(served[name])


def _widen_alone(timeline: Timeline, pair: Pair, images: Images) -> None:
    """After an unclean stop without a secondary, the primary may have changed anywhere. OPEN would
    say so, but there is a secondary by then.
    """
    begins = pair.state == pair_states.SIMPLEX and images.secondary is not None
    if begins and not timeline.ledger.closed and pair.record.history is not None:
        timeline.append(Missed({pair.id: pair.record.full_map()}))


def _suspend_new(recovered: Recovered, volumes: Volumes, failures: Failures) -> None:
    """Suspend the pairs whose secondary is new to them, and cannot be used, or was another one's: a
    resync copies to it.
    """
    for pair in volumes.all():
        why = why_absent(pair.secondary) or recovered.judged[pair.name].secondary
        fault = pair in recovered.faults.secondaries  # it has consequences of its own
        if why and not fault and pair.state == pair_states.PENDING and not pair.usable:
            everything = {pair: pair.record.full_map()}
            error = OSError(errno.EIO, why)
            failures.freeze({pair}, pair, pair.applied, error, {pair}, everything)


def _abandon_uncommitted(timeline: Timeline, volumes: Volumes) -> list[Pair]:
    halfway = [
        pair
        for pair in volumes.all()
        if pair.state == pair_states.PENDING and pair.record.staging == UNCOMMITTED
    ]
    if halfway:
        timeline.append(Abandon("", [pair.id for pair in halfway], {}))
    return [pair for pair in halfway if not pair.failed and not why_absent(pair.secondary)]


def _compare_open_regions(timeline: Timeline, pairs: Iterable[Pair], runs_max: int) -> None:
    """After an unclean stop the legs may differ in open regions: compare those. The primary of a
    suspended pair may have changed there without a record.
    """
    copies: dict[str, dict[int, ChangeMap]] = {}  # by reason
    missed: dict[int, ChangeMap] = {}
    for pair in sorted(pairs, key=lambda pair: pair.id):
        unknown = _is_unknown(pair)
        if pair.state == pair_states.SIMPLEX or pair.failed:
            continue
        if not pair.regions.open and not unknown:
            continue
        changed = pair.record.full_map() if unknown else pair.new_map()
        for offset, length in pair.regions.ranges(pair.size):
            changed.set(offset, length)
        _leave_differences(timeline, pair, changed, runs_max)
        if pair.state == pair_states.SUSPENDED:
            missed[pair.id] = changed
            continue
        if not changed.count and not _is_copied(pair):
            continue
        if _is_copied(pair) and pair.changed is not None:
            changed.merge(pair.changed)
        copies.setdefault(_reason(pair), {})[pair.id] = changed
    for reason, maps in copies.items():
        timeline.append(Copy(maps, reason))
    if missed:
        timeline.append(Missed(missed))


def _leave_differences(timeline: Timeline, pair: Pair, changed: ChangeMap, runs_max: int) -> None:
    """Copy nothing over what is known to differ: it may be the only good content, and somebody has
    to say whether it is. What else the same grains hold joins it, since it is not compared.
    """
    differs, grain = pair.record.differs, changed.grain_bytes
    if differs is None or differs.copied:
        return
    left: list[tuple[int, int]] = []
    for offset, length in differs.runs:
        start = offset // grain * grain
        end = min(-(-(offset + length) // grain) * grain, pair.size)
        found = changed.next_run(start, end - start)
        if found is not None and found[0] < end:
            changed.clear(start, end - start)
            left.append((start, end - start))
    if left:
        timeline.append(Differ(pair.id, joined([*differs.runs, *left], runs_max)))


def _is_unknown(pair: Pair) -> bool:
    """Whether no checkpoint has recorded its images since they became a pair: whether those found
    are the same, nobody knows. Of one at a cut that is decided without a map.
    """
    images = pair.record.primary_image, pair.record.secondary_image
    at_cut = pair.state == pair_states.SUSPENDED and pair.usable
    return pair.state != pair_states.SIMPLEX and not at_cut and None in images


def _is_copied(pair: Pair) -> bool:
    return pair.state == pair_states.PENDING and not pair.usable


def _reason(pair: Pair) -> str:
    """A copy that goes on is still the copy it was. One after a failed secondary must not become a
    comparison, which would trust what the page cache shows of that secondary.
    """
    goes_on = _is_copied(pair) and pair.reason in {pair_states.FIRST_COPY, pair_states.RESYNCING}
    return pair.reason if goes_on else pair_states.UNCLEAN_STOP


def _end_arrived(timeline: Timeline, volumes: Volumes) -> None:
    """Resyncs that the replay has brought to the tail are done."""
    arrived = [
        pair
        for pair in volumes.all()
        if pair.state == pair_states.PENDING and pair.usable and not pair.failed
    ]
    if arrived:
        timeline.append(Equal([pair.id for pair in arrived]))
