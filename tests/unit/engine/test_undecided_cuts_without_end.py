"""More cuts are left undecided than are remembered: what a secondary stands at, and what was just said, is known all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core import cut_states as votes
from duplexd.core import ledger
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    import pytest

VOLUMES = {"data": "sync", "wal": "sync", "log": "sync"}
MEMBERS = ["alpha", "beta"]


def cut_id(number: int) -> str:
    return f"{number:016x}"


async def made(core: Core, number: int, name: str) -> None:
    lease = await core.controller.quiesce([name], 2.0, "me", cut_id(number))
    await core.controller.cuts.make(cut_id(number), lease.id, lease.fence, "", "db", MEMBERS)


async def test_what_is_given_up_is_not_forgotten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "CUTS_KEPT_MAX", 2)
    async with running(VOLUMES) as core:
        await made(core, 1, "data")
        await made(core, 2, "wal")
        assert (await core.controller.cuts.decide(cut_id(3), votes.ABORT))["state"] == "void"
        assert core.controller.ledger.state_of(cut_id(3)) == votes.VOID
        assert len(core.controller.ledger.cuts) == 2


def test_a_restart_makes_one_void_that_only_its_secondaries_remember(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "CUTS_KEPT_MAX", 2)
    disk = new_disk()

    async def die() -> None:
        core = Core(disk, settings(VOLUMES))
        await core.controller.start()
        for number, name in enumerate(VOLUMES, 1):
            await made(core, number, name)
        assert cut_id(1) not in core.controller.ledger.cuts
        await core.controller.durable(core.controller.writer.written)
        disk.crash(power=False)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def again() -> None:
        async with running(VOLUMES, disk=disk) as core:
            assert [core.controller.ledger.state_of(cut_id(number)) for number in (1, 2, 3)] == [
                votes.VOID
            ] * 3

    run(die())
    run(again())
