"""Holds and leases: writes that wait, for whom, until when, and how long they waited."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from duplexd.core import gate
from duplexd.core.ledger import VOID
from duplexd.core.member import Member
from duplexd.core.waits import Waits, by_name, together
from duplexd.errors import LimitError, UsageError
from duplexd.limits import CUTS_KEPT_MAX, HOLD_SECONDS_MAX, LEASES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Change
    from duplexd.core.gate import Lease
    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller


class Holds:
    """All leases of a controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.member = Member(controller.ledger.state_of, controller.mark)
        self._arrivals: dict[int, float] = {}  # when a held change came, by id()
        self._ended_cuts: deque[str] = deque(maxlen=CUTS_KEPT_MAX)  # what ended holds were for
        self.lost = 0
        self.held_seconds_max = 0.0

    @property
    def leases(self) -> dict[str, Lease]:
        """Those that hold."""
        return self.member.leases

    async def quiesce(
        self, pairs: list[Pair], hold_s: float, owner: str, cut_id: str = ""
    ) -> Lease:
        """Close the gates: from now on changes wait. Returns when none is in flight. The lease ends at its deadline at the latest.

        With `cut_id` it is held for that cut of a group. Raises UsageError, LimitError, WrongStateError, LeaseLostError with nothing held.
        Cancelled: the hold is released.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        if not 0 < hold_s <= HOLD_SECONDS_MAX:
            raise UsageError(
                f"a hold lasts more than 0 and at most {HOLD_SECONDS_MAX:g} seconds: clients give up on requests that wait longer"
            )
        if len(self.leases) >= LEASES_MAX:
            raise LimitError(
                f"there are {LEASES_MAX} leases already (LEASES_MAX); release one first"
            )
        if cut_id:
            self._controller.cuts.check_states(pairs)
        loop = asyncio.get_running_loop()
        lease = gate.Lease(
            secrets.token_hex(8),
            pairs,
            owner,
            hold_s,
            self._controller.clock.monotonic(),
            loop.create_future(),
            cut_id,
        )
        self.member.close(lease)
        for pair in pairs:
            pair.holds += 1
        self._controller.batches.withdraw(pairs)
        self._start_timer(lease, hold_s)
        self._controller.emit(
            "quiesced",
            volumes=lease.volumes,
            lease=lease.id,
            owner=owner,
            hold_s=hold_s,
            **_cut_field(lease),
        )
        try:
            await self._controller.step(lambda: None)
        except asyncio.CancelledError:
            self.end(lease, gate.OWNER_GONE)
            raise
        lease.drained = self._controller.clock.monotonic()
        return lease

    def _start_timer(self, lease: Lease, seconds: float) -> None:
        lease.timer = (
            asyncio.get_running_loop().call_later(seconds, self.end, lease, gate.DEADLINE).cancel
        )

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Lease:
        """Let a hold last `hold_s` from now, under a new fencing number. Raises UsageError, LeaseLostError, NotFoundError."""
        now = self._controller.clock.monotonic()
        held_s = now - self.member.find(lease_id, fence).began
        if not 0 < hold_s <= HOLD_SECONDS_MAX - held_s:
            raise UsageError(
                f"the hold has lasted {held_s:.3g} s: {hold_s:g} s more are not possible, all in all it may last {HOLD_SECONDS_MAX:g} s; "
                "release it, and quiesce again"
            )
        lease = self.member.renew(lease_id, fence)
        if lease.timer is not None:
            lease.timer()
        lease.deadline = now + hold_s
        self._start_timer(lease, hold_s)
        return lease

    def waits(self, pair: Pair, change: Change) -> None:
        """A change meets a closed gate."""
        pair.waiting.append(change)
        self._arrivals[id(change)] = self._controller.clock.monotonic()

    def forget(self, gone: Callable[[Change], bool]) -> None:
        """Drop the waiting changes of a client that has gone."""
        for pair in {pair for lease in self.leases.values() for pair in lease.pairs}:
            for change in pair.waiting:
                if gone(change):
                    self._arrivals.pop(id(change), None)
            pair.waiting = [change for change in pair.waiting if not gone(change)]

    def release(self, lease_id: str, reason: str, fence: int | None = None) -> bool:
        """End a hold; False if it had ended, whether its id is given or that of the cut it was for.

        Raises NotFoundError for a lease that never was, LeaseLostError for one that is another's.
        """
        if lease_id in self.member.ended or lease_id in self._ended_cuts:
            return False
        return self.end(self.member.find(lease_id, fence), reason)

    def release_cut(self, cut_id: str, reason: str) -> str:
        """End the lease that is held for this cut, if there is one; its id or ""."""
        for lease in list(self.leases.values()):
            if cut_id and lease.cut_id == cut_id:
                self.end(lease, reason)
                return lease.id
        return ""

    def end(self, lease: Lease, reason: str) -> bool:
        """Open the gates of a lease, unless they are open. A cut that was to be made under it is void if it was not opened in order."""
        if not self.member.end(lease, reason):
            return False
        if lease.cut_id:
            self._ended_cuts.append(lease.cut_id)
        now = self._controller.clock.monotonic()
        freed, waited = self._open(lease)
        self._controller.batches.resume(
            freed
        )  # first of all: the figures can wait, the writes have waited
        if lease.cut_id and lease.cut_at is not None:
            self._controller.cuts.hold_ended(lease)
        self._count(lease, waited, now)
        verdict = {"verdict": VOID} if lease.lost else {}
        self._controller.emit(
            "released", volumes=lease.volumes, lease=lease.id, reason=reason, held_s=now - lease.began, writes_held=len(waited),
            **_cut_field(lease), **verdict,
        )  # fmt: skip
        return True

    def _open(self, lease: Lease) -> tuple[list[Change], list[tuple[str, float]]]:
        """The changes that no gate holds any more, in order of arrival; and since when each write of a volume waited for this lease."""
        freed: list[tuple[float, Change]] = []
        waited: list[tuple[str, float]] = []
        for pair in lease.pairs:
            pair.holds -= 1
            arrivals = [self._arrivals.get(id(change), lease.began) for change in pair.waiting]
            waited += [(pair.name, max(arrival, lease.began)) for arrival in arrivals]
            if not pair.holds:
                freed += zip(arrivals, pair.waiting, strict=True)
                for change in pair.waiting:
                    self._arrivals.pop(id(change), None)
                pair.waiting = []
        if not self.leases:
            self._arrivals.clear()
        freed.sort(key=lambda item: item[0])
        return [change for _, change in freed], waited

    def _count(self, lease: Lease, waited: list[tuple[str, float]], now: float) -> None:
        for name, since in waited:
            lease.waited.setdefault(name, Waits()).add(now - since)
            lease.phases[self._phase(lease, since)] += 1
        lease.waits = together(lease.waited.values())
        lease.held_s = now - lease.began
        self.held_seconds_max = max(self.held_seconds_max, lease.waits.max_s)
        self.lost += lease.lost

    @staticmethod
    def _phase(lease: Lease, arrival: float) -> str:
        if lease.drained is None or arrival < lease.drained:
            return gate.DRAINING
        return gate.HOLDING if lease.cut_at is None or arrival < lease.cut_at else gate.CUTTING

    def figures(self, lease: Lease | None, pause_s: float = 0.0) -> dict[str, Any]:
        """How long writes waited under a lease that has ended, or for a cut of `pause_s` that needed none."""
        limit_s = self._controller.config.controller.hold_max
        if lease is None or lease.waits is None:
            waits, waited, phases, held_s = Waits(), {}, dict.fromkeys(gate.PHASES, 0), pause_s
            spans = dict.fromkeys(gate.PHASES, 0.0) | {gate.CUTTING: pause_s}
        else:
            waits, waited, phases, held_s = lease.waits, lease.waited, lease.phases, lease.held_s
            ended = lease.began + held_s
            marks = [lease.began, lease.drained or ended, lease.cut_at or ended, ended]
            spans = {
                name: end - begin
                for name, begin, end in zip(gate.PHASES, marks, marks[1:], strict=False)
            }
        return {
            "seconds_max": waits.max_s if waits.count else pause_s, "writes_held": waits.count,
            "p50_s": waits.quantile(0.5), "p99_s": waits.quantile(0.99),
            "held_s": held_s, "hold_max_s": limit_s, "within_limit": held_s <= limit_s,
            "phases": {name: {"seconds": spans[name], "writes": phases[name]} for name in gate.PHASES},
            "volumes": [{"name": name, **each} for name, each in by_name(waited).items()], "buckets": waits.pack(),
        }  # fmt: skip

    def stop(self) -> None:
        """End every hold."""
        for lease in list(self.leases.values()):
            self.end(lease, gate.STOPPING)


def _cut_field(lease: Lease) -> dict[str, str]:
    return {"cut": lease.cut_id} if lease.cut_id else {}
