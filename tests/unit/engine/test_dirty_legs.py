"""What was written to a secondary counts as not durable until it was synced, whatever comes in between."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from duplexd.core.pair import Pair
from duplexd.errors import DuplexdError
from tests.unit.engine.cores import new_disk, run, running

if TYPE_CHECKING:
    import pytest

TWO = {"data": "async", "wal": "async"}


async def test_what_a_follower_writes_while_a_checkpoint_begins_is_synced_by_the_next_one() -> None:
    """Followers write in threads: also between two instructions of the loop."""
    async with running(TWO) as core:
        await core.controller.maintenance.checkpoint()
        leg, data = core.secondary("data"), core.pair("data")

        class Meanwhile(Pair):
            __slots__ = ()

            @property
            def secondary_dirty(self) -> bool:
                data.secondary_dirty = True  # the other thread has its turn
                return False

            @secondary_dirty.setter
            def secondary_dirty(self, _dirty: bool) -> None: ...

        wal = core.pair("wal")
        wal.__class__ = Meanwhile
        await core.controller.maintenance.checkpoint()
        wal.__class__ = Pair
        await core.controller.maintenance.checkpoint()
        assert leg.calls["sync"] > 0


def test_a_consistent_suspend_is_durable_beside_a_checkpoint_that_fails() -> None:
    async def suspended(turns: int) -> bool | None:
        """Whether the secondary was synced; None if the suspend did not say that it was."""
        async with running(disk=new_disk()) as core:
            primary, secondary = core.faulty()
            assert secondary is not None
            assert await core.write("data", 0, b"something") == 0
            primary.fail("sync")
            task = asyncio.ensure_future(core.controller.maintenance.checkpoint())
            await core.turns(turns)
            said = False
            with contextlib.suppress(DuplexdError):
                said = (await core.controller.suspend(["data"]))["verdict"] == "consistent"
            await asyncio.gather(task, return_exceptions=True)
            return secondary.calls["sync"] > 0 if said else None

    found = [run(suspended(turns)) for turns in range(40)]
    assert True in found
    assert False not in found


async def test_a_sync_beside_a_batch_does_not_make_clean_what_that_writes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A suspend of pairs that stand at a cut may meet a resync, and then clients that write again."""
    async with running() as core:
        pair, workers, later = core.pair(), core.controller.journal_workers, list[Any]()
        monkeypatch.setattr(core.controller, "journal_workers", Slow(later))
        change = core.send("data", 0, b"\x5a")
        await core.until(lambda: bool(later))
        sync = asyncio.ensure_future(core.controller.maintenance.sync_secondaries([pair]))
        await core.turns()
        leg = core.secondary()
        monkeypatch.setattr(core.controller, "journal_workers", workers)
        workers.submit(*later[0])
        await core.answer(change)
        await sync
        assert pair.secondary_dirty or leg.calls["sync"] > 0


class Slow:
    """Workers that begin nothing."""

    def __init__(self, later: list[Any]) -> None:
        self._later = later

    def submit(self, *work: Any) -> None:
        self._later.append(work)


async def test_a_checkpoint_that_finds_a_failed_secondary_is_taken_without_it() -> None:
    """Whoever needs it for room in the journal would go without, and changes be refused."""
    async with running({"data": "sync", "wal": "sync"}) as core:
        maintenance, pair = core.controller.maintenance, core.pair()
        secondary = core.secondary()
        await core.write("data", 0, b"something")
        await core.write("wal", 0, b"something")
        before, floor = maintenance.checkpoints, maintenance.replay_floor
        secondary.fail("sync")
        await maintenance.checkpoint()
        assert (pair.state, pair.usable) == ("SUSPENDED", False)
        assert maintenance.checkpoints == before + 1
        assert maintenance.replay_floor > floor
