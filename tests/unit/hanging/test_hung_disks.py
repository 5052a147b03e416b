"""Which images are given up with one that hangs, how long the others may take, and at which number
their pairs stand then.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import SUSPENDED
from duplexd.core.patience import PRIMARY, SECONDARY, Access, Patience
from duplexd.engine.batch import Batch
from duplexd.engine.hung_disks import HungDisks, Silence
from duplexd.runtime.watch import HungError, Watch
from tests.support.hanging_leg import HangingLeg
from tests.unit.engine.parts import Parts
from tests.unit.engine.test_apply import batch_of
from tests.unit.hanging.worlds import LONG, Hanging, hanging, until

if TYPE_CHECKING:
    from duplexd.engine.batch import Note

DISK = "file 64769"
DEFAULTS = Patience(5.0, 30.0)
MANY = 20


def on_one_disk(world: Hanging, patience: Patience = LONG) -> HungDisks:
    """All four legs."""
    for legs in world.legs.values():
        for leg in legs:
            leg.device = DISK
    world.calls.patience = patience
    return HungDisks(world.parts.volumes.by_number, world.calls)


# ------------------------------------------------------------------------------- who is asked


async def test_who_does_not_answer_either_is_given_up_with_it() -> None:
    async with hanging() as world:
        disks = on_one_disk(world)
        _, hangs = world.legs["data"]
        _, silent = world.legs["wal"]
        silent.hang("read_into")
        disks.waits(hangs, SECONDARY, 1.0)
        await until(lambda: list(disks.unanswered) == [silent])
        assert hangs.calls["read_into"] == 0, "a batch waits for it already"
        others = disks.gave_up(hangs, LONG.secondary_s)
        assert others == [Access(world.pair("wal"), silent, SECONDARY)]


async def test_each_is_asked_once_for_a_call_that_is_waited_for() -> None:
    async with hanging() as world:
        disks = on_one_disk(world)
        primary, hangs = world.legs["data"]
        for waited_s, asked in ((0.0, 0), (0.9, 0), (1.0, 1), (1.3, 1), (0.0, 1), (1.1, 2)):
            disks.waits(hangs, SECONDARY, waited_s)
            await until(lambda: not disks.unanswered)
            assert primary.calls["read_into"] == asked, waited_s


async def test_what_lies_elsewhere_or_is_not_written_is_not_asked() -> None:
    async with hanging() as world:
        disks = on_one_disk(world)
        primary, hangs = world.legs["data"]
        others = world.legs["wal"]
        others[0].device = "file 64770"
        world.pair("wal").set_legs(*others, "async")
        disks.waits(hangs, SECONDARY, 1.0)
        assert list(disks.unanswered) == [primary]
        await until(lambda: not disks.unanswered)


async def test_images_whose_disk_is_not_known_have_nothing_in_common() -> None:
    async with hanging() as world:
        disks = on_one_disk(world)
        for legs in world.legs.values():
            for leg in legs:
                leg.device = ""
        _, hangs = world.legs["data"]
        disks.waits(hangs, SECONDARY, 1.0)
        assert not disks.unanswered
        assert disks.gave_up(hangs, 5.0) == []
        assert not disks.silent


async def test_a_primary_is_not_given_up_with_a_secondary_before_its_own_time() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, DEFAULTS)
        primary, hangs = world.legs["data"]
        primary.hang("read_into")
        disks.waits(hangs, SECONDARY, 1.25)
        await until(lambda: list(disks.unanswered) == [primary])
        assert disks.gave_up(hangs, 5.0) == []
        (access,) = disks.gave_up(world.legs["wal"][0], 25.0)
        assert access.leg is primary


async def test_one_that_was_asked_and_hangs_fails_also_if_the_batch_goes_on() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, Patience(0.5, 60.0))
        _, hangs = world.legs["data"]
        _, silent = world.legs["wal"]
        world.calls.on_hung = world.failed_legs.found
        silent.hang("read_into")
        disks.waits(hangs, SECONDARY, 1.0)
        await until(lambda: world.pair("wal").state == "SUSPENDED")
        assert world.pair().secondary is hangs, "it has answered"
        await until(lambda: not disks.unanswered)


async def test_so_many_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duplexd.engine.hung_disks.DISK_ASKED_MAX", 2)
    async with hanging() as world:
        disks = on_one_disk(world)
        disks.waits(world.legs["data"][1], SECONDARY, 1.0)
        assert len(disks.unanswered) == 2
        await until(lambda: not disks.unanswered)


# ----------------------------------------------------------------------- how long they may take


async def test_the_images_of_a_silent_disk_get_one_short_wait_in_all() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, DEFAULTS)
        leg, total = world.legs["data"][1], 0.0
        for _ in range(MANY):
            seconds = disks.seconds(leg, SECONDARY)
            disks.gave_up(leg, seconds)
            total += seconds
        assert total < DEFAULTS.secondary_s + 0.9 + 0.1 * MANY
        assert disks.seconds(leg, SECONDARY) > 0.05, "a disk that answers at once is never lost"


async def test_a_primary_has_what_the_silence_leaves_of_its_time() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, DEFAULTS)
        primary, secondary = world.legs["data"]
        disks.gave_up(secondary, 5.0)
        assert disks.seconds(secondary, SECONDARY) == 0.5
        assert disks.seconds(primary, PRIMARY) == 25.0
        disks.gave_up(primary, 25.0)
        assert disks.seconds(primary, PRIMARY) == 0.25


async def test_a_disk_that_has_answered_a_batch_gives_everyone_the_full_time() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, DEFAULTS)
        _, secondary = world.legs["data"]
        disks.gave_up(secondary, 5.0)
        batch = batch_of([world.parts.change("wal", 0, b"x")])
        batch.frozen, batch.dead = {world.pair("wal")}, dict.fromkeys([world.pair("wal")])  # type: ignore[assignment]
        disks.heard(batch, batch.changes)
        assert disks.seconds(secondary, SECONDARY) == 0.5, "neither leg has the change"
        batch.frozen = set()
        disks.heard(batch, batch.changes)
        assert disks.seconds(secondary, SECONDARY) == 5.0


async def test_a_silence_is_forgotten_after_the_time_of_a_primary() -> None:
    async with hanging() as world:
        disks = on_one_disk(world, DEFAULTS)
        now = asyncio.get_running_loop().time()
        disks.silent = {"old": Silence(5.0, 1, now - 31.0), "new": Silence(5.0, 1, now - 20.0)}
        disks.forget()
        assert list(disks.silent) == ["new"]


# ------------------------------------------------------------------------ where their pairs stand


def going_on(parts: Parts, at: int, hung: tuple[str, str], *others: tuple[str, str]) -> Batch:
    """Two changes of each pair, by turns; the worker at place `at` is given up."""
    names = ("data", "wal", "data", "wal")
    batch = batch_of([parts.change(name, 0, bytes([48 + n])) for n, name in enumerate(names)])
    writer = parts.writer
    writer.write_changes(batch.changes, 0)
    batch.journaled = True
    legs = {
        (name, use): parts.legs[name][use == SECONDARY]
        for name in ("data", "wal")
        for use in (PRIMARY, SECONDARY)
    }
    before = Batch(batch.changes[:at], {}, False, batch.answer)
    parts.executor._apply(before, noted(), 0, False)
    if hung[1] == PRIMARY:  # the secondary has it
        change = batch.changes[at]
        parts.pair(hung[0]).copy_of.write(change.offset, change.data)
    batch.at = at
    silent = [Access(parts.pair(name), legs[name, use], use) for name, use in others]
    error = HungError(legs[hung], 5.0)
    parts.executor._go_on(batch, Watch(), error, silent)
    return batch


def noted() -> Watch[Note]:
    watch: Watch[Note] = Watch()
    watch.inside.append("journal")
    return watch


def alone(parts: Parts) -> None:
    parts.volumes.groups = {}
    for pair in parts.volumes.all():
        pair.groups = []


def stand(batch: Batch) -> dict[str, int]:
    """The numbers at which secondaries stand, counted in changes of the batch."""
    first = batch.changes[0].sequence
    return {failure.pair.name: failure.sequence - first for failure in batch.failures}


def test_another_secondary_on_the_disk_stands_at_the_change_that_hung() -> None:
    parts = Parts()
    alone(parts)
    batch = going_on(parts, 2, ("data", SECONDARY), ("wal", SECONDARY))
    assert stand(batch) == {"data": 2, "wal": 3}
    assert parts.content("data", 0, 1) == (b"2", b"0")
    assert parts.content("wal", 0, 1) == (b"3", b"1")
    assert [change.error for change in batch.changes] == [0] * 4
    assert [failure.torn for failure in batch.failures] == [True, False]


def test_the_pair_of_a_primary_that_hung_is_not_suspended_by_a_secondary_of_its_group() -> None:
    """It goes on with its own secondary."""
    parts = Parts()
    batch = going_on(parts, 2, ("data", PRIMARY), ("wal", SECONDARY))
    assert stand(batch) == {"wal": 3}
    assert [pair.name for pair in batch.frozen] == ["wal"]
    assert parts.content("data", 0, 1) == (b"0", b"2")
    assert parts.content("wal", 0, 1) == (b"3", b"1")
    assert [change.error for change in batch.changes] == [0] * 4


def test_a_secondary_has_the_change_whose_primary_hung_in_another_pair() -> None:
    parts = Parts()
    alone(parts)
    batch = going_on(parts, 2, ("data", PRIMARY), ("wal", SECONDARY))
    assert stand(batch) == {"wal": 3}
    assert parts.content("data", 0, 1) == (b"0", b"2")
    assert parts.content("wal", 0, 1) == (b"3", b"1")
    assert [change.error for change in batch.changes] == [0] * 4


def test_a_group_is_suspended_at_one_number_whichever_of_its_secondaries_hang() -> None:
    parts = Parts()
    batch = going_on(parts, 2, ("data", SECONDARY), ("wal", SECONDARY))
    assert stand(batch) == {"data": 2}
    assert batch.frozen == set(parts.volumes.all())
    assert parts.content("wal", 0, 1) == (b"3", b"1")


@pytest.mark.parametrize(
    ("first", "then", "number"),
    [(("data", SECONDARY), ("wal", PRIMARY), 2), (("wal", PRIMARY), ("data", SECONDARY), 4)],
)
def test_a_pair_whose_primary_hangs_goes_on_whatever_hangs_first_in_its_group(
    first: tuple[str, str], then: tuple[str, str], number: int
) -> None:
    parts = Parts()
    batch = going_on(parts, 2 if first[0] == "data" else 3, first, then)
    assert stand(batch) == {"data": number}
    assert [pair.name for pair in batch.frozen] == ["data"]
    assert parts.content("wal", 0, 1) == (b"1", b"3")
    assert [change.error for change in batch.changes] == [0] * 4
    parts.failures.after(batch)
    assert (parts.pair("data").state, parts.pair("data").failed) == (SUSPENDED, "")
    wal, (_, secondary) = parts.pair("wal"), parts.legs["wal"]
    assert (wal.primary, wal.failed) == (secondary, "")


def test_another_primary_on_the_disk_gives_way_to_its_secondary() -> None:
    parts = Parts()
    batch = going_on(parts, 2, ("data", PRIMARY), ("wal", PRIMARY))
    assert set(batch.dead) == set(parts.volumes.all())
    assert parts.content("wal", 0, 1) == (b"1", b"3")
    assert [change.error for change in batch.changes] == [0] * 4
    assert not batch.failures


def test_a_pair_with_both_legs_on_the_disk_fails_its_changes() -> None:
    parts = Parts()
    alone(parts)
    batch = going_on(parts, 2, ("data", SECONDARY), ("wal", PRIMARY), ("wal", SECONDARY))
    assert parts.content("wal", 0, 1) == (b"1", b"1")
    assert [change.error for change in batch.changes] == [0, 0, 0, errno.EIO]


def test_a_pair_with_both_legs_on_the_disk_is_frozen_with_its_group() -> None:
    """At the same number: no image of it goes on."""
    parts = Parts()
    batch = going_on(parts, 2, ("data", SECONDARY), ("wal", PRIMARY), ("wal", SECONDARY))
    assert stand(batch) == {"data": 2}
    assert batch.frozen == set(parts.volumes.all())
    assert [change.error for change in batch.changes] == [0, 0, 0, errno.EIO]


def test_a_hanging_leg_is_on_the_disk_of_the_leg_below() -> None:
    parts = Parts()
    parts.images["data"][0].device = DISK
    assert HangingLeg(parts.images["data"][0]).device == DISK
