"""The markers that a start writes after the replay, in one step at rest.

The order matters. Known volumes are introduced before failures suspend them. Failures come before
the copies after a power cut, because a failed secondary is copied as a whole anyway. OPEN comes
last: it makes this boot the one to compare with, so if the start dies earlier, the next one detects
the same power cut again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.markers import Abandon, Copy, Equal, Missed, Open, Remove
from duplexd.engine.volumes import introduce

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.core.participant import Participant
    from duplexd.engine.failures import Failures
    from duplexd.engine.leases import Hold
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes


def reconcile(
    recovered: Recovered,
    config: Config,
    boot_id: str,
    timeline: Timeline,
    volumes: Volumes,
    failures: Failures,
    participant: Participant[Hold],
) -> list[Pair]:
    """Write the markers; fill `volumes`. Returns the pairs whose resync was interrupted and has to
    begin again. Raises OSError if the journal cannot be written.
    """
    ledger = timeline.ledger
    stopped_in_order = ledger.closed
    known = ledger.known()
    for name, pair in recovered.pairs.items():
        # What a killed daemon wrote may not be on the disk yet, replayed or not.
        pair.primary_dirty, pair.secondary_dirty = True, pair.secondary is not None
        images = recovered.known[name]
        volumes.add(introduce(timeline, name, pair.mode, images, pair))
    volumes.assign_groups(config.groups)
    _suspend_failed(recovered, volumes, failures)
    interrupted = _abandon_uncommitted(timeline, volumes)
    if not recovered.journal.same_boot and not stopped_in_order:
        _copy_dirty_regions(timeline, volumes)
    _end_arrived(timeline, volumes)
    for name, record in known.items():
        if name not in config.volumes:
            timeline.append(Remove(record.id))
    served = {**volumes.by_name}
    for name, images in recovered.fresh.items():
        served[name] = introduce(timeline, name, config.volumes[name].mode, images, None)
    for name in config.volumes:  # in that order
        volumes.by_name.pop(name, None)
        volumes.add(served[name])
    volumes.assign_groups(config.groups)
    at_cuts = [record.cut.id for record in ledger.pairs.values() if record.cut is not None]
    participant.restarted([*ledger.cuts, *at_cuts])
    timeline.append(Open(boot_id))
    return interrupted


def _suspend_failed(recovered: Recovered, volumes: Volumes, failures: Failures) -> None:
    """Suspend what failed, unusable; with a DUPLEX pair those of its group: all are at the tail."""
    tail = recovered.journal.tail.sequence
    for failed, error in recovered.failures:
        if failed.state == pair_states.SIMPLEX:
            continue
        duplex = failed.state == pair_states.DUPLEX
        members = volumes.group_of(failed) if duplex else {failed}
        # What it missed need not be computed: the copy compares before it writes.
        everything = failed.record.full_map()
        failures.freeze(members, failed, tail, error, {failed}, {failed: everything})


def _abandon_uncommitted(timeline: Timeline, volumes: Volumes) -> list[Pair]:
    halfway = [
        pair
        for pair in volumes.all()
        if pair.state == pair_states.PENDING and pair.record.staging == UNCOMMITTED
    ]
    if halfway:
        timeline.append(Abandon("", [pair.id for pair in halfway], {}))
    return halfway


def _copy_dirty_regions(timeline: Timeline, volumes: Volumes) -> None:
    """After a power cut the legs may differ in open regions: compare those. A suspended pair may
    have changed there without a record.
    """
    copies: dict[int, ChangeMap] = {}
    missed: dict[int, ChangeMap] = {}
    for pair in volumes.all():
        if pair.state == pair_states.SIMPLEX or not pair.regions.open:
            continue
        changed = pair.new_map()
        for offset, length in pair.regions.ranges(pair.size):
            changed.set(offset, length)
        if pair.state == pair_states.SUSPENDED:
            missed[pair.id] = changed
            continue
        first_copy = pair.state == pair_states.PENDING and not pair.usable
        if first_copy and pair.changed is not None:
            changed.merge(pair.changed)
        copies[pair.id] = changed
    if copies:
        timeline.append(Copy(copies, pair_states.POWER_CUT))
    if missed:
        timeline.append(Missed(missed))


def _end_arrived(timeline: Timeline, volumes: Volumes) -> None:
    """Resyncs that the replay has brought to the tail are done."""
    arrived = [pair for pair in volumes.all() if pair.state == pair_states.PENDING and pair.usable]
    if arrived:
        timeline.append(Equal([pair.id for pair in arrived]))
