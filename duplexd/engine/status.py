"""What status says, built from the states as they are. No I/O."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from duplexd import __version__
from duplexd.core import pair_states
from duplexd.images.absent import AbsentLeg
from duplexd.limits import GROUP_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.leases import Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.replication.followers import Followers
    from duplexd.runtime.clock import Clock


class Facts(NamedTuple):
    """What status says that the parts it reads do not know. `journal_waits_s`: how long a write or
    a sync of the journal has not been answered by its disk. `no_room_s`: how long changes have
    waited for room in the journal; `needing`: volumes whose secondaries need its oldest records;
    `journal_pinned_bytes`: what of the journal cannot be written over; `mark_every`: seconds, by
    group.
    """

    name: str
    hold_max_s: float
    nbd: Sequence[str]
    journal_waits_s: float
    no_room_s: float = 0.0
    needing: Sequence[str] = ()
    journal_pinned_bytes: int = 0
    mark_every: Mapping[str, float] = {}


class Status:
    """Reads the parts that know; the shape is what scripts rely on (docs/json.md)."""

    def __init__(
        self,
        timeline: Timeline,
        admission: Admission,
        volumes: Volumes,
        leases: Leases,
        archive: CutArchive,
        followers: Followers,
        misplaced: Callable[[Leg], str],
        unreadable: Mapping[str, str],
        rollback: Callable[[Pair], Json | None],
        last_mark: Callable[[Sequence[str]], float | None],
        clock: Clock,
    ) -> None:
        """`misplaced`: what was found at the path of an open image, "" if nothing is wrong.
        `unreadable`: by volume, what a scrub could not read. `rollback`: the last one of a pair.
        `last_mark`: when volumes were last marked together.
        """
        self._timeline = timeline
        self._admission = admission
        self._volumes = volumes
        self._leases = leases
        self._archive = archive
        self._followers = followers
        self._misplaced = misplaced
        self._unreadable = unreadable
        self._rollback = rollback
        self._last_mark = last_mark
        self._clock = clock
        self._errors: dict[tuple[str, str], float] = {}  # by volume and path

    def show(self, facts: Facts) -> Json:
        """Everything."""
        volumes, now = self._volumes, self._clock.monotonic()
        return {
            "controller": self._journal(facts),
            "volumes": [self._volume(pair) for pair in volumes.all()],
            "groups": [self._group(name, names, facts) for name, names in volumes.groups.items()],
            "leases": [hold.show(now) for hold in self._leases.held.values()],
            "cuts": self._archive.undecided(),
        }

    def _group(self, name: str, names: Sequence[str], facts: Facts) -> Json:
        every = facts.mark_every.get(name)
        return {
            "name": name,
            "volumes": names,
            "state": group_state(self._volumes.named(names)),
            "mark_every_s": every,
            "last_mark_time": self._last_mark(names) if every else None,
        }

    def _journal(self, facts: Facts) -> Json:
        timeline, ring = self._timeline, self._timeline.writer.ring
        return {
            "name": facts.name,
            "sequence": timeline.written,
            "synced": timeline.writer.synced,
            "failed": timeline.failed or None,
            "refused": self._refused(),
            "version": __version__,
            "group_protocol": GROUP_PROTOCOL,
            "hold_max_s": facts.hold_max_s,
            "nbd": list(facts.nbd),
            "journal": {
                "used_bytes": ring.used_bytes,
                "pinned_bytes": facts.journal_pinned_bytes,
                "size_bytes": ring.size_bytes,
                "oldest_sequence": ring.oldest,
                "waiting_s": round(facts.journal_waits_s, 3),
                "no_room_s": round(facts.no_room_s, 3),
                "needed_by": list(facts.needing),
            },
        }

    def _refused(self) -> str | None:
        """Why changes are refused until that is over; a failure, which is final, aside."""
        error = self._admission.refusal
        return os.strerror(error) if error and not self._timeline.failed else None

    def _volume(self, pair: Pair) -> Json:
        return {
            "name": pair.name,
            "size": pair.size,
            "not_grown": pair.not_grown,
            "state": pair.state,
            "reason": pair.reason or None,
            "held": self._leases.holds(pair),
            "mode": pair.mode if pair.secondary is not None else None,
            "connections": pair.connections,
            "sequence": self._timeline.written,
            "secondary": self._secondary(pair),
            "consistent_cut_time": self._archive.consistent_cut_time(pair),
            "changed_bytes": pair.changed.changed_bytes if pair.changed is not None else 0,
            "copy": self._copy(pair),
            "served": not (pair.failed or pair.closed),
            "error": _why_not_served(pair),
            "failing": {what: os.strerror(number) for what, number in pair.failing.items()},
            "swapped": pair.record.swapped,
            "primary": self._primary(pair),
            "rebuild": self._rebuild(pair),
            "rollback": self._rollback(pair),
            "scrub": self._scrub(pair),
            "last_drill": pair.record.drill.show() if pair.record.drill is not None else None,
            "readers": self._timeline.ledger.readers.show(pair.id),
            "differs": pair.record.differs.show() if pair.record.differs is not None else None,
        }

    def _scrub(self, pair: Pair) -> Json | None:
        if pair.secondary is None:
            return None
        scrub, wanted_us = pair.record.scrub, self._timeline.ledger.scrub_us
        return {
            "done_time": scrub.done_us / 1e6 if scrub.done_us else None,
            "began_time": scrub.began_us / 1e6 if scrub.under_way else None,
            "position": scrub.at,
            "error": self._unreadable.get(pair.name, "") or scrub.unreadable,
            "wanted_time": wanted_us / 1e6 if wanted_us else None,
        }

    def _primary(self, pair: Pair) -> Json:
        error = _absence(pair.primary) or self._misplaced(pair.primary)
        return {
            "path": pair.primary.path,
            "error": error,
            "error_time": self._seen(pair, pair.primary, error),
            "repaired_bytes": pair.repaired_bytes,
        }

    def _seen(self, pair: Pair, leg: Leg, error: str) -> float | None:
        """Since when an error of this image is known: the cut that it made, which a restart knows
        too, or the first status that has shown it.
        """
        key = pair.name, leg.path
        if not error:
            self._errors.pop(key, None)
            return None
        if leg is pair.secondary and pair.cut is not None and _failure(pair):
            return (pair.record.failed_us or pair.cut.time_us) / 1e6
        return self._errors.setdefault(key, self._clock.wall())

    def _secondary(self, pair: Pair) -> Json | None:
        if pair.secondary is None:
            return None
        absence = _absence(pair.secondary)
        applied = self._timeline.written if pair.mirrors else pair.applied
        # Beside a primary that is not served, nothing is recorded of a secondary that is no good.
        # One that differs from its primary is a copy of nothing that is known to be right.
        absent = absence and pair.state == pair_states.DUPLEX
        usable = pair.usable and not absent and pair.record.differs is None
        error = absence or _failure(pair) or self._misplaced(pair.secondary)
        return {
            "usable": usable,
            "as_of_sequence": applied if usable else None,
            "as_of_size": pair.record.size_at(applied) if usable else None,
            "as_of_time": self._as_of_time(pair) if usable else None,
            "cut": self._archive.of_pair(pair),
            "suspended_time": _suspended_time(pair),
            "lag_bytes": 0 if pair.mirrors else self._followers.lag_bytes(pair),
            "delay": self._followers.trailing.delay(pair),
            "path": pair.secondary.path,
            "error": error,
            "error_time": self._seen(pair, pair.secondary, error),
        }

    def _rebuild(self, pair: Pair) -> Json | None:
        """Can the secondary of a suspended pair be brought to the last change?"""
        secondary = pair.secondary
        if pair.state != pair_states.SUSPENDED or secondary is None:
            return None
        first = pair.applied + 1
        whole = not (_absence(secondary) or self._misplaced(secondary))
        reaches_back = self._timeline.writer.ring.oldest <= first
        known = not pair.record.adopted and pair.record.differs is None
        possible = pair.can_roll_forward and whole and reaches_back and known
        return {"possible": possible, "from_sequence": first}

    def _as_of_time(self, pair: Pair) -> float | None:
        if pair.state == pair_states.SUSPENDED and pair.cut is not None:
            return pair.cut.time_us / 1e6
        if pair.is_delayed and pair.record.horizon is not None:
            return pair.record.horizon.time_us / 1e6
        return self._clock.wall() if pair.mirrors else None

    def _copy(self, pair: Pair) -> Json | None:
        if pair.state != pair_states.PENDING:
            return None
        began = self._followers.began(pair)
        took = self._clock.monotonic() - began if began is not None else 0.0
        left = pair.copy_total - pair.copy_done
        eta = took / pair.copy_done * left if pair.copy_done > 0 and took > 0 else None
        return {"done_bytes": pair.copy_done, "total_bytes": pair.copy_total, "eta_s": eta}


def _suspended_time(pair: Pair) -> float | None:
    return pair.record.suspended_us / 1e6 if pair.state == pair_states.SUSPENDED else None


def _why_not_served(pair: Pair) -> str:
    """Empty if it is served. A long journal takes a while, in which nothing is to be typed."""
    why = pair.failed or pair.closed
    return (
        f"a command is bringing it back just now; before that: {why}"
        if why and pair.returning
        else why
    )


def _absence(leg: Leg) -> str:
    """Why an image is not there; empty if it is open."""
    return leg.why if isinstance(leg, AbsentLeg) else ""


def _failure(pair: Pair) -> str:
    """Why the secondary of a pair failed, or is not brought along, as far as this run knows."""
    if pair.halfway is not None:
        return pair.halfway.why
    if pair.uncompared:
        return "it was not compared since an unclean stop, and may hold a change that was lost"
    reasons = {pair_states.BY_ERROR, pair_states.BY_JOURNAL}
    failed = pair.state == pair_states.SUSPENDED and pair.reason in reasons
    return (
        pair.cut.why or "it failed before the last start; see the log"
        if failed and pair.cut is not None
        else ""
    )


def group_state(pairs: Sequence[Pair]) -> str:
    """The state that all pairs share, or MIXED. Suspended pairs share it only at one cut."""
    states = {(pair.state, _place(pair)) for pair in pairs}
    return next(iter(states))[0] if len(states) == 1 else "MIXED"


def _place(pair: Pair) -> int:
    suspended = pair.cut is not None and pair.state == pair_states.SUSPENDED
    return pair.cut.sequence if pair.cut is not None and suspended else 0
