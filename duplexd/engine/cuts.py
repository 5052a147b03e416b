"""Cuts: what suspends pairs at one point, of this controller alone or together with others, and what may honestly be said of it.

What a cut of several controllers goes through is `core/votes.py`, who may do what with it `core/member.py`; here is what that takes of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from duplexd.core import gate, state, votes
from duplexd.core.ledger import CONSISTENT, VOID
from duplexd.engine import status as overview
from duplexd.errors import NotFoundError, UsageError, WrongStateError
from duplexd.limits import CUT_FIGURES_KEPT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.gate import Lease
    from duplexd.core.pair import Cut, Pair
    from duplexd.engine.controller import Controller


class Cuts:
    """All cuts of a controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.unsettled: set[str] = set()  # cuts whose secondaries are not yet known to be durable
        self._settling: dict[
            str, asyncio.Task[None]
        ] = {}  # what makes them so; one that failed stays, and tells whoever asks
        self._figured: deque[Cut] = deque()  # whose figures are kept, oldest first
        self.made = 0

    def new_id(self) -> str:
        """An id that no cut had."""
        return secrets.token_hex(8)

    def check_states(self, pairs: list[Pair]) -> None:
        """Raises WrongStateError unless all are DUPLEX."""
        wrong = [pair for pair in pairs if pair.state != state.DUPLEX]
        if not wrong:
            return
        listed = ", ".join(
            f"{pair.name} is {pair.state}" + (f" ({pair.reason})" if pair.reason else "")
            for pair in wrong[:5]
        )
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        todo = "resync --wait brings suspended pairs back" if any(pair.state == state.SUSPENDED for pair in wrong) else (
            "wait until they are DUPLEX" if any(pair.state == state.PENDING for pair in wrong) else "a volume without secondary can't be suspended"
        )  # fmt: skip
        raise WrongStateError(
            f"only pairs that are all DUPLEX can be suspended at one cut: {listed}{more}; {todo}"
        )

    # ------------------------------------------------------------------------------------------------ of this controller alone

    async def suspend(
        self,
        pairs: list[Pair],
        tag: str,
        lease_id: str | None,
        fence: int | None = None,
        certificate: bool = False,
    ) -> dict[str, Any]:
        """Suspend DUPLEX pairs at one number, in one step. Returns when the secondaries are durable and stand there.

        With a lease, its hold ends in the same step. Raises WrongStateError with nothing done if not all pairs can be cut together,
        LeaseLostError if the hold ended before. A cut that is not consistent afterwards is marked void in the journal. With `certificate`
        the result holds what proves the cut.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        controller = self._controller
        self.made += 1
        began = controller.clock.monotonic()
        cut, already, lease, pause_s = await controller.step(
            lambda: self._cut(pairs, tag, lease_id, fence)
        )
        if already and cut.members and cut.verdict is None:
            raise WrongStateError(
                f"they stand at cut {cut.id} of group {cut.group}, which its controllers have not decided; `duplexctl settle {cut.group}` does"
            )
        settling = self._settling.get(cut.id)
        if settling is not None:
            await asyncio.shield(
                settling
            )  # a caller that goes away leaves no cut without a verdict
        elif already:  # by a freeze, perhaps: then nobody has made it durable yet
            await self._settle(pairs, cut)
        hold = controller.holds.figures(lease, pause_s)
        verdict = CONSISTENT if self._stands(pairs, cut) and cut.verdict == CONSISTENT else VOID
        result: dict[str, Any] = {
            "verdict": verdict, "cut": cut.id, "tag": cut.tag,
            "already": already, "controllers": {controller.name: cut.sequence}, "volumes": [pair.name for pair in pairs],
            "time": cut.time_us / 1e6, "hold": hold, "seconds": controller.clock.monotonic() - began,
            "why": (cut.why or None) if verdict == VOID else None,
            **({"members": [self._made(cut) | {"volumes": _images(pairs)}]} if certificate else {}),
        }  # fmt: skip
        if not already:
            self._keep_figures(cut, hold)
            self._tell_suspended(cut, result["volumes"], verdict)
        return result

    def _cut(
        self, pairs: list[Pair], tag: str, lease_id: str | None, fence: int | None
    ) -> tuple[Cut, bool, Lease | None, float]:
        controller = self._controller
        began = controller.clock.monotonic()
        lease = self._lease(lease_id, fence, pairs) if lease_id is not None else None
        first = pairs[0].cut
        if first is not None and all(
            pair.state == state.SUSPENDED and pair.cut is first for pair in pairs
        ):
            if lease is not None:
                controller.holds.end(lease, gate.BY_SUSPEND)
            return first, True, lease, 0.0
        self.check_states(pairs)
        controller.holds.member.refuse_overlap(pairs)
        cut = self._mark(
            pairs,
            {"m": "cut", "id": self.new_id(), "tag": tag, "volumes": [pair.id for pair in pairs]},
            controller.mark,
        )
        self._start_settling(pairs, cut)
        if lease is not None:
            lease.cut_at = controller.clock.monotonic()
            controller.holds.end(lease, gate.BY_SUSPEND)
        return cut, False, lease, controller.clock.monotonic() - began

    def _lease(self, lease_id: str, fence: int | None, pairs: list[Pair]) -> Lease:
        lease = self._controller.holds.member.find(lease_id, fence)
        if lease.cut_id:
            raise UsageError(
                f"lease {lease_id} is held for cut {lease.cut_id} of a group of controllers; its coordinator cuts"
            )
        outside = [pair.name for pair in pairs if pair not in lease.pairs]
        if outside:
            raise UsageError(
                f"lease {lease_id} does not hold {', '.join(outside)}; quiesce all that is to be suspended"
            )
        return lease

    def _mark(
        self, pairs: list[Pair], marker: dict[str, Any], mark: Callable[[dict[str, Any]], object]
    ) -> Cut:
        mirrored = [pair for pair in pairs if pair.mirrors]
        writer = self._controller.writer
        sequence, chain = writer.sequence, writer.chain
        try:
            mark(marker)
        except OSError as error:
            raise WrongStateError(
                f"the journal does not take the cut: {error.strerror or error}; nothing was suspended"
            ) from error
        cut = pairs[0].cut
        assert cut is not None
        cut.crc, cut.chain = (
            writer.chain,
            chain if writer.sequence == sequence + 1 else None,
        )  # None: another segment was begun in between
        for pair in mirrored:
            pair.applied = cut.sequence
        self.unsettled.add(cut.id)
        self._controller.jobs.written()
        return cut

    # ---------------------------------------------------------------------------------------------- together with other controllers

    async def make(
        self,
        cut_id: str,
        lease_id: str,
        fence: int | None,
        tag: str,
        group: str,
        members: list[str],
    ) -> dict[str, Any]:
        """Cut all pairs of a lease that is held for this cut. The gates stay closed; the cut stays undecided. Raises LeaseLostError and others."""
        controller = self._controller

        def cut() -> tuple[dict[str, Any], list[str]]:
            holds = controller.holds
            pairs = list(holds.member.find(lease_id, fence).pairs)
            self.check_states(pairs)
            marker = {
                "m": "cut", "id": cut_id, "tag": tag, "volumes": [pair.id for pair in pairs], "group": group, "members": members,
            }  # fmt: skip
            made = self._mark(
                pairs, marker, lambda marker: holds.member.cut(lease_id, fence, marker)
            )
            made.names = [pair.name for pair in pairs]
            holds.leases[lease_id].cut_at = controller.clock.monotonic()
            self.made += 1
            return self._made(made), made.names

        result, names = await controller.step(cut)
        controller.emit("cut", cut=cut_id, tag=tag, group=group, volumes=names)
        return result

    async def open(self, cut_id: str, lease_id: str, fence: int | None) -> dict[str, Any]:
        """Open the gates of a lease whose cut was made; then bring the secondaries there, and vote. Raises LeaseLostError and others."""
        controller = self._controller

        def gates() -> tuple[Lease, asyncio.Task[None] | None]:
            lease = controller.holds.member.may_open(cut_id, lease_id, fence)
            controller.holds.end(lease, gate.BY_SUSPEND)
            self._keep_figures(cut, controller.holds.figures(lease))
            return lease, self._settling.get(cut_id)

        cut = self.find(cut_id)
        lease, settling = await controller.step(gates)
        if settling is not None:
            await asyncio.shield(settling)
        return overview.cut(controller, cut) | {"images": _images(lease.pairs)}

    def hold_ended(self, lease: Lease) -> None:
        """The hold of a cut that was made is over: the secondaries are brought there, whatever becomes of it."""
        controller = self._controller
        cut = controller.ledger.cut(lease.cut_id)
        if cut is None:
            return
        self._start_settling(list(lease.pairs), cut)

        def lost() -> None:
            with contextlib.suppress(
                OSError
            ):  # then the controller has failed, and a restart finds no promise
                self._must(lambda: controller.holds.member.lost(cut.id))
            self.tell_verdict(cut)

        controller.batches.when_idle(lost)

    async def decide(self, cut_id: str, how: str) -> dict[str, Any]:
        """What a coordinator knows or asks: `how` is one of `pair.votes.ABORT`, AGREE, REFUSE. Returns once the answer is durable."""
        controller = self._controller
        member = controller.holds.member

        def step() -> tuple[str, str]:
            if how != votes.AGREE:  # nobody needs that hold any more
                controller.holds.release_cut(cut_id, gate.ABORTED)
            before = controller.ledger.state_of(cut_id)
            call = {
                votes.ABORT: member.abort,
                votes.AGREE: member.agree,
                votes.REFUSE: member.refuse,
            }[how]
            return before, self._must(lambda: call(cut_id))

        before, after = await controller.step(step)
        cut = self.find(cut_id)
        await controller.durable(controller.writer.written)
        if before not in {votes.NONE, after}:
            self.tell_verdict(cut)
        return overview.cut(controller, cut)

    def release(self, cut_id: str) -> dict[str, Any]:
        """End the lease that is held for a cut that is not to be made, if there is one."""
        lease_id = self._controller.holds.release_cut(cut_id, gate.BY_OWNER)
        return {"lease": lease_id or None, "released": bool(lease_id)}

    def show(self, cut_id: str) -> dict[str, Any]:
        """One cut. Raises NotFoundError."""
        return overview.cut(self._controller, self.find(cut_id))

    def all(self) -> dict[str, Any]:
        """All that are remembered, oldest first."""
        return {"cuts": overview.cuts(self._controller, self._controller.ledger.cuts.values())}

    def find(self, cut_id: str) -> Cut:
        """The cut of that id. Raises NotFoundError."""
        cut = self._controller.ledger.cut(cut_id)
        if cut is None:
            raise NotFoundError(
                f"{cut_id!r}: no such cut is remembered; duplexctl cuts shows those that are"
            )
        return cut

    async def grade(
        self, cut_id: str, consistent: bool, records: int, detail: str
    ) -> dict[str, Any]:
        """Keep what a canary found on the secondaries of a cut; one that is broken is void for ever."""
        controller = self._controller
        cut = self.find(cut_id)

        def step() -> None:
            controller.mark(
                {
                    "m": "grade",
                    "cut": cut_id,
                    "consistent": consistent,
                    "records": records,
                    "detail": detail,
                }
            )
            if not consistent and cut.state != VOID:
                controller.mark({"m": "void", "cut": cut_id})

        await controller.step(lambda: self._must(step))
        await controller.durable(controller.writer.written)
        controller.emit(
            "graded",
            cut=cut_id,
            consistent=consistent,
            records=records,
            detail=detail,
            verdict=cut.verdict,
        )
        return overview.cut(controller, cut)

    async def read(self, cut_id: str, name: str, offset: int, length: int) -> bytes:
        """Bytes of a secondary that stands at this cut. Raises WrongStateError if it does not, or no longer does."""
        cut, pair = self.find(cut_id), self._controller.pairs[name]

        def stands() -> bool:
            return (
                pair.cut is cut
                and pair.state == state.SUSPENDED
                and pair.usable
                and cut_id not in self.unsettled
            )

        def call() -> bytes:
            assert pair.secondary is not None
            data = bytearray(length)
            pair.secondary.read_into(offset, memoryview(data))
            return bytes(data)

        if offset < 0 or length <= 0 or offset + length > pair.size:
            raise UsageError(
                f"{pair.name} has {pair.size} bytes: {length} from {offset} on are not all there"
            )
        data = await self._controller.work(call) if stands() else b""
        if not stands():
            raise WrongStateError(
                f"the secondary of {pair.name} does not stand at cut {cut_id}, durably; duplexctl status shows where it does"
            )
        return data

    # ------------------------------------------------------------------------------------------------------------------ settling

    def _start_settling(self, pairs: list[Pair], cut: Cut) -> None:
        task = asyncio.get_running_loop().create_task(
            self._settle(pairs, cut), name=f"settle {cut.id}"
        )
        task.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # one that failed tells whoever asks, if anybody does
        self._settling[cut.id] = task

    async def _settle(self, pairs: list[Pair], cut: Cut) -> None:
        """Make the cut durable where it lies. If the journal fails here, its verdict stays unknown until recovery has proved it."""
        controller = self._controller
        await controller.durable(
            controller.writer.written
        )  # the marker, which a freeze wrote later than where it stands
        await controller.jobs.reached(pairs, cut.sequence)
        await controller.maintenance.sync_secondaries(pairs)
        stands = self._stands(pairs, cut)
        if cut.members:
            await controller.step(
                lambda: self._must(lambda: controller.holds.member.stood(cut.id, stands))
            )
        elif stands and cut.id in self.unsettled:
            with contextlib.suppress(
                OSError
            ):  # without it a restart writes there what is there already, while somebody may be reading
                await controller.step(lambda: controller.mark({"m": "stood", "cut": cut.id}))
        elif not stands and cut.verdict == CONSISTENT:
            await controller.step(
                lambda: self._must(lambda: controller.mark({"m": "void", "cut": cut.id}))
            )
        if cut.members or not stands:
            await controller.durable(
                controller.writer.written
            )  # what is told of it now stays so, also where a freeze made it void
        if cut.members:
            self.tell_verdict(cut)
        self.unsettled.discard(cut.id)
        self._settling.pop(cut.id, None)
        controller.jobs.moved()

    def _stands(self, pairs: list[Pair], cut: Cut) -> bool:
        return all(
            pair.usable and pair.cut is cut and pair.applied == cut.sequence for pair in pairs
        )

    def _must(self, mark: Callable[[], Any]) -> Any:
        """A marker without which a cut could be found consistent after a restart that is not."""
        try:
            return mark()
        except OSError as refused:
            self._controller.trouble.journal_refused(refused, final=True)
            raise

    # ------------------------------------------------------------------------------------------------------------------- telling

    def _keep_figures(self, cut: Cut, figures: dict[str, Any]) -> None:
        """Of the latest cuts only: figures have an entry for each volume that had to wait."""
        cut.hold = figures
        self._figured.append(cut)
        if len(self._figured) > CUT_FIGURES_KEPT_MAX:
            oldest = self._figured.popleft()
            oldest.hold, oldest.names = None, []

    def tell_verdict(self, cut: Cut) -> None:
        """The event of a cut of several controllers, as soon as its verdict is known, and when it changes."""
        if cut.verdict is not None and cut.told != cut.verdict:
            cut.told = cut.verdict
            self._tell_suspended(
                cut, cut.names or overview.cut(self._controller, cut)["volumes"], cut.verdict
            )

    def _tell_suspended(self, cut: Cut, volumes: list[str], verdict: str | None) -> None:
        together = {"group": cut.group, "members": list(cut.members)} if cut.members else {}
        hold = {key: value for key, value in (cut.hold or {}).items() if key != "buckets"}
        self._controller.emit(
            "suspended", reason=state.BY_COMMAND, volumes=volumes, cut=cut.id, tag=cut.tag, verdict=verdict, at=cut.sequence, hold=hold or None,
            **together,
        )  # fmt: skip

    def _made(self, cut: Cut) -> dict[str, Any]:
        """What a certificate holds of this controller, but for the images: writes wait while this is told."""
        controller = self._controller
        return {
            "cut": cut.id, "controller": controller.name, "sequence": cut.sequence, "time": cut.time_us / 1e6,
            "journal": {
                "directory": str(controller.config.controller.state_dir), "identity": controller.ring.controller.hex(),
                "crc": cut.crc, "chain": cut.chain,
            },
        }  # fmt: skip


def _images(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "id": pair.id,
            "name": pair.name,
            "size": pair.size,
            "primary": pair.primary.path,
            "secondary": pair.secondary_path,
        }
        for pair in pairs
    ]
