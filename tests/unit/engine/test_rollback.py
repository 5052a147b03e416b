"""Volumes that go back to the cut of their secondaries: what is written, who waits, what ends."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core import rollback as steps
from duplexd.core.change_map import ChangeMap
from duplexd.core.leaving import Leaving
from duplexd.core.markers import Differ
from duplexd.core.pair import ONLY_THE_MAP
from duplexd.core.rollback import Order
from duplexd.engine import rollback_job
from duplexd.engine.rollback_content import PIECE_BYTES, pieces
from duplexd.errors import DuplexdError, NotFoundError, TimedOutError, WrongStateError
from tests.support.bad_sectors import BadSectors
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "async"}
BLOCK = 4096
OLD, NEW = b"\x11" * BLOCK, b"\x22" * BLOCK


class Client:
    """A connection that has chosen a volume, and closes when it is told to."""

    def __init__(self, core: Core, name: str = "data", obeys: bool = True) -> None:
        self.pair, self.ended, self._obeys = core.pair(name), list[str](), obeys
        self.pair.joined(self, "user 7")

    def end_reading(self, why: str) -> None:
        self.ended.append(why)
        if self._obeys:
            self.pair.left(self)


async def cut(core: Core, tag: str = "nightly") -> str:
    """A cut, and changes after it: one block of each volume, one that a later one made as before,
    and one that was zeroes.
    """
    for name in core.states():
        for offset in (0, MIB, 2 * MIB):
            await core.write(name, offset, OLD)
    made = await core.controller.suspend(list(core.states()), tag)
    for name in core.states():
        await core.write(name, 0, NEW)
        await core.write(name, MIB, NEW)
        await core.write(name, MIB, OLD)
        await core.write(name, 3 * MIB, NEW)
    return str(made["cut"])


async def back(core: Core, *names: str, to: str = "latest", **how: object) -> Json:
    order = Order(to, **how)  # type: ignore[arg-type]
    return await core.controller.rollback(list(names or core.states()), order)


def bytes_of(result: Json, what: str) -> list[int]:
    return [row[f"{what}_bytes"] for row in result["volumes"]]


# ------------------------------------------------------------------------------------ what it does


@pytest.mark.parametrize("by", ["id", "tag", "latest"])
async def test_both_images_hold_what_the_cut_holds_and_only_what_differed_was_written(
    by: str,
) -> None:
    async with running(TWO) as core:
        made = await cut(core)
        at_cut = {name: core.image(name, "b") for name in TWO}
        before = core.controller.sequence
        result = await back(core, to={"id": made, "tag": "nightly", "latest": "latest"}[by])
        assert {name: core.image(name, "a") for name in TWO} == at_cut
        assert {name: core.image(name, "b") for name in TWO} == at_cut
        assert bytes_of(result, "written") == [2 * BLOCK, 2 * BLOCK]
        assert (result["cut"], [row["served"] for row in result["volumes"]]) == (made, [True] * 2)
        # two markers, and of each volume a batch with one WRITE and one of zeroes
        assert core.controller.sequence - before <= 2 + 2 * 3
        assert core.states() == dict.fromkeys(TWO, "SUSPENDED")
        assert core.named("rolled-back")[0]["written_bytes"] == 4 * BLOCK


def test_what_was_written_is_a_change_that_a_restart_finds() -> None:
    async def lives() -> None:
        disk = new_disk()
        core = await Core.begin(disk, settings(TWO))
        await cut(core)
        await core.controller.checkpointer.checkpoint()
        await back(core)
        at_cut = core.image("data", "b")
        await core.crash(power=True)
        core = await Core.begin(disk, settings(TWO))
        assert core.image("data", "a") == at_cut
        status = core.controller.status()["volumes"][0]
        assert (status["served"], status["rollback"]["state"]) == (True, "done")
        await core.controller.stop()

    run(lives())


async def test_a_resync_after_it_finds_nothing_to_copy() -> None:
    async with running(TWO) as core:
        await cut(core)
        await back(core)
        await core.controller.resync(list(TWO))
        result = await core.controller.resync_wait(list(TWO))
        assert [row["copied_bytes"] for row in result["volumes"]] == [0, 0]
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        assert all(core.equal(name) for name in TWO)


async def test_a_resync_after_later_changes_copies_these_alone() -> None:
    async with running(TWO) as core:
        await cut(core)
        await back(core)
        await core.write("data", 2 * MIB, NEW)
        assert core.pair().record.tracked_bytes >= ONLY_THE_MAP
        await core.controller.resync(["data"])
        (row,) = (await core.controller.resync_wait(["data"]))["volumes"]
        assert row["copied_bytes"] == BLOCK
        await core.until(core.equal)


async def test_it_can_be_done_again_and_undone_by_one_to_a_cut_that_was_made_before() -> None:
    async with running(TWO) as core:
        await cut(core)
        await back(core)
        assert bytes_of(await back(core), "written") == [0, 0]
        await core.controller.resync(list(TWO))
        await core.controller.resync_wait(list(TWO))
        await core.write("data", 0, NEW)
        await core.controller.suspend(list(TWO), "second")
        second = core.image("data", "a")
        await core.write("data", 0, OLD)
        await back(core, to="second")
        assert core.image("data", "a") == second == core.image("data", "b")


async def test_changes_of_it_are_in_the_map_of_what_changed_since_the_cut() -> None:
    async with running({"data": "sync"}) as core:
        made = await cut(core)
        history = core.pair().record.history
        assert history is not None
        history.live.clear_all()
        await back(core)
        shown = await core.controller.changes.show(["data"], made, None, 0, 100)
        (row,) = shown["volumes"]
        assert [each["offset"] for each in row["extents"]] == [0, 3 * MIB]


async def test_measuring_says_how_much_differs_and_changes_nothing() -> None:
    async with running(TWO) as core:
        await cut(core)
        client = Client(core)
        before = core.image("data", "a"), core.controller.sequence
        result = await back(core, step=steps.MEASURE)
        assert bytes_of(result, "differing") == [2 * BLOCK] * 2
        assert (bytes_of(result, "written"), client.ended) == ([0, 0], [])
        assert (core.image("data", "a"), core.controller.sequence) == before
        assert not core.pair().closed


# --------------------------------------------------------------------------- what is in its way


async def test_a_connected_client_is_named_and_nothing_is_done() -> None:
    async with running(TWO) as core:
        await cut(core)
        client, before = Client(core), core.image("data", "a")
        with pytest.raises(WrongStateError, match="clients use data by user 7: stop"):
            await back(core)
        assert (core.image("data", "a"), client.ended) == (before, [])
        assert not core.pair().closed


async def test_with_force_it_waits_until_the_client_has_gone() -> None:
    async with running(TWO) as core:
        await cut(core)
        client = Client(core, obeys=False)
        before = core.image("data", "a")
        going = asyncio.ensure_future(back(core, force=True))
        await core.until(lambda: client.ended != [])
        await core.turns()
        assert core.pair().closed
        assert core.image("data", "a") == before
        core.pair().left(client)
        await going
        assert core.equal()


async def test_a_client_that_never_goes_leaves_the_volumes_closed_and_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollback_job, "_LOOKS", 3)
    async with running(TWO) as core:
        await cut(core)
        client, before = Client(core, obeys=False), core.image("data", "a")
        with pytest.raises(TimedOutError, match="requests of clients that were disconnected"):
            await back(core, force=True)
        assert core.image("data", "a") == before
        assert core.pair().closed
        core.pair().left(client)
        await back(core)
        assert core.equal()


async def test_a_volume_that_is_at_no_cut_or_at_another_is_refused() -> None:
    async with running(TWO) as core:
        with pytest.raises(WrongStateError, match="data is DUPLEX: its secondary is at no cut"):
            await back(core)
        await core.controller.suspend(["data"], "one")
        await core.controller.suspend(["wal"], "two")
        with pytest.raises(NotFoundError, match="can go back to that one only"):
            await back(core, "data", to="two")
        with pytest.raises(WrongStateError, match="go back together to one cut only"):
            await back(core)


async def test_a_void_cut_is_refused_also_by_its_id() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await core.controller.cuts.grade(made, False, 1, "broken")
        with pytest.raises(WrongStateError, match="is void"):
            await back(core, to=made)


async def test_a_volume_that_a_lease_holds_is_refused() -> None:
    async with running(TWO) as core:
        await cut(core)
        hold = await core.controller.quiesce(["data"], 5.0, "backup")
        with pytest.raises(WrongStateError, match="held by backup"):
            await back(core)
        core.controller.leases.release(hold.id)
        await back(core)


async def test_a_journal_without_room_is_waited_for() -> None:
    async with running({"data": "sync"}, journal="16MiB") as core:
        await cut(core)
        own, looks = core.controller.own_writes, list[int]()
        fits = own._fits

        def once_more(nbytes: int, records: int) -> bool:
            looks.append(nbytes)
            return len(looks) > 3 and fits(nbytes, records)

        own._fits = once_more  # type: ignore[method-assign]
        await back(core)
        assert len(looks) > 4
        assert core.equal()


# -------------------------------------------------------------------------------- while it is so


async def closed(core: Core) -> asyncio.Future[Json]:
    """A rollback that waits for its client."""
    client = Client(core, obeys=False)
    going = asyncio.ensure_future(back(core, force=True))
    await core.until(lambda: client.ended != [])
    return going


async def half_way(core: Core) -> None:
    """A rollback that the secondary's disk has stopped."""
    pair, secondary = core.pair(), core.pair().copy_of
    pair.set_legs(pair.primary, BadSectors(secondary, 3 * MIB), pair.mode)
    with pytest.raises(DuplexdError, match="cannot be read at offset 3145728"):
        await back(core)
    pair.set_legs(pair.primary, secondary, pair.mode)


