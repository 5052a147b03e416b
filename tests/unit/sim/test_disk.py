"""The simulated disk must lose what it may lose, keep what it must keep, and do the same again for
the same seed.
"""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.sim.disk import PowerCut, SimDisk
from tests.sim.image import PAGE, SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.disk import SimFile

SIZE = 64 * 1024
PATH = "/state/a"
SEEDS = range(60)


def content(disk: SimDisk, path: str = PATH) -> bytes:
    return disk.read_file(path)


def after_power_cut(seed: int, run: Callable[[SimFile], None]) -> bytes:
    disk = SimDisk(seed)
    run(disk.create(PATH, SIZE))
    disk.crash(power=True)
    return content(disk)


def test_a_power_cut_never_takes_what_was_synced() -> None:
    def run(file: SimFile) -> None:
        for place in range(0, SIZE, PAGE):
            file.write(place, b"\x01" * PAGE)
        file.zero(0, PAGE, allocate=False)
        file.sync()

    for seed in SEEDS:
        assert after_power_cut(seed, run) == bytes(PAGE) + b"\x01" * (SIZE - PAGE)


def test_a_power_cut_takes_or_leaves_each_unsynced_sector() -> None:
    def run(file: SimFile) -> None:
        file.write(0, b"\x01" * SIZE)
        file.sync()
        file.writev(0, [b"\x02" * PAGE, b"\x02" * PAGE], 2 * PAGE)
        file.write(4 * PAGE, b"\x03" * PAGE)

    found = [after_power_cut(seed, run) for seed in SEEDS]
    for image in found:
        assert set(image[: 2 * PAGE]) <= {1, 2}
        assert set(image[4 * PAGE : 5 * PAGE]) <= {1, 3}
        assert image[2 * PAGE : 4 * PAGE] + image[5 * PAGE :] == b"\x01" * (SIZE - 3 * PAGE)
        for place in range(0, SIZE, SECTOR):
            assert len(set(image[place : place + SECTOR])) == 1, "a sector is never torn"
    outcomes = {(2 in image, 3 in image) for image in found}
    assert outcomes == {(False, False), (False, True), (True, False), (True, True)}, (
        "also out of order"
    )
    assert any({1, 2} == set(image[: 2 * PAGE]) for image in found), (
        "some write is torn in the middle"
    )


def test_each_sector_holds_what_it_held_at_some_moment() -> None:
    def run(file: SimFile) -> None:
        for value in range(1, 6):
            file.write(0, bytes([value]) * 200)
            file.write(200, bytes([value]) * 100)

    moments = set()
    for seed in SEEDS:
        image = after_power_cut(seed, run)
        first, second = image[0], image[250]
        assert image[:300] == bytes([first]) * 200 + bytes([second]) * 100
        assert first in (second, second + 1), "the second half is written right after the first"
        moments.add((first, second))
    assert len(moments) > 3


def marked(mark: bytes, durable: bool = False) -> Callable[[SimFile], object]:
    return lambda file: file.write_mark(mark, durable)


def mark_after_power_cut(seed: int, *steps: Callable[[SimFile], object]) -> bytes:
    disk = SimDisk(seed)
    file = disk.create(PATH, SIZE)
    for step in steps:
        step(file)
    disk.crash(power=True)
    return disk.open(PATH).read_mark()


def test_a_power_cut_takes_or_leaves_each_unsynced_mark() -> None:
    steps = marked(b"1", durable=True), marked(b"2"), marked(b"3")
    assert {mark_after_power_cut(seed, *steps) for seed in SEEDS} == {b"1", b"2", b"3"}


def test_a_sync_without_times_does_not_keep_a_mark_and_one_with_them_does() -> None:
    def data_only(file: SimFile) -> None:
        file.sync()

    def with_times(file: SimFile) -> None:
        file.sync(times=True)

    for step, marks in ((data_only, {b"", b"1"}), (with_times, {b"1"})):
        assert {mark_after_power_cut(seed, marked(b"1"), step) for seed in SEEDS} == marks


def test_a_kill_keeps_what_was_written_and_the_power_cut_after_it_may_not() -> None:
    lost = 0
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.create(PATH, SIZE).write(0, b"\x01" * SIZE)
        disk.crash(power=False)
        assert content(disk) == b"\x01" * SIZE
        assert disk.unsynced(PATH) == 1
        disk.crash(power=True)
        lost += content(disk) != b"\x01" * SIZE
    assert 0 < lost < len(SEEDS)


