"""A checkpoint that takes long, for the secondaries of a suspend are being synced: changes have the room of the whole journal meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.unit.engine.cores import MIB, running

if TYPE_CHECKING:
    import pytest

    from duplexd.core.pair import Pair

WRITTEN = 40  # of 48 that there is room for; a checkpoint is due at 24


async def test_segments_are_made_ready_while_a_checkpoint_waits() -> None:
    async with running(journal="64MiB") as core, asyncio.timeout(60):
        maintenance = core.controller.maintenance
        before = maintenance.checkpoints
        async with maintenance.standing_still():
            for number in range(WRITTEN):
                await core.write("data", number % 4 * MIB, bytes([number]) * MIB)
            assert maintenance.checkpoints == before
        for number in range(WRITTEN):  # more than is left: it needs what the checkpoint frees
            await core.write("data", number % 4 * MIB, bytes([number]) * MIB)
        assert maintenance.checkpoints > before


async def test_a_checkpoint_that_fails_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("duplexd.engine.maintenance.SYNC_INTERVAL_S", 0.01)
    async with running(journal="64MiB") as core, asyncio.timeout(60):
        maintenance, replace = core.controller.maintenance, core.disk.replace_file

        def refuse(path: str, data: bytes) -> None:
            core.disk.replace_file = replace  # type: ignore[method-assign]
            raise OSError(28, "No space left on device", path)

        core.disk.replace_file = refuse  # type: ignore[method-assign]
        before = maintenance.checkpoints
        for number in range(WRITTEN):
            await core.write("data", number % 4 * MIB, bytes([number]) * MIB)
        while maintenance.checkpoints == before:  # noqa: ASYNC110 - in its own time
            await asyncio.sleep(0.01)
        assert [event["event"] for event in core.events].count("checkpoint-failed") == 1


async def test_what_was_begun_since_the_snapshot_keeps_the_journal_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resync by journal: a restart would begin with the checkpoint's pairs at their cut, and walk on from there."""
    async with running() as core:
        await core.write("data", 0, b"x")
        maintenance = core.controller.maintenance
        sync = maintenance._sync_primaries

        async def meanwhile(pairs: list[Pair]) -> None:
            maintenance.keep_from(2)
            await sync(pairs)

        monkeypatch.setattr(maintenance, "_sync_primaries", meanwhile)
        await maintenance.checkpoint()
        assert maintenance.replay_floor == 2
        monkeypatch.undo()
        await maintenance.checkpoint()
        assert maintenance.replay_floor > 2