async def test_no_command_takes_the_secondary_from_its_cut_with_force_or_without() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await half_way(core)
        for command in (
            core.controller.resync(["data"], how=Leaving(force=True)),
            core.controller.swap(["data"], False, None, lose_changes=True, force=True),
            core.controller.swap(["data"], True, None, lose_changes=False),
            core.controller.adopt(["data"]),
            core.controller.quiesce(["data"], 1.0, "backup"),
            core.controller.verify(["data"]),
        ):
            with pytest.raises(WrongStateError, match=f"its rollback to cut {made} is not"):
                await command


async def test_status_says_that_it_is_not_served_and_health_is_not_well() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await half_way(core)
        status = core.controller.status()["volumes"][0]
        assert status["served"] is False
        assert f"its rollback to cut {made} is not finished" in status["error"]
        rollback = status["rollback"]
        assert (rollback["state"], rollback["cut"]) == ("stopped", made)
        assert "cannot be read at offset" in rollback["error"]
        assert core.named("rollback-failed")[0]["volumes"] == ["data", "wal"]


async def test_the_same_command_goes_on_and_writes_only_what_is_left() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        assert core.image("data", "a")[:BLOCK] == OLD
        result = await back(core)
        assert bytes_of(result, "written") == [BLOCK, 2 * BLOCK]
        assert core.equal()
        assert core.equal("wal")


