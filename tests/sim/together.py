"""The scenario of `scenario.py` with cuts of a group of controllers: this member keeps its votes
through every crash.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core import cut_states as votes
from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError, LeaseLostError
from tests.sim import scenario
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from duplexd.core.lease import Lease

# What a cut may be found as, by what was said of it before the crash. Anything may be void once a
# secondary has failed.
LATER = {
    votes.NONE: {votes.NONE, votes.VOID},
    votes.CUT: {votes.NONE, votes.VOID},
    votes.READY: {votes.READY},
    votes.CONSISTENT: {votes.CONSISTENT},
    votes.VOID: {votes.VOID},
}


class Together(Scenario):
    """`said` is the last answer of this controller about each cut; None while a request is in
    flight.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.said: dict[str, str | None] = {}
        self._number = 0

    async def _busy(self) -> None:
        await self._check_votes()
        await super()._busy()

    async def _end(self) -> None:
        await self._check_votes()
        await super()._end()

    async def _check_votes(self) -> None:
        """After a recovery."""
        controller, ledger = self.machine.controller, self.machine.controller.timeline.ledger
        for cut_id, said in self.said.items():
            found = ledger.state_of(cut_id)
            if said is None:
                assert found != votes.CUT, f"cut {cut_id} outlived the lease that it was made under"
                continue
            may_be = LATER[said] | ({votes.VOID} if self.faults else set())
            assert found in may_be, (
                f"cut {cut_id} was {said or 'not made'} before the crash "
                f"and is {found or 'unknown'} after it"
            )
        await controller.timeline.durable(
            controller.timeline.writer.written
        )  # only what is durable is said
        self.said = {cut_id: ledger.state_of(cut_id) for cut_id in self.said}

    async def _administrate(self) -> None:
        if self.rng.random() < 0.5:
            await super()._administrate()
            return
        await self._attempt(self._take_part())
        await asyncio.sleep(self.rng.choice((0, 0, 0.01, 0.3)))

    async def _attempt(self, work: Awaitable[None]) -> None:
        try:
            await work
        except DuplexdError as error:
            self.machine.note(f"  {type(error).__name__}: {error}")
        except OSError:
            if not self.machine.controller.failed:
                raise

    async def _take_part(self) -> None:
        """One cut with other controllers, interrupted at any point."""
        machine, rng = self.machine, self.rng
        controller = machine.controller
        names = [
            name for name in self._names() if controller.volumes.by_name[name].state == state.DUPLEX
        ]
        if not names:
            await self._resync()
            return
        self._number += 1
        cut_id = f"c{self._number:015x}"
        machine.note(f"cut {cut_id} with others {names}")
        if rng.random() < 0.1:
            await self._say(cut_id, votes.ABORT)
        lease = await controller.quiesce(names, rng.choice((0.05, 1.0, 5.0)), "sim", cut_id)
        self.said[cut_id] = votes.NONE
        await asyncio.sleep(rng.choice((0, 0.01, 0.2)))
        if rng.random() < 0.15:
            controller.release(lease.id, rng.choice(("owner gone", "released")))
        vote = await self._cut_and_open(cut_id, lease)
        if rng.random() < 0.2:
            vote = await self._say(cut_id, votes.ABORT)
        if rng.random() < 0.3:
            return  # the coordinator is gone
        if vote == votes.READY and rng.random() < 0.7:
            await self._say(cut_id, votes.AGREE)
        else:
            await self._say(cut_id, votes.REFUSE)

    async def _cut_and_open(self, cut_id: str, lease: Lease) -> str:
        controller, rng = self.machine.controller, self.rng
        self.said[cut_id] = None
        try:
            await controller.cuts.make(cut_id, lease.id, lease.fence, "", "db", ["alpha", "beta"])
        except LeaseLostError:
            self.said[cut_id] = votes.NONE
            raise
        await asyncio.sleep(rng.choice((0, 0.01, 0.2)))
        if rng.random() < 0.15:
            controller.release(lease.id, "deadline")
            await asyncio.sleep(1)
            assert controller.failed or controller.timeline.ledger.state_of(cut_id) == votes.VOID, (
                f"cut {cut_id} outlived its lease"
            )
        if rng.random() < 0.2:
            await self._look_between(lease)
        result = await controller.cuts.open(cut_id, lease.id, lease.fence)
        self.said[cut_id] = result["state"]
        self.machine.note(f"  {result['state']}")
        return str(result["state"])

    async def _look_between(self, lease: Lease) -> None:
        await asyncio.sleep(0.05)
        assert lease.state != "held" or all(
            self.machine.controller.leases.holds(pair) for pair in lease.pairs
        ), "a gate opened while its lease is held"

    async def _say(self, cut_id: str, event: str) -> str:
        before = self.said.get(cut_id)
        self.said[cut_id] = None
        result = await self.machine.controller.cuts.decide(cut_id, event)
        self.said[cut_id] = result["state"]
        if before == votes.VOID:
            assert result["state"] == votes.VOID
        if result["verdict"] == votes.CONSISTENT and result["volumes"]:
            self.cuts.returned(
                {**result, "cut": cut_id, "controllers": {"sim": result["sequence"]}}
            )
        return str(result["state"])


def run(seed: int) -> None:
    """One seed; a failure names it."""
    scenario.run(seed, Together)
