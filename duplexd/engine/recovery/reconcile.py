"""The markers that a start writes after the replay, in one step at rest.

The order matters. Known volumes are introduced before failures suspend them. Failures come before
the comparison after an unclean stop, because a failed secondary is copied as a whole anyway. OPEN
comes last: until it is written, a journal that ends in CLOSE still says that nothing was lost.

Every stop without a CLOSE is treated like a power cut, whatever boot the machine is on. A disk that
fails, is repaired and mounted again loses its un-synced writes without a boot, and the journal may
then lack changes that a leg has. Considered and rejected: to compare less by what the replay wrote
again. Bytes that a record covers are equal on both legs afterwards, but what a lost record changed
is elsewhere in the open regions, and nothing on the disk says where.
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
    if not stopped_in_order:
        _compare_open_regions(timeline, volumes)
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


def _compare_open_regions(timeline: Timeline, volumes: Volumes) -> None:
    """After an unclean stop the legs may differ in open regions: compare those. The primary of a
    suspended pair may have changed there without a record.
    """
    copies: dict[str, dict[int, ChangeMap]] = {}  # by reason
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
        if _is_copied(pair) and pair.changed is not None:
            changed.merge(pair.changed)
        copies.setdefault(_reason(pair), {})[pair.id] = changed
    for reason, maps in copies.items():
        timeline.append(Copy(maps, reason))
    if missed:
        timeline.append(Missed(missed))


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
    arrived = [pair for pair in volumes.all() if pair.state == pair_states.PENDING and pair.usable]
    if arrived:
        timeline.append(Equal([pair.id for pair in arrived]))
