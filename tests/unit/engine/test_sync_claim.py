"""The claim behind the last synced records: one, soon after the last sync, and only where no other
record or checkpoint makes it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DamageError
from duplexd.journal.format import MARKER, SEGMENT_HEADER_BYTES, unpack_marker
from duplexd.journal.scan import records
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import Core, new_disk, running, settings

if TYPE_CHECKING:
    from duplexd.journal.format import Record
    from tests.sim.disk import SimDisk

DATA = b"\x77" * 4096
TICK_S = EngineLimits().sync_interval_s
SEGMENT = "/state/journal/0000.seg"


def written(disk: SimDisk) -> list[Record]:
    return list(records(disk.content(SEGMENT), SEGMENT_HEADER_BYTES, 1, 0))


def claims(disk: SimDisk) -> list[Record]:
    data = disk.content(SEGMENT)
    return [
        record
        for record in written(disk)
        if record.kind == MARKER
        and unpack_marker(data[record.payload_start : record.end])["m"] == "synced"
    ]


async def test_after_the_last_flush_there_is_one_claim_and_it_becomes_durable() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        assert await core.flush() == 0
        last = core.controller.timeline.written
        await asyncio.sleep(10 * TICK_S)
        (claim,) = claims(core.disk)
        assert (claim.sequence, claim.synced) == (last + 1, last)
        assert core.controller.timeline.writer.synced == claim.sequence
        assert written(core.disk)[-1] == claim, "an idle journal does not grow"


async def test_what_was_never_flushed_is_synced_and_then_claimed() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        last = core.controller.timeline.written
        await asyncio.sleep(4 * TICK_S)
        assert [claim.synced for claim in claims(core.disk)] == [last]


async def test_while_changes_keep_coming_they_make_the_claims() -> None:
    async with running() as core:
        for _ in range(20):
            assert await core.write("data", 0, DATA) == 0
            await asyncio.sleep(TICK_S / 3)
        assert claims(core.disk) == []
        assert written(core.disk)[-1].synced >= written(core.disk)[-5].sequence


async def test_what_a_checkpoint_says_is_not_claimed_again() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.checkpointer.checkpoint()
        await asyncio.sleep(4 * TICK_S)
        assert claims(core.disk) == []


async def test_a_start_claims_nothing() -> None:
    async with running() as core:
        await asyncio.sleep(4 * TICK_S)
        assert claims(core.disk) == []


@pytest.mark.parametrize("power", [False, True])
async def test_damage_to_the_last_flushed_record_is_no_torn_tail(power: bool) -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings())
    assert await core.write("data", 0, DATA) == 0
    assert await core.flush() == 0
    (record,) = [record for record in written(disk) if record.payload_length == len(DATA)]
    await asyncio.sleep(3 * TICK_S)
    await core.crash(power=power)
    disk.flip(SEGMENT, record.payload_start + 9)
    with pytest.raises(
        DamageError,
        match=rf"{SEGMENT}: byte {record.start}: record {record.sequence} is missing or damaged, "
        r"although it was durable.* duplexd journal inspect /state",
    ):
        await Core.begin(disk, settings())
    disk.flip(SEGMENT, record.payload_start + 9)
    async with running(disk=disk) as core:
        assert core.image("data", "a")[: len(DATA)] == DATA
