"""What follows from images that are not what the journal says of them. At rest, in the step that a
start writes its markers in.

A secondary costs its pair the redundancy: the pair is suspended, with its group, and a resync
brings it back. A primary is replaced by its secondary, if that is current: the two change roles,
and the failed image is a failed secondary from then on. If it is not, the volume is not served.
Nothing is recorded of that: the next start, or `adopt`, finds everything as this one did.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.markers import Equal, Missed
from duplexd.core.pair import Halfway
from duplexd.engine.opening import why_absent
from duplexd.engine.recovery.image_faults import Fault
from duplexd.engine.recovery.replay import waits_for_its_secondary
from duplexd.images.absent import AbsentLeg

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from duplexd.core.pair import Lacks, Pair
    from duplexd.engine.failures import Failures
    from duplexd.engine.recovery.image_faults import Faults
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json


class Degraded:
    """`tail`: the last number before the markers of the start. `may_swap`: what the configuration
    says of failed primaries. `uncompared`: pairs whose legs may differ where no record
    says so.
    """

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        failures: Failures,
        emit: Callable[..., None],
        faults: Faults,
        tail: int,
        may_swap: bool,
        uncompared: Container[Pair],
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._failures = failures
        self._emit = emit
        self._faults = faults
        self._tail = tail
        self._may_swap = may_swap
        self._uncompared = uncompared

    def primaries(self) -> None:
        """Replace the primaries that failed, or serve their volumes no more."""
        for pair, fault in self._faults.primaries.items():
            self._emit(
                "primary-failed",
                volume=pair.name,
                error=_why(fault),
                path=pair.primary.path,
            )
            if self._may_swap and self._can_lead(pair) and pair.record.differs is None:
                self._swap(pair, fault)
            else:
                self.refuse(pair, _why(fault))

    def secondaries(self) -> None:
        """Suspend what failed; with a DUPLEX pair those of its group: all are at the tail."""
        for pair, fault in self._faults.secondaries.items():
            if pair.state != pair_states.SIMPLEX and not pair.failed:
                self._suspend(pair, fault)
            elif pair.failed and fault.error.errno == errno.ENODATA:
                # It is somewhere after `applied`, and the journal cannot bring it to a number.
                self._suspend(pair, fault, alone=True)

    def adopted(self, pair: Pair, lost: Lacks | None) -> None:
        """A primary was taken as it is: the secondary differs from it where nobody knows."""
        everything = pair.record.full_map()
        self._timeline.ledger.adopted(pair.record)
        if pair.state == pair_states.SUSPENDED and pair.usable:
            # its cut is as good as before
            self._timeline.append(Missed({pair.id: everything}, (pair.id,)))
        elif pair.state != pair_states.SIMPLEX:
            why = f"{pair.primary.path} was adopted as it is"
            self._suspend(pair, Fault(OSError(errno.ESTALE, why)), alone=True)
        self._emit("volume-served", volume=pair.name, path=pair.primary.path, lost=said(lost))

    def _can_lead(self, pair: Pair) -> bool:
        """Whether the secondary holds everything that the journal has. One that no checkpoint has
        recorded yet may be any image: a copy of it is compared, but nothing is served from it.
        """
        if pair.secondary is None or pair in self._faults.secondaries or self._is_unknown(pair):
            return False
        staging = pair.record.staging == UNCOMMITTED
        walks = pair.usable or pair.record.rebuildable
        follows = pair.state == pair_states.PENDING and walks and not staging
        arrived = pair.applied >= self._tail
        return arrived and (pair.state == pair_states.DUPLEX or follows)

    def _is_unknown(self, pair: Pair) -> bool:
        """Whether its secondary may be any image."""
        return pair in self._uncompared and pair.record.secondary_image is None

    def _swap(self, pair: Pair, fault: Fault) -> None:
        """Its group is not suspended with it: their secondaries lack nothing."""
        timeline, failed = self._timeline, pair.primary
        if pair.state == pair_states.PENDING:
            timeline.append(Equal([pair.id]))
        self._failures.exchange(pair)
        self._failures.said_swapped(pair, f"primary failed: {_why(fault)}", failed)
        self._suspend(pair, fault, alone=True)
        self._failures.leave_failed(pair, fault.error)

    def _suspend(self, pair: Pair, fault: Fault, alone: bool = False) -> None:
        """`alone`: the secondaries of its group lack nothing, and may have to take over as well.

        One of the group that has to be compared is not suspended with it: what a power cut took
        from the journal may be on it, so it is at no number. It is compared instead.
        """
        duplex = pair.state == pair_states.DUPLEX
        group = self._volumes.group_of(pair) if duplex and not alone else set()
        members = {pair} | {member for member in group if member not in self._uncompared}
        missed = pair.record.full_map() if fault.missed is None else fault.missed
        unusable = set() if fault.whole and pair.usable else {pair}
        # One that follows the journal is where it stopped, all others are at the tail.
        at = self._tail if duplex or not fault.whole else pair.applied
        self._failures.freeze(members, pair, at, fault.error, unusable, {pair: missed})

    def refuse(self, pair: Pair, why: str) -> None:
        """Do not serve a volume. A copy that was under way cannot go on, and what it has not copied
        it would want the journal for. A secondary that no checkpoint has recorded may be any image.
        """
        copied = pair.state == pair_states.PENDING and pair.record.staging != UNCOMMITTED
        if copied and self._can_lead(pair):
            self._timeline.append(Equal([pair.id]))
        elif copied or (pair.state == pair_states.DUPLEX and self._is_unknown(pair)):
            fault = self._faults.secondaries.get(pair)
            error = OSError(why) if fault is None else fault.error
            missed = {pair: pair.record.full_map()}
            self._failures.freeze({pair}, pair, self._tail, error, {pair}, missed)
        self.not_served(pair, why)
        self._emit("volume-not-served", volume=pair.name, error=why, path=pair.primary.path)

    def not_served(self, pair: Pair, why: str) -> None:
        """A client that asks for this volume is refused with the reason."""
        pair.failed = why
        self._lost_its_end(pair)
        pair.halfway = self._halfway(pair)
        duplex = pair.state == pair_states.DUPLEX and pair in self._uncompared
        pair.uncompared = duplex and bool(pair.regions.open)
        pair.refresh()
        self._failures.no_more_served(pair)

    def _lost_its_end(self, pair: Pair) -> None:
        """No journal makes a secondary whole that was truncated; nor one that is extended again."""
        secondary = pair.secondary
        short = isinstance(secondary, AbsentLeg) and bool(secondary.short)
        if short and pair.record.rebuildable and pair.state == pair_states.SUSPENDED:
            error = OSError(errno.EIO, why_absent(secondary))
            missed = {pair: pair.record.full_map()}
            self._failures.freeze({pair}, pair, pair.applied, error, {pair}, missed)

    def _halfway(self, pair: Pair) -> Halfway | None:
        """Why the secondary is at no number: it was not brought to the last one that it may get.
        What an earlier start, or this one, has applied to it is not known.
        """
        fault = self._faults.secondaries.get(pair)
        missed = fault.missed if fault is not None else None
        good = fault is None or (missed is not None and not missed.any())
        arrived = waits_for_its_secondary(pair) or pair.applied >= pair.limit(self._tail)
        if good and arrived:
            return None
        why = _why(fault) if fault is not None else f"it lacks what follows number {pair.applied}"
        return Halfway(why, pair.record.full_map() if missed is None else missed)


def said(lost: Lacks | None) -> Json | None:
    """The changes that an adopted primary does not have; None if the journal does not say."""
    if lost is None:
        return None
    first = lost.first if lost.records else None
    last = lost.last if lost.records else None
    return {"records": lost.records, "first": first, "last": last, "bytes": lost.nbytes}


def _why(fault: Fault) -> str:
    return fault.error.strerror or str(fault.error)
