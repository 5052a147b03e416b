"""Holds, leases and cuts: what suspends pairs at one point, and what may honestly be said of it."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from duplexd.errors import LeaseLostError, LimitError, NotFoundError, UsageError, WrongStateError
from duplexd.limits import HOLD_SECONDS_MAX, LEASES_MAX
from duplexd.pair import gate, state
from duplexd.pair.ledger import CONSISTENT, VOID

if TYPE_CHECKING:
    from duplexd.controller import Controller
    from duplexd.pair.gate import Lease
    from duplexd.pair.pair import Cut, Pair
    from duplexd.volume import Change

_ENDED_LEASES_KEPT = 1024


class Holds:
    """All leases of a controller, and its cuts."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.leases: dict[str, Lease] = {}
        self._ended: dict[str, Lease] = {}
        self._arrivals: dict[int, float] = {}  # when a held change came, by id()
        self.unsettled: set[str] = set()  # cuts whose secondaries are not yet known to be durable
        self._settling: dict[str, asyncio.Task[None]] = {}  # what makes them so; one that failed stays, and tells whoever asks
        self.cuts = 0
        self.lost = 0
        self.held_seconds_max = 0.0

    def new_cut_id(self) -> str:
        """An id that no cut had."""
        return secrets.token_hex(8)

    # -------------------------------------------------------------------------------------------------------------- holds

    async def quiesce(self, pairs: list[Pair], hold_s: float, owner: str) -> Lease:
        """Close the gates: from now on changes wait. Returns when none is in flight. The lease ends at its deadline at the latest.

        Raises UsageError, LimitError. Cancelled: the hold is released.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        if not 0 < hold_s <= HOLD_SECONDS_MAX:
            raise UsageError(
                f"a hold lasts more than 0 and at most {HOLD_SECONDS_MAX:g} seconds: clients give up on requests that wait longer"
            )
        if len(self.leases) >= LEASES_MAX:
            raise LimitError(f"there are {LEASES_MAX} leases already (LEASES_MAX); release one first")
        loop = asyncio.get_running_loop()
        lease_id = secrets.token_hex(8)
        lease = gate.Lease(lease_id, pairs, owner, hold_s, self._controller.clock.monotonic(), loop.create_future())
        self.leases[lease_id] = lease
        for pair in pairs:
            pair.holds += 1
        self._controller.withdraw(pairs)
        lease.timer = loop.call_later(hold_s, self._end, lease, gate.DEADLINE).cancel
        self._controller.emit("quiesced", volumes=lease.volumes, lease=lease_id, owner=owner, hold_s=hold_s)
        try:
            await self._controller.step(lambda: None)
        except asyncio.CancelledError:
            self._end(lease, gate.OWNER_GONE)
            raise
        return lease

    def waits(self, pair: Pair, change: Change) -> None:
        """A change meets a closed gate."""
        pair.waiting.append(change)
        self._arrivals[id(change)] = self._controller.clock.monotonic()

    def release(self, lease_id: str, reason: str) -> bool:
        """End a hold; False if it had ended. Raises NotFoundError for a lease that never was."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            return self._end(lease, reason)
        if lease_id in self._ended:
            return False
        raise NotFoundError(f"{lease_id!r}: no such lease; duplexctl status shows those that hold")

    def _end(self, lease: Lease, reason: str) -> bool:
        if not lease.end(reason):
            return False
        del self.leases[lease.id]
        self._ended[lease.id] = lease
        while len(self._ended) > _ENDED_LEASES_KEPT:
            del self._ended[next(iter(self._ended))]
        freed: list[tuple[float, Change]] = []
        now = self._controller.clock.monotonic()
        for pair in lease.pairs:
            pair.holds -= 1
            lease.writes_held += len(pair.waiting)
            if not pair.holds:
                waiting, pair.waiting = pair.waiting, []
                freed += [(self._arrivals.pop(id(change), now), change) for change in waiting]
        if freed:
            lease.wait_s_max = now - min(arrival for arrival, _ in freed)
        if not self.leases:
            self._arrivals.clear()
        self.held_seconds_max = max(self.held_seconds_max, lease.wait_s_max)
        self.lost += lease.lost
        verdict = {"verdict": VOID} if lease.lost else {}
        self._controller.emit(
            "released",
            volumes=lease.volumes,
            lease=lease.id,
            reason=reason,
            held_s=now - lease.began,
            writes_held=lease.writes_held,
            **verdict,
        )
        freed.sort(key=lambda item: item[0])
        self._controller.resume([change for _, change in freed])
        return True

    def stop(self) -> None:
        """End every hold."""
        for lease in list(self.leases.values()):
            self._end(lease, gate.STOPPING)

    # --------------------------------------------------------------------------------------------------------------- cuts

    async def suspend(self, pairs: list[Pair], tag: str, lease_id: str | None, cut_id: str | None = None) -> dict[str, Any]:
        """Suspend DUPLEX pairs at one number, in one step. Returns when the secondaries are durable and stand there.

        With a lease, its hold ends in the same step. Raises WrongStateError with nothing done if not all pairs can be cut together,
        LeaseLostError if the hold ended before. A cut that is not consistent afterwards is marked void in the journal.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        controller = self._controller
        controller.holds.cuts += 1
        began = controller.clock.monotonic()
        done = await controller.step(lambda: self._cut(pairs, tag, lease_id, cut_id or self.new_cut_id()))
        cut, already, lease, pause_s = done
        settling = self._settling.get(cut.id)
        if settling is not None:
            await asyncio.shield(settling)  # a caller that goes away leaves no cut without a verdict
        elif already:  # by a freeze, perhaps: then nobody has made it durable yet
            await self._settle(pairs, cut)
        result = {
            "verdict": self._verdict(pairs, cut), "cut": cut.id, "tag": cut.tag, "already": already,
            "controllers": {controller.name: cut.sequence}, "volumes": [pair.name for pair in pairs], "time": cut.time_us / 1e6,
            "hold": {
                "seconds_max": lease.wait_s_max if lease else pause_s, "writes_held": lease.writes_held if lease else 0,
            },
            "seconds": controller.clock.monotonic() - began,
        }  # fmt: skip
        if not already:
            controller.emit(
                "suspended", reason=state.BY_COMMAND, **{key: result[key] for key in ("volumes", "cut", "tag", "verdict", "hold")}
            )
        return result

    def _cut(self, pairs: list[Pair], tag: str, lease_id: str | None, cut_id: str) -> tuple[Cut, bool, Lease | None, float]:
        controller = self._controller
        began = controller.clock.monotonic()
        lease = self._lease(lease_id, pairs) if lease_id is not None else None
        first = pairs[0].cut
        if first is not None and all(pair.state == state.SUSPENDED and pair.cut is first for pair in pairs):
            if lease is not None:
                self._end(lease, gate.BY_SUSPEND)
            return first, True, lease, 0.0
        self._check_states(pairs)
        mirrored = [pair for pair in pairs if pair.mirrors]
        try:
            sequence = controller.mark({"m": "cut", "id": cut_id, "tag": tag, "volumes": [pair.id for pair in pairs]})
        except OSError as error:
            raise WrongStateError(f"the journal does not take the cut: {error.strerror or error}; nothing was suspended") from error
        made = pairs[0].cut
        assert made is not None
        for pair in mirrored:
            pair.applied = sequence
        self.unsettled.add(cut_id)
        self._settling[cut_id] = asyncio.get_running_loop().create_task(self._settle(pairs, made), name=f"settle {cut_id}")
        if lease is not None:
            self._end(lease, gate.BY_SUSPEND)
        controller.jobs.written()
        return made, False, lease, controller.clock.monotonic() - began

    def _lease(self, lease_id: str, pairs: list[Pair]) -> Lease:
        lease = self.leases.get(lease_id)
        if lease is None:
            if lease_id in self._ended:
                ended = self._ended[lease_id]
                why = ended.ended.result() if ended.ended.done() else "ended"
                raise LeaseLostError(f"lease {lease_id} ended before ({why}): verdict void, nothing was suspended; quiesce again")
            raise NotFoundError(f"{lease_id!r}: no such lease; duplexctl status shows those that hold")
        outside = [pair.name for pair in pairs if pair not in lease.pairs]
        if outside:
            raise UsageError(f"lease {lease_id} does not hold {', '.join(outside)}; quiesce all that is to be suspended")
        return lease

    def _check_states(self, pairs: list[Pair]) -> None:
        wrong = [pair for pair in pairs if pair.state != state.DUPLEX]
        if not wrong:
            return
        listed = ", ".join(f"{pair.name} is {pair.state}" + (f" ({pair.reason})" if pair.reason else "") for pair in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        todo = "resync --wait brings suspended pairs back" if any(pair.state == state.SUSPENDED for pair in wrong) else (
            "wait until they are DUPLEX" if any(pair.state == state.PENDING for pair in wrong) else "a volume without secondary can't be suspended"
        )  # fmt: skip
        raise WrongStateError(f"only pairs that are all DUPLEX can be suspended at one cut: {listed}{more}; {todo}")

    async def _settle(self, pairs: list[Pair], cut: Cut) -> None:
        """Make the cut durable where it lies. If the journal fails here, its verdict stays unknown until recovery has proved it."""
        controller = self._controller
        await controller.durable(controller.writer.written)  # the marker, which a freeze wrote later than where it stands
        await controller.jobs.reached(pairs, cut.sequence)
        await controller.maintenance.sync_secondaries(pairs)
        if self._verdict(pairs, cut) == VOID and cut.verdict == CONSISTENT:
            cut.verdict = VOID
            await self.make_void(cut.id)
        self.unsettled.discard(cut.id)
        self._settling.pop(cut.id, None)
        controller.jobs.moved()

    def _verdict(self, pairs: list[Pair], cut: Cut) -> str:
        stands = all(pair.usable and pair.cut is cut and pair.applied == cut.sequence for pair in pairs)
        return CONSISTENT if stands and cut.verdict == CONSISTENT else VOID

    async def make_void(self, cut_id: str) -> None:
        """Say in the journal that a cut is not consistent."""

        def mark() -> None:
            try:
                self._controller.mark({"m": "void", "cut": cut_id})
            except OSError as refused:  # it must not be found consistent after a restart
                self._controller.trouble.journal_refused(refused, final=True)
                raise

        await self._controller.step(mark)