def test_the_next_process_can_sync_what_the_killed_one_wrote() -> None:
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.create(PATH, SIZE).write(0, b"\x01" * SIZE)
        disk.crash(power=False)
        disk.open(PATH).sync()
        disk.crash(power=True)
        assert content(disk) == b"\x01" * SIZE


def test_names_and_replaced_files_are_durable_at_once() -> None:
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.make_directory("/state")
        disk.replace_file("/state/checkpoint", b"one")
        disk.replace_file("/state/checkpoint", b"two")
        disk.create(PATH, SIZE, allocate=True)
        disk.create("/state/gone", 1).close()
        disk.remove("/state/gone")
        disk.crash(power=True)
        assert disk.list("/state") == ["a", "checkpoint"]
        assert disk.read_file("/state/checkpoint") == b"two"


def test_after_a_failed_sync_some_is_lost_for_good_though_it_is_still_read() -> None:
    lost = 0
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.fail(PATH, errno.EIO, operation="sync", times=1)
        file = disk.create(PATH, SIZE)
        file.write(0, b"\x01" * PAGE)
        with pytest.raises(OSError):
            file.sync()
        file.sync()  # succeeds, and restores nothing
        assert file.read(0, PAGE) == b"\x01" * PAGE
        disk.crash(power=True)
        lost += content(disk)[:PAGE] != b"\x01" * PAGE
    assert lost > len(SEEDS) / 2


def test_the_same_seed_forgets_the_same() -> None:
    def run(file: SimFile) -> None:
        for place in range(0, SIZE - 650, 700):
            file.write(place, b"\x01" * 650)

    assert [after_power_cut(seed, run) for seed in SEEDS] == [
        after_power_cut(seed, run) for seed in SEEDS
    ]
    assert len({after_power_cut(seed, run) for seed in SEEDS}) > 10


def test_what_the_dead_process_had_open_stays_dead() -> None:
    disk = SimDisk()
    file = disk.create(PATH, SIZE)
    disk.crash(power=False)
    for use in (
        lambda: file.read(0, 1),
        lambda: file.write(0, b"x"),
        file.sync,
        lambda: file.extents(0, 1),
    ):
        with pytest.raises(PowerCut):
            use()
    again = disk.open(PATH)
    file.close()
    with pytest.raises(OSError, match="in use"):
        disk.open(PATH)
    again.write(0, b"x")


def expect_dead(disk: SimDisk, file: SimFile) -> None:
    assert disk.dead
    for use in (
        lambda: file.read(0, 1),
        lambda: disk.open(PATH),
        lambda: disk.replace_file("/state/x", b""),
    ):
        with pytest.raises(PowerCut):
            use()


@pytest.mark.parametrize("power", [True, False])
def test_a_cut_can_come_in_the_middle_of_a_write(power: bool) -> None:
    torn = 0
    for seed in SEEDS:
        disk = SimDisk(seed)
        file = disk.create(PATH, SIZE)
        disk.cut_at(2)
        file.write(0, b"\x01" * PAGE)
        with pytest.raises(PowerCut):
            file.write(PAGE + 100, b"\x02" * (4 * PAGE))
        expect_dead(disk, file)
        disk.crash(power)
        disk.open(PATH).close()
        written = content(disk)[PAGE + 100 : 5 * PAGE + 100]
        torn += 0 < written.count(2) < len(written)
        if not power:
            assert content(disk)[:PAGE] == b"\x01" * PAGE
            assert all(one >= other for one, other in pairwise(written)), (
                "a killed write got so far and no further"
            )
    assert torn > 5


def test_a_cut_in_the_middle_of_anything_else_lets_it_happen_whole_or_not_at_all() -> None:
    found = set()
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.replace_file("/checkpoint", b"old")
        file = disk.create(PATH, SIZE)
        file.write(0, b"\x01" * SIZE)
        uses: list[Callable[[], object]] = [
            file.sync,
            # called within this turn of the loop
            lambda: disk.replace_file("/checkpoint", b"new"),  # noqa: B023
            lambda: disk.create("/state/b", SIZE),  # noqa: B023
            lambda: disk.remove(PATH),  # noqa: B023
        ]
        which = seed % len(uses)
        disk.cut_at(1)
        with pytest.raises(PowerCut):
            uses[which]()
        disk.crash(power=False)
        happened = [
            not disk.exists(PATH) or disk.unsynced(PATH) == 0,
            disk.read_file("/checkpoint") == b"new",
            disk.exists("/state/b"),
            not disk.exists(PATH),
        ][which]
        found.add((which, happened))
    assert found == {(which, happened) for which in range(4) for happened in (False, True)}


