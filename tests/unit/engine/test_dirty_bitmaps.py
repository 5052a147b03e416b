"""What changed up to a point since an earlier cut, as the NBD server asks for it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from duplexd.core.change_map import ChangeMap
from duplexd.core.point import Point
from duplexd.engine.change_files import ChangeFiles
from duplexd.engine.dirty_bitmaps import within
from duplexd.errors import DuplexdError
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import SIZE, Core, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.backend import Extent

GRAIN = 64 << 10
DIRECTORY = "/state/changes"
EVERYTHING = [(0, SIZE, True)]
TAGS = ("monday", "tuesday", "wednesday")


async def cut(core: Core, tag: str) -> None:
    """Leave the cut that it is at, and make the next one."""
    if core.states()["data"] == "SUSPENDED":
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
    await core.controller.suspend(["data"], tag)


async def write(core: Core, grain: int) -> None:
    assert await core.write("data", grain * GRAIN, b"x" * 512) == 0


async def three_cuts(core: Core) -> Point:
    """Grain 1 changes between the first two, 2 between the last two, 3 after them."""
    for grain, tag in enumerate(TAGS, 1):
        await cut(core, tag)
        await write(core, grain)
    return point(core)


def point(core: Core) -> Point:
    found = core.controller.volume("data@latest")
    assert isinstance(found, Point)
    return found


async def asked(
    core: Core, bitmap: str, offset: int = 0, length: int = SIZE, extents_max: int = 512
) -> list[Extent]:
    """Of the point that is there."""
    answers: list[list[Extent]] = []
    core.controller.changed(point(core), offset, length, bitmap, extents_max, answers.append)
    await core.until(lambda: bool(answers))
    (answer,) = answers
    return answer


def dirty(extents: list[Extent]) -> set[int]:
    """Grains."""
    return {
        grain
        for offset, length, changed in extents
        if changed
        for grain in range(offset // GRAIN, -(-(offset + length) // GRAIN))
    }


@pytest.fixture
def unions() -> Iterator[mock.Mock]:
    """Counts how often maps are united."""
    with mock.patch.object(ChangeFiles, "unite", autospec=True, side_effect=ChangeFiles.unite) as m:
        yield m


# ------------------------------------------------------------------------------- which there are


async def test_a_point_has_a_bitmap_for_each_earlier_cut_by_id_and_by_tag() -> None:
    async with running() as core:
        earlier = await three_cuts(core)
        history = core.pair().record.history
        assert history is not None
        ids = [known.id for known in history.cuts]
        assert list(earlier.bitmaps()) == [ids[1], "tuesday", ids[0], "monday"]


async def test_a_volume_and_the_point_of_a_first_cut_have_none() -> None:
    async with running() as core:
        assert list(core.pair().bitmaps()) == []
        await cut(core, "monday")
        assert list(point(core).bitmaps()) == []
        assert list(core.pair().bitmaps()) == []


async def test_a_volume_of_which_no_cut_is_remembered_has_none() -> None:
    async with running() as core:
        await three_cuts(core)
        core.controller.changes.remember(0)
        assert list(point(core).bitmaps()) == []


async def test_a_cut_that_is_forgotten_has_none_any_more() -> None:
    async with running() as core:
        await three_cuts(core)
        assert "monday" in point(core).bitmaps()
        core.controller.changes.remember(2)
        assert "monday" not in point(core).bitmaps()
        assert "tuesday" in point(core).bitmaps()


async def test_a_tag_that_no_client_can_send_is_no_name() -> None:
    async with running() as core:
        await cut(core, "mon\0day")
        await cut(core, "tuesday")
        assert len(point(core).bitmaps()) == 1


# ---------------------------------------------------------------------------------- what changed


async def test_what_changed_since_each_cut_and_not_after_the_point() -> None:
    async with running() as core:
        await three_cuts(core)
        assert dirty(await asked(core, "monday")) == {1, 2}
        assert dirty(await asked(core, "tuesday")) == {2}


async def test_the_extents_are_of_the_range_that_was_asked_about() -> None:
    async with running() as core:
        await three_cuts(core)
        assert await asked(core, "monday", GRAIN + 512, 3 * GRAIN) == [
            (GRAIN + 512, 2 * GRAIN - 512, True),
            (3 * GRAIN, GRAIN + 512, False),
        ]
        assert await asked(core, "monday", extents_max=1) == [(0, GRAIN, False)]
        assert await asked(core, "monday", 5 * GRAIN, 1) == [(5 * GRAIN, 1, False)]


async def test_where_it_is_not_known_everything_changed() -> None:
    async with running() as core:
        await three_cuts(core)
        for name in ("sunday", "wednesday", "latest", ""):
            assert await asked(core, name) == EVERYTHING
        answers: list[list[Extent]] = []
        core.controller.changed(core.pair(), 512, 1024, "monday", 9, answers.append)
        assert answers == [[(512, 1024, True)]]


async def test_a_cut_that_was_forgotten_after_it_was_selected_means_everything() -> None:
    async with running() as core:
        await three_cuts(core)
        core.controller.changes.remember(2)
        assert await asked(core, "monday") == EVERYTHING


async def test_a_damaged_map_means_everything_until_it_can_be_read_again(
    unions: mock.Mock,
) -> None:
    async with running() as core:
        await three_cuts(core)
        await core.controller.checkpointer.checkpoint()
        names = core.disk.list(DIRECTORY)
        good = {name: core.disk.read_file(f"{DIRECTORY}/{name}") for name in names}
        for name in names:
            core.disk.flip(f"{DIRECTORY}/{name}", 40)
        assert await asked(core, "monday") == EVERYTHING
        assert await asked(core, "monday", GRAIN, 512) == [(GRAIN, 512, True)]
        for name, content in good.items():
            core.disk.replace_file(f"{DIRECTORY}/{name}", content)
        assert dirty(await asked(core, "monday")) == {1, 2}
        assert unions.call_count == 3


@pytest.mark.parametrize(
    "error", [DuplexdError("hung"), OSError(5, "x"), MemoryError(), KeyError()]
)
async def test_whatever_fails_is_answered_with_everything(error: Exception) -> None:
    async with running() as core:
        await three_cuts(core)
        with mock.patch.object(core.controller.changes, "extents", side_effect=error):
            assert await asked(core, "monday", 512, 1024) == [(512, 1024, True)]


# ---------------------------------------------------------------------------------------- bounds


async def test_maps_are_united_once_however_often_and_at_once_it_is_asked(
    unions: mock.Mock,
) -> None:
    async with running() as core:
        here = await three_cuts(core)
        answers: list[list[Extent]] = []
        for grain in range(8):
            core.controller.changed(here, grain * GRAIN, GRAIN, "monday", 9, answers.append)
        await core.until(lambda: len(answers) == 8)
        assert unions.call_count == 1
        await asked(core, here.bitmaps()["monday"])
        assert unions.call_count == 1, "an id and a tag are one cut"


async def test_so_many_maps_are_kept_those_that_were_used_last(unions: mock.Mock) -> None:
    async with running(limits=EngineLimits(bitmaps_kept_max=2)) as core:
        for tag in ("sunday", *TAGS):
            await cut(core, tag)
            await write(core, 1)
        for tag in ("sunday", "monday", "sunday", "tuesday", "sunday"):
            assert dirty(await asked(core, tag)) == {1}
        assert unions.call_count == 3
        await asked(core, "monday")
        assert unions.call_count == 4


async def test_one_question_is_answered_in_a_turn() -> None:
    async with running() as core:
        here = await three_cuts(core)
        await asked(core, "monday")
        answers: list[list[Extent]] = []
        for _ in range(20):
            core.controller.changed(here, 0, SIZE, "monday", 512, answers.append)
        before, most = 0, 0
        for _ in range(200):
            await core.turns(1)
            most, before = max(most, len(answers) - before), len(answers)
        assert (len(answers), most) == (20, 1)


async def test_questions_for_one_extent_need_no_turns_of_their_own(unions: mock.Mock) -> None:
    """Once the map is there: QEMU asks for each extent, and waits for the answer. But not all that
    a client sends are answered at once.
    """
    async with running() as core:
        here = await three_cuts(core)
        whole = await asked(core, "monday")
        found: list[Extent] = []
        while (at := sum(length for _, length, _ in found)) < SIZE:
            core.controller.changed(here, at, SIZE - at, "monday", 1, found.extend)
            await core.turns(1)
        assert found == whole
        assert unions.call_count == 1
        answers: list[list[Extent]] = []
        for _ in range(100):
            core.controller.changed(here, 0, SIZE, "monday", 1, answers.append)
        assert 1 < len(answers) < 20
        await core.until(lambda: len(answers) == 100)
        assert {*map(str, answers)} == {str(whole[:1])}


@pytest.mark.parametrize("seed", range(20))
def test_asking_on_from_where_an_answer_ends_gives_the_map(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randrange(1, 400) * 4096 + 1
    changed = ChangeMap(size, 4096, rng.choice([16, 1 << 20]))
    for _ in range(rng.randrange(60)):
        at = rng.randrange(size)
        changed.set(at, rng.randrange(1, size - at + 1) if rng.random() < 0.1 else 1)
    found, at = bytearray(), 0
    while at < size:
        length, most = rng.randrange(1, size - at + 1), rng.choice([1, 2, 3, 512])
        extents = within(changed, at, length, most)
        assert 0 < len(extents) <= most
        for number, (offset, nbytes, is_dirty) in enumerate(extents):
            assert offset == at + sum(each[1] for each in extents[:number])
            assert nbytes > 0
            assert number == 0 or extents[number - 1][2] != is_dirty
            found += bytes([is_dirty]) * nbytes
        covered = sum(each[1] for each in extents)
        assert covered <= length
        assert covered == length or len(extents) == most
        at += covered
    assert found == b"".join(
        bytes([changed.overlaps(grain, 1)]) * min(changed.grain_bytes, size - grain)
        for grain in range(0, size, changed.grain_bytes)
    )
