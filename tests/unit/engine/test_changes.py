"""What changed between two cuts, asked of a controller: over resyncs, restarts and crashes."""

from __future__ import annotations

import errno

import pytest
from structlog.testing import capture_logs

from duplexd.core.change_history import UNCLEAN, UNREADABLE, KnownCut
from duplexd.errors import NotFoundError, UsageError, WrongStateError
from duplexd.limits import EngineLimits
from tests.sim.image import Image
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

GRAIN = 64 << 10
DIRECTORY = "/state/changes"


async def cut(core: Core, tag: str, *names: str) -> str:
    """Leave the cut that it is at, and make the next one."""
    targets = list(names or core.controller.volumes.by_name)
    controller = core.controller
    if any(core.pair(name).state == "SUSPENDED" for name in targets):
        await controller.resync(targets)
        await controller.resync_wait(targets)
    return str((await controller.suspend(targets, tag))["cut"])


async def changed(core: Core, since: str, until: str | None = None, name: str = "data") -> set[int]:
    """Grains."""
    found = await core.controller.changes.extents(name, since, until)
    return {
        grain
        for offset, length in found.extents()
        for grain in range(offset // GRAIN, -(-(offset + length) // GRAIN))
    }


async def why(core: Core, since: str) -> tuple[str, ...]:
    return (await core.controller.changes.extents("data", since)).why


async def write(core: Core, grain: int, name: str = "data") -> None:
    assert await core.write(name, grain * GRAIN, b"x" * 512) == 0


async def begin_again(core: Core) -> Core:
    return await Core.begin(core.disk, settings(dict.fromkeys(core.states(), "sync")))


async def three_cuts(core: Core) -> None:
    for grain, tag in enumerate(("monday", "tuesday", "wednesday"), 1):
        await cut(core, tag)
        await write(core, grain)


async def test_any_two_cuts_and_now_are_answered_over_resyncs() -> None:
    async with running() as core:
        await three_cuts(core)
        assert await changed(core, "monday", "tuesday") == {1}
        assert await changed(core, "monday", "wednesday") == {1, 2}
        assert await changed(core, "tuesday", "wednesday") == {2}
        assert await changed(core, "monday") == {1, 2, 3}
        assert await changed(core, "latest") == {3}
        assert await changed(core, "monday", "monday") == set()


async def test_extents_are_whole_grains_that_do_not_touch() -> None:
    async with running() as core:
        await cut(core, "monday")
        for grain in (1, 2, 5):
            await write(core, grain)
        found = await core.controller.changes.extents("data", "monday")
        assert list(found.extents()) == [(GRAIN, 2 * GRAIN), (5 * GRAIN, GRAIN)]
        assert list(found.extents(5 * GRAIN)) == [(5 * GRAIN, GRAIN)]


async def test_an_answer_is_not_changed_by_later_writes() -> None:
    async with running() as core:
        await cut(core, "monday")
        found = await core.controller.changes.extents("data", "monday")
        await write(core, 1)
        assert list(found.extents()) == []


async def test_zeroes_trims_and_long_changes_are_counted() -> None:
    async with running(
        limits=EngineLimits(zero_bytes_first=2 * GRAIN, zero_bytes_max=4 * GRAIN)
    ) as core:
        await cut(core, "monday")
        await core.zero("data", 0, GRAIN)
        await core.trim("data", 2 * GRAIN, GRAIN)
        await core.zero("data", 8 * GRAIN, 16 * GRAIN)
        assert await changed(core, "monday") == {0, 2, *range(8, 24)}


async def test_a_trim_that_a_leg_cannot_do_changes_nothing_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of nothing else has no changes left."""
    async with running() as core:
        await cut(core, "monday")
        monkeypatch.setattr(core.pair("data").primary, "can_punch", False)
        assert await core.trim("data", 0, GRAIN) == 0
        assert await core.write("data", 2 * GRAIN, b"x" * 512) == 0
        assert await changed(core, "monday") == {2}


async def test_a_change_that_the_secondary_refused_is_counted() -> None:
    async with running() as core:
        await cut(core, "monday")
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        core.secondary().fail("write", errno.EIO)
        await write(core, 3)
        assert core.states() == {"data": "SUSPENDED"}
        assert await changed(core, "monday") == {3}


async def test_a_change_that_the_primary_refused_is_counted() -> None:
    """The client has the error, and what is there now is nobody's promise."""
    async with running() as core:
        await cut(core, "monday")
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        assert await core.write("data", 3 * GRAIN, b"x" * 512) == errno.EIO
        assert 3 in await changed(core, "monday")


# ------------------------------------------------------------------------------------- restarts


def test_a_clean_restart_keeps_all_of_it_exactly() -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await three_cuts(core)
        await core.controller.stop()
        core = await begin_again(core)
        assert await changed(core, "monday", "tuesday") == {1}
        assert await changed(core, "monday") == {1, 2, 3}
        assert await why(core, "monday") == ()
        await core.controller.stop()

    run(lives())


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_crash_keeps_what_was_frozen_and_widens_what_was_not(
    power: bool, checkpoint: bool
) -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await three_cuts(core)
        await core.flush()
        if checkpoint:
            await core.controller.checkpointer.checkpoint()
        await core.crash(power)
        core = await begin_again(core)
        assert await changed(core, "monday", "tuesday") == {1}
        assert await changed(core, "tuesday", "wednesday") == {2}
        assert await changed(core, "wednesday") >= {3}
        assert await why(core, "monday") == (UNCLEAN,)
        await core.controller.stop()

    run(lives())


def test_regions_that_a_checkpoint_has_closed_widen_nothing() -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await cut(core, "monday")
        await write(core, 1)
        for _ in range(2):  # one leaves open what was touched before it
            await core.controller.checkpointer.checkpoint()
        await core.crash(power=True)
        core = await begin_again(core)
        assert await changed(core, "monday") == {1}
        await core.controller.stop()

    run(lives())


@pytest.mark.parametrize("clean", [False, True])
def test_a_crash_without_a_secondary_widens_all_even_if_the_next_start_has_one(clean: bool) -> None:
    """Nothing said where the primary was written to, and when that start is recorded, there is a
    secondary already.
    """
    size = 4 * SIZE  # of several regions
    everything = set(range(size // GRAIN))

    async def lives() -> None:
        core = await Core.begin(new_disk(), settings(size=size))
        await cut(core, "monday")
        await core.controller.stop()
        core = await Core.begin(core.disk, settings({"data": ""}, size=size))
        await write(core, 1)
        await (core.controller.stop() if clean else core.crash(power=True))
        core = await Core.begin(core.disk, settings(size=size))
        assert core.states() == {"data": "PENDING"}
        assert await changed(core, "monday") == ({1} if clean else everything)
        assert await why(core, "monday") == (() if clean else (UNCLEAN,))
        await core.crash(power=True)
        core = await Core.begin(core.disk, settings(size=size))
        assert await changed(core, "monday") >= ({1} if clean else everything)
        await core.controller.stop()

    run(lives())


async def test_a_secondary_that_is_lost_changes_nothing_of_the_volume() -> None:
    async with running() as core:
        await cut(core, "monday")
        await write(core, 1)
        pair, error = core.pair(), OSError(errno.EIO, "gone")
        for _ in range(2):  # the second time it is not usable already
            core.controller.failed_legs.lost(pair, error)
        assert not pair.usable
        assert await changed(core, "monday") == {1}
        assert await why(core, "monday") == ()


def test_a_daemon_that_never_knew_maps_answers_from_its_next_cut_on() -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        core.controller.timeline.ledger.remember_cuts(0)
        await cut(core, "monday")
        await core.controller.stop()
        core = await begin_again(core)
        with pytest.raises(WrongStateError, match="no cut of it has been made since"):
            await changed(core, "monday")
        await cut(core, "tuesday")
        with pytest.raises(NotFoundError, match=r"known, the newest first: \w{16} \(tuesday\)"):
            await changed(core, "monday")
        assert await changed(core, "tuesday") == set()
        await core.controller.stop()

    run(lives())


# ---------------------------------------------------------------------------------- their files


def files(core: Core) -> list[str]:
    return core.disk.list(DIRECTORY) if core.disk.exists(DIRECTORY) else []


async def test_a_frozen_map_is_in_one_file_for_all_volumes_of_the_cut() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await three_cuts(core)
        assert files(core) == []
        await core.controller.checkpointer.checkpoint()
        assert len(files(core)) == 2
        assert [known.changed for known in history_of(core)] == [None, None, None]
        assert await changed(core, "monday", "tuesday") == {1}


def history_of(core: Core) -> list[KnownCut]:
    history = core.pair().record.history
    assert history is not None
    return history.cuts


async def test_the_file_of_a_forgotten_cut_is_removed() -> None:
    async with running() as core:
        core.controller.timeline.ledger.remember_cuts(2)
        await three_cuts(core)
        await core.controller.checkpointer.checkpoint()
        (before,) = files(core)
        await cut(core, "thursday")
        await core.controller.checkpointer.checkpoint()
        (after,) = files(core)
        assert after != before
        with pytest.raises(NotFoundError, match="'monday' is not a cut for which changes are"):
            await changed(core, "monday")


@pytest.mark.parametrize("how", ["damaged", "missing", "unreadable"])
def test_an_interval_whose_file_is_lost_counts_as_everything(how: str) -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await three_cuts(core)
        await core.controller.stop()
        first = f"{DIRECTORY}/{files(core)[0]}"
        if how == "damaged":
            core.disk.flip(first, 40)
        elif how == "missing":
            core.disk.remove(first)
        else:
            core.disk.fail(first, errno.EIO, operation="read_file")
        core = await begin_again(core)
        everything = set(range(SIZE // GRAIN))
        assert await changed(core, "monday", "tuesday") == everything
        assert await changed(core, "monday") == everything
        assert await changed(core, "tuesday") == {2, 3}, "other intervals are as good as before"
        assert await why(core, "monday") == (UNREADABLE,)
        assert await why(core, "tuesday") == ()
        await core.controller.stop()

    run(lives())


async def test_a_file_that_cannot_be_written_fails_no_checkpoint_and_is_tried_again() -> None:
    async with running() as core:
        await three_cuts(core)
        taken = core.controller.checkpointer.taken
        core.disk.fail(DIRECTORY, errno.ENOSPC, operation="replace_file")
        with capture_logs() as logs:
            await core.controller.checkpointer.checkpoint()
        assert (core.controller.checkpointer.taken, files(core)) == (taken + 1, [])
        assert [DIRECTORY in line["error"] for line in logs] == [True, True]
        assert await changed(core, "monday", "tuesday") == {1}
        core.disk.heal(DIRECTORY)
        await core.controller.checkpointer.checkpoint()
        assert len(files(core)) == 2


def test_a_map_that_was_never_written_counts_as_everything_after_a_restart() -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await three_cuts(core)
        core.disk.fail(DIRECTORY, errno.ENOSPC, operation="replace_file")
        await core.controller.stop()
        core.disk.heal(DIRECTORY)
        core = await begin_again(core)
        assert await changed(core, "monday", "tuesday") == set(range(SIZE // GRAIN))
        assert await why(core, "monday") == (UNREADABLE,)
        await core.controller.stop()

    run(lives())


# ---------------------------------------------------------------------- swaps, adopts, reloads


async def test_a_swap_that_gives_changes_up_counts_them() -> None:
    async with running() as core:
        await three_cuts(core)
        await core.controller.swap(["data"], False, None, True)
        assert {3} <= await changed(core, "wednesday")
        assert await changed(core, "monday", "wednesday") == {1, 2}


async def test_a_swap_that_rolls_forward_changes_nothing() -> None:
    async with running() as core:
        await three_cuts(core)
        await core.controller.swap(["data"], True, None, False)
        await write(core, 4)
        assert await changed(core, "monday") == {1, 2, 3, 4}


@pytest.mark.parametrize("mode", ["sync", ""])
def test_an_adopted_image_may_have_changed_anywhere(mode: str) -> None:
    async def lives() -> None:
        core = await Core.begin(new_disk(), settings())
        await cut(core, "monday")
        await core.controller.stop()
        path = "/a/data.img"
        core.disk.take(path)
        core.disk.give(path, Image.of(b"another content".ljust(SIZE)))
        core = await Core.begin(core.disk, settings({"data": mode}))
        assert core.pair().failed
        with pytest.raises(WrongStateError, match="not served"):
            await changed(core, "monday")
        await core.controller.adopt(["data"])
        assert await changed(core, "monday") == set(range(SIZE // GRAIN))
        await core.controller.stop()
        core = await Core.begin(core.disk, settings({"data": mode}))
        assert await changed(core, "monday") == set(range(SIZE // GRAIN))
        await core.controller.stop()

    run(lives())


async def test_a_volume_that_lost_its_secondary_goes_on_counting() -> None:
    async with running() as core:
        await cut(core, "monday")
        await write(core, 1)
        await core.controller.reload(settings({"data": ""}))
        await write(core, 2)
        assert core.states() == {"data": "SIMPLEX"}
        assert await changed(core, "monday") == {1, 2}


async def test_a_volume_that_was_removed_and_added_again_is_a_new_one() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await cut(core, "monday")
        await core.controller.reload(settings({"data": "sync"}))
        await core.controller.reload(settings({"data": "sync", "wal": "sync"}))
        with pytest.raises(WrongStateError, match="wal: what changed is not known"):
            await changed(core, "monday", name="wal")
        assert await changed(core, "monday") == set()


# -------------------------------------------------------------------------------------- answers


async def test_no_cut_is_remembered_with_tracked_cuts_0() -> None:
    async with running() as core:
        core.controller.timeline.ledger.remember_cuts(0)
        await cut(core, "monday")
        with pytest.raises(WrongStateError, match="tracked_cuts is 0"):
            await changed(core, "monday")


async def test_since_is_the_older_cut() -> None:
    async with running() as core:
        await three_cuts(core)
        with pytest.raises(UsageError, match="is older than cut"):
            await changed(core, "tuesday", "monday")


async def test_the_same_tag_every_night_does_not_hide_what_changed() -> None:
    async with running() as core:
        await cut(core, "nightly")
        await write(core, 1)
        await cut(core, "nightly")
        history = core.pair().record.history
        assert history is not None
        older, newer = (each.id for each in history.cuts)
        for until in ("latest", "nightly", newer, None):
            with pytest.raises(
                UsageError, match=rf"2 cuts have the tag .*: {older}, {newer} \(newest last"
            ):
                await changed(core, "nightly", until)
        assert await changed(core, older, "nightly") == {1}
        assert await changed(core, newer, "nightly") == set()


async def test_a_void_cut_is_named_by_its_id_alone() -> None:
    """As a point: neither its tag nor `latest` is a backup source."""
    async with running() as core:
        good = await cut(core, "nightly")
        await write(core, 1)
        bad = await cut(core, "nightly")
        await core.controller.cuts.grade(bad, False, 1, "broken")
        await write(core, 2)
        for since in ("latest", "nightly", good):
            assert await changed(core, since) == {1, 2}
        assert await changed(core, bad) == {2}
        assert await changed(core, good, "latest") == set()
        later = await cut(core, "void alone")
        await core.controller.cuts.grade(later, False, 1, "broken")
        with pytest.raises(NotFoundError, match=rf"known, .*: {later} \(void alone\) void, {bad}"):
            await changed(core, "void alone")


async def test_an_answer_is_bounded_and_says_where_to_go_on() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await cut(core, "monday")
        for grain in (1, 3, 5):
            await write(core, grain)
        await write(core, 7, "wal")
        show = core.controller.changes.show
        first, second = (await show(["data", "wal"], "monday", None, 0, 2))["volumes"]
        assert [each["offset"] for each in first["extents"]] == [GRAIN, 3 * GRAIN]
        assert (first["next_offset"], first["changed_bytes"]) == (5 * GRAIN, 3 * GRAIN)
        assert (second["extents"], second["next_offset"]) == ([], 7 * GRAIN)
        (rest,) = (await show(["data"], "monday", None, 5 * GRAIN, 2))["volumes"]
        assert rest["extents"] == [{"offset": 5 * GRAIN, "length": GRAIN}]
        assert rest["next_offset"] is None


async def test_a_volume_that_does_not_know_the_cut_answers_for_all() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await cut(core, "monday")
        await cut(core, "tuesday", "data")
        with pytest.raises(NotFoundError, match="wal: 'tuesday'"):
            await core.controller.changes.show(["data", "wal"], "tuesday", None, 0, 100)


async def test_an_answer_names_both_points_and_their_verdicts() -> None:
    async with running() as core:
        first = await cut(core, "monday")
        await write(core, 1)
        (row,) = (await core.controller.changes.show(["data"], "monday", None, 0, 100))["volumes"]
        assert (row["since"]["cut"], row["since"]["verdict"]) == (first, "consistent")
        assert (row["until"]["cut"], row["exact"], row["why"]) == (None, True, [])
        assert row["until"]["sequence"] == core.controller.sequence
        assert (row["grain_bytes"], row["size"]) == (GRAIN, SIZE)


async def test_a_cut_whose_secondaries_may_not_be_durable_there_has_no_verdict_yet() -> None:
    async with running() as core:
        made = await cut(core, "monday")
        core.controller.archive.unsettled.add(made)
        (row,) = (await core.controller.changes.show(["data"], made, None, 0, 100))["volumes"]
        assert row["since"]["verdict"] is None
        with pytest.raises(NotFoundError, match="of unknown verdict"):
            await changed(core, "monday")
