"""How a canary grades cuts that are consistent, that are not, and that it cannot judge."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from duplexd.canary.epoch import SLOTS_MAX, WRITERS
from duplexd.canary.grading import Grader
from duplexd.canary.record import RECORD_BYTES
from duplexd.errors import UnreachableError, WrongStateError
from tests.unit.canary.world import LIMITS, World, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SLOTS = WRITERS * SLOTS_MAX  # on each volume


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path) as world:
        yield world


async def test_cuts_at_one_point_are_graded_consistent_on_every_controller(world: World) -> None:
    canary = await world.start()
    for _ in range(3):
        cut = world.cut()
        for grade in await world.grades():
            assert grade == {"consistent": True, "records": grade["records"], "detail": ""}
            assert 20 < grade["records"] <= 3 * SLOTS
        assert world.reports[-1] == {"event": "graded", "cut": cut, **grade}
        world.resync()
        await world.write()
    assert canary.broken_cuts == 0


async def test_cut_of_one_controller_after_the_other_is_graded_broken_on_all(world: World) -> None:
    canary = await world.start()
    await world.naive_cut()
    for grade in await world.grades():
        assert not grade["consistent"]
        assert "broken: record" in grade["detail"]
        assert "c0:canary" in grade["detail"]
        assert len(grade["detail"]) <= 400
    assert canary.broken_cuts == 1


async def test_secondaries_of_an_earlier_point_miss_records(world: World) -> None:
    await world.start()
    old = [controller.image("canary") for controller in world.controllers]
    await world.write()
    world.cut()
    for controller, image in zip(world.controllers, old, strict=True):
        controller.images[world.last, "canary"] = image
    grades = await world.grades()
    assert not any(grade["consistent"] for grade in grades)
    assert "missing: record" in grades[0]["detail"]


async def test_empty_secondaries_are_broken(world: World) -> None:
    await world.start()
    world.cut()
    for controller in world.controllers:
        controller.images[world.last, "canary"] = bytes(1 << 20)
    assert not any(grade["consistent"] for grade in await world.grades())


async def test_secondary_that_was_written_to_after_the_cut_is_broken(world: World) -> None:
    await world.start()
    world.cut(state="cut")
    await world.write()
    for controller in world.controllers:
        controller.images[world.last, "canary"] = controller.image("canary")
        controller.cuts[world.last]["state"] = "ready"
    assert "too new: record" in (await world.grades())[0]["detail"]


async def test_torn_block_is_broken(world: World) -> None:
    await world.start()
    world.cut()
    image = bytearray(world.controllers[1].images[world.last, "canary"])
    image[2000:2100] = bytes(100)
    world.controllers[1].images[world.last, "canary"] = bytes(image)
    assert "torn: c1:canary at 0" in (await world.grades())[0]["detail"]


async def test_cut_whose_event_was_lost_is_graded_too(world: World) -> None:
    await world.start()
    for controller in world.controllers:
        controller.hang_up()
    world.cut()
    assert all(grade["consistent"] for grade in await world.grades())


async def test_cut_older_than_the_canary_is_not_graded(world: World) -> None:
    before = world.cut()
    await world.start()
    world.cut()
    await world.grades()
    assert before not in {report.get("cut") for report in world.reports}


async def test_cut_before_the_first_probe_gets_no_grade(world: World) -> None:
    await world.start()
    world.cut()
    for controller in world.controllers:
        controller.cuts[world.last]["sequence"] = 0
    report = await world.report("not_graded")
    assert report["cut"] == world.last
    assert "had not yet written to all volumes" in report["detail"]
    assert not any(controller.grades for controller in world.controllers)


async def test_cut_before_the_canary_has_written_to_all_volumes_gets_no_grade(
    world: World,
) -> None:
    world.controllers[2].backend.holding = True  # every chain waits there
    starting = asyncio.create_task(world.start())
    await until(lambda: len(world.controllers[2].backend.held) > 0)
    world.controllers[2].backend.release()  # of the clearing of the slots
    world.controllers[2].backend.holding = True
    await until(lambda: len(world.controllers[2].backend.held) > 0)
    await asyncio.sleep(0.2)
    assert not world.reports
    world.cut()
    assert "had not yet written to all volumes" in (await world.report("not_graded"))["detail"]
    world.controllers[2].backend.release()
    await starting


async def test_void_cut_gets_no_grade(world: World) -> None:
    await world.start()
    world.cut(state="void")
    assert "the cut is void" in (await world.report("not_graded"))["detail"]


async def test_cut_without_one_of_the_controllers_gets_no_grade(world: World) -> None:
    await world.start()
    world.made += 1
    world.controllers[0].make_cut(world.last, ["c0"])
    assert "not all controllers" in (await world.report("not_graded"))["detail"]


async def test_cut_for_which_a_controller_is_never_ready_gets_no_grade(world: World) -> None:
    await world.start()
    world.cut()
    world.controllers[2].cuts[world.last]["state"] = "cut"
    assert "c2 is not READY" in (await world.report("not_graded"))["detail"]


async def test_cut_without_one_of_the_volumes_gets_no_grade(world: World) -> None:
    await world.start()
    world.cut()
    world.controllers[2].cuts[world.last]["volumes"] = []
    assert "c2:canary is not at the cut" in (await world.report("not_graded"))["detail"]


async def test_secondary_that_moves_on_before_it_is_read_gives_no_grade(world: World) -> None:
    await world.start()
    for controller in world.controllers:
        controller.unsettled.add(f"{1:016x}")
    world.cut()
    await asyncio.sleep(0.2)
    assert not [report for report in world.reports if "cut" in report]
    world.controllers[0].cut_of.clear()
    assert (
        "the secondary of c0:canary cannot be read" in (await world.report("not_graded"))["detail"]
    )


async def test_secondary_that_is_not_durable_yet_is_waited_for(world: World) -> None:
    await world.start()
    world.controllers[1].unsettled.add(f"{1:016x}")
    world.cut()
    await asyncio.sleep(0.2)
    world.controllers[1].unsettled.clear()
    assert all(grade["consistent"] for grade in await world.grades())


async def test_lost_connection_begins_a_new_epoch_and_claims_nothing(world: World) -> None:
    await world.start()
    backend = world.controllers[0].backend
    backend.error = 5
    await world.report("interrupted")
    world.cut()
    assert (await world.report("not_graded"))["cut"] == world.last
    world.resync()
    backend.error = 0
    await world.report("running", count=2)
    await world.write()
    world.cut()
    assert all(grade["consistent"] for grade in await world.grades())


async def test_two_canaries_on_the_same_volumes_claim_nothing(world: World) -> None:
    others: list[dict[str, Any]] = []
    await world.start()
    await world.start(others)
    world.cut()
    for reports in (world.reports, others):
        assert "another canary" in (await world.report("not_graded", reports))["detail"]
    assert not any(controller.grades for controller in world.controllers)


async def test_records_of_an_earlier_canary_are_ignored(world: World) -> None:
    await world.start()
    stop, task = world._canaries.pop()
    stop.set()
    await task
    world.reports.clear()
    await world.start()
    world.cut()
    assert all(grade["consistent"] for grade in await world.grades())


async def test_bad_grade_is_delivered_to_a_controller_as_soon_as_it_answers(world: World) -> None:
    canary, last = world.canary(), world.controllers[2]
    cut = world.cut()
    last.down = True
    grader = Grader(canary.members, canary.volumes, world.reports.append, LIMITS)
    grade = {"consistent": False, "records": 1, "detail": "broken"}
    delivered = asyncio.create_task(grader.deliver(cut, grade))
    await asyncio.sleep(0.1)
    assert not delivered.done()
    last.down = False
    await delivered
    assert last.grades[cut]["detail"] == "broken"


@pytest.mark.parametrize("at", [0, 600_000, (1 << 20) - 1])
async def test_volume_that_holds_other_data_is_refused_and_not_written_to(
    world: World, at: int
) -> None:
    data = world.controllers[1].backend.volumes["canary"].data
    data[at : at + 1] = b"x"
    before = bytes(data)
    with pytest.raises(
        WrongStateError, match=r"c1:canary holds other data than a canary's records at byte"
    ):
        await world.canary().run(asyncio.Event())
    assert bytes(data) == before
    assert all(controller.backend.sequence == 0 for controller in world.controllers)


async def test_test_volumes_are_overwritten_when_asked(world: World) -> None:
    for controller in world.controllers:
        controller.backend.volumes["canary"].data[:] = b"\xa5" * (1 << 20)
    await world.start(overwrite=True)
    world.cut()
    assert all(grade["consistent"] for grade in await world.grades())


async def test_large_volume_is_not_accepted_as_reserved(tmp_path: Path) -> None:
    async with World(tmp_path, 1, LIMITS.volume_bytes_max + 4096) as world:
        with pytest.raises(WrongStateError, match="reserve a small one"):
            await world.canary().run(asyncio.Event())
        assert world.controllers[0].backend.sequence == 0


async def test_volume_without_room_for_a_record_of_each_writer_is_refused(tmp_path: Path) -> None:
    async with World(tmp_path, 1, (WRITERS - 1) * RECORD_BYTES) as world:
        with pytest.raises(WrongStateError, match="too small for a canary"):
            await world.canary().run(asyncio.Event())


async def test_controller_without_nbd_is_an_error_at_the_start(world: World) -> None:
    await world.controllers[1].stop()
    with pytest.raises(UnreachableError, match="cannot write to its volumes"):
        await world.canary().run(asyncio.Event())