async def test_all_volumes_of_one_are_named_together_or_it_is_refused() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        with pytest.raises(WrongStateError, match="a rollback of data wal to cut"):
            await back(core, "data")
        with pytest.raises(WrongStateError, match="wal: they go back together"):
            await back(core, "data", step=steps.ABANDON)


async def test_a_second_command_waits_for_the_first() -> None:
    async with running(TWO) as core:
        await cut(core)
        first = await closed(core)
        second = asyncio.ensure_future(back(core))
        await core.turns()
        assert not second.done()
        core.pair().left(next(iter(core.pair().clients)))
        assert (await first)["id"] == (await second)["id"]
        assert len(core.named("rollback-started")) == 1


async def test_who_asked_for_it_may_go_away() -> None:
    async with running(TWO) as core:
        await cut(core)
        first = await closed(core)
        first.cancel()
        await core.turns()
        core.pair().left(next(iter(core.pair().clients)))
        await core.until(lambda: not core.pair().closed)
        assert core.equal()


async def test_abandoned_it_leaves_a_mixture_that_is_served_and_called_so() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        await back(core, step=steps.ABANDON)
        status = core.controller.status()["volumes"][0]
        assert (status["served"], status["rollback"]["state"]) == (True, "abandoned")
        image = core.image("data", "a")
        assert (image[:BLOCK], image[3 * MIB :][:BLOCK]) == (OLD, NEW)
        await core.controller.resync(list(TWO))
        await core.controller.resync_wait(list(TWO))
        assert core.equal()
        assert await back(core, step=steps.ABANDON)  # there is none now


async def test_abandoned_while_it_runs_it_ends_first() -> None:
    async with running(TWO) as core:
        await cut(core)
        first = await closed(core)
        await back(core, step=steps.ABANDON)
        with pytest.raises(DuplexdError, match="ended half-way: it was abandoned"):
            await first
        assert not core.pair().closed


async def test_a_secondary_that_fails_meanwhile_leaves_it_half_way_and_no_way_on() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        core.controller.failed_legs.lost(core.pair(), OSError(errno.EIO, "gone"))
        with pytest.raises(WrongStateError, match=r"cannot be read at cut .* now .*--abandon"):
            await back(core)
        await back(core, step=steps.ABANDON)
        assert not core.pair().closed