def test_the_hook_sees_each_change_before_it_is_made_and_can_cut() -> None:
    disk = SimDisk()
    seen, died = [], []

    def before(operation: str, path: str) -> None:
        seen.append((operation, path))
        if operation == "sync":
            raise PowerCut("here")

    disk.before, disk.on_dead = before, lambda: died.append(True)
    file = disk.create(PATH, SIZE)
    file.write(0, b"x")
    file.read(0, 1)
    file.writev(0, [b"y"], 1)
    file.zero(0, 1, allocate=True)
    file.reserve(0, 1)
    with pytest.raises(PowerCut, match="here"):
        file.sync()
    assert seen == [
        (operation, PATH) for operation in ("create", "write", "writev", "zero", "reserve", "sync")
    ]
    assert (disk.dead, died, disk.unsynced(PATH)) == (True, [True], 3)


def test_errors_strike_when_and_where_they_are_told_to() -> None:
    disk = SimDisk()
    disk.fail("/state", errno.EIO, after=2, operation="write")
    file, other = disk.create(PATH, SIZE), disk.create("/other", SIZE)
    file.write(0, b"x")
    file.write(0, b"x")
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            file.write(0, b"y")
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, PATH)
    assert file.read(0, 1) == b"x"
    file.sync()
    other.write(0, b"y")
    disk.heal("/state")
    file.write(0, b"z")


def test_a_torn_write_puts_down_a_part_and_fails_once() -> None:
    parts = set()
    for seed in SEEDS:
        disk = SimDisk(seed)
        disk.tear(PATH, after=1)
        file = disk.create(PATH, SIZE)
        file.write(0, b"whole")
        file.sync()
        with pytest.raises(OSError):
            file.write(100, b"\x01" * 1000)
        parts.add(file.read(100, 1000).count(1))
        file.write(0, b"again")
    assert len(parts) > 10
    assert max(parts) < 1000


def test_a_full_disk_takes_what_needs_no_new_space_and_nothing_else() -> None:
    disk = SimDisk()
    file = disk.create(PATH, SIZE)
    file.write(0, b"\x01" * PAGE)
    file.reserve(PAGE, PAGE)
    disk.full("/state")
    file.write(0, b"\x02" * (2 * PAGE))
    for use in (
        lambda: file.write(2 * PAGE, b"x"),
        lambda: file.writev(0, [b"\x03" * (3 * PAGE)], 3 * PAGE),
        lambda: file.zero(0, SIZE, allocate=True),
        lambda: file.reserve(0, SIZE),
        lambda: disk.create("/state/b", SIZE, allocate=True),
        lambda: disk.replace_file("/state/checkpoint", b"x"),
    ):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.ENOSPC
    assert disk.list("/state") == ["a"]
    file.zero(0, SIZE, allocate=False)
    with pytest.raises(OSError):
        file.write(0, b"the hole needs space again")
    disk.heal("/state")
    file.write(0, b"x")


def test_cold_reads_are_as_frequent_as_asked() -> None:
    buffer = memoryview(bytearray(1))
    for cold, warm in ((0.0, 100), (1.0, 0)):
        file = SimDisk(cold=cold).create(PATH, SIZE)
        assert sum(file.read_cached(0, buffer) for _ in range(100)) == warm


def test_holes_after_a_power_cut_are_where_nothing_is() -> None:
    for seed in SEEDS:
        disk = SimDisk(seed)
        file = disk.create(PATH, SIZE)
        file.write(0, b"\x01" * (8 * PAGE))
        file.sync()
        file.zero(0, 4 * PAGE, allocate=False)
        file.write(10 * PAGE, b"\x01" * PAGE)
        disk.crash(power=True)
        file = disk.open(PATH)
        for offset, length, is_data in file.extents(0, SIZE):
            assert is_data or not any(file.read(offset, length))


def test_only_a_power_cut_is_another_boot() -> None:
    disk = SimDisk()
    first = disk.boot_id()
    disk.crash(power=False)
    assert disk.boot_id() == first
    disk.crash(power=True)
    assert disk.boot_id() != first