async def test_a_primary_that_fails_meanwhile_leaves_it_half_way() -> None:
    async with running(TWO) as core:
        await cut(core)
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        with pytest.raises(DuplexdError, match="could not be written"):
            await back(core)
        assert core.pair().closed
        primary.heal()
        await back(core)
        assert core.equal()


@pytest.mark.parametrize("power", [False, True])
def test_killed_half_way_the_volumes_are_closed_and_the_same_command_goes_on(power: bool) -> None:
    async def lives() -> None:
        disk = new_disk()
        core = await Core.begin(disk, settings(TWO))
        await cut(core)
        await half_way(core)
        await core.crash(power=power)
        core = await Core.begin(disk, settings(TWO))
        assert core.pair().closed
        assert core.pair("wal").closed
        assert core.controller.status()["volumes"][0]["rollback"]["state"] == "stopped"
        await back(core)
        assert core.equal()
        assert core.equal("wal")
        await core.controller.stop()

    run(lives())


def test_a_start_without_the_secondary_leaves_only_to_abandon_it() -> None:
    async def lives() -> None:
        disk = new_disk()
        core = await Core.begin(disk, settings({"data": "sync"}))
        await cut(core)
        await half_way(core)
        await core.controller.stop()
        core = await Core.begin(disk, settings({"data": ""}))
        assert core.pair().closed
        with pytest.raises(WrongStateError, match="--abandon"):
            await back(core)
        await core.controller.stop()
        core = await Core.begin(disk, settings({"data": "sync"}))
        assert "half-way through a restore or rollback" in core.pair().failed  # nothing is copied
        await core.controller.stop()
        core = await Core.begin(disk, settings({"data": ""}))
        await back(core, step=steps.ABANDON)
        assert not core.pair().closed
        await core.controller.stop()
        core = await Core.begin(disk, settings({"data": "sync"}))
        await core.until(lambda: core.states() == {"data": "DUPLEX"})
        await core.controller.stop()

    run(lives())


# --------------------------------------------------------------------------- in two commands


async def test_copied_alone_it_stays_closed_until_it_is_opened() -> None:
    async with running(TWO) as core:
        await cut(core)
        result = await back(core, step=steps.COPY_ONLY, id="00ff00ff00ff00ff")
        assert (result["id"], core.equal()) == ("00ff00ff00ff00ff", True)
        assert core.pair().closed
        assert core.controller.status()["volumes"][0]["rollback"]["state"] == "ready"
        await back(core, step=steps.OPEN, id=result["id"])
        assert not core.pair().closed
        await back(core, step=steps.OPEN, id=result["id"])  # once more is no error


async def test_it_is_not_opened_if_a_comparison_has_found_the_legs_to_differ() -> None:
    """One that had begun before it, elsewhere than what changed since the cut."""
    async with running({"data": "sync"}) as core:
        await cut(core)
        result = await back(core, step=steps.COPY_ONLY, id="00ff00ff00ff00ff")
        marker = Differ(core.pair().id, [(5 * MIB, BLOCK)])
        timeline = core.controller.timeline
        await timeline.at_rest(lambda: timeline.append(marker))
        with pytest.raises(WrongStateError, match=r"differ in 1 place.*not finished"):
            await back(core, step=steps.OPEN, id=result["id"])
        assert core.pair().closed


async def test_it_is_not_opened_before_all_is_copied() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        rollback = core.pair().record.rollback
        assert rollback is not None
        with pytest.raises(WrongStateError, match="has not copied everything back yet"):
            await back(core, step=steps.OPEN, id=rollback.id)
        assert core.pair().closed


async def test_what_is_checked_alone_is_refused_as_the_rest_would_be() -> None:
    async with running(TWO) as core:
        await cut(core)
        Client(core)
        with pytest.raises(WrongStateError, match="clients use data"):
            await back(core, step=steps.CHECK)
        await back(core, step=steps.CHECK, force=True)
        assert not core.pair().closed


def test_the_pieces_of_all_that_changed_are_of_bounded_size() -> None:
    changed = ChangeMap(SIZE + 100, MIB, 1 << 20)
    changed.set(MIB, 1)
    changed.set(SIZE, 50)
    found = list(pieces(changed))
    assert found[0] == (MIB, PIECE_BYTES)
    assert (sum(length for _, length in found), found[-1]) == (MIB + 100, (SIZE, 100))
