"""A staging log holds what will be on the secondaries: whole, in order, with room kept for it."""

from __future__ import annotations

import errno

import pytest

from duplexd.errors import DamageError
from duplexd.journal.format import RECORD_HEADER_BYTES
from duplexd.replication.follower import SecondarySink, UntouchedError
from duplexd.replication.staging import Span, StagingArea
from duplexd.runtime.watch import Watch
from tests.unit.replication.fakes import BLOCK, World

DIRECTORY = "/state/staging"
FILE_BYTES = 8 * BLOCK


def area(world: World) -> StagingArea:
    return StagingArea(world.disk, DIRECTORY)


def stage(world: World, job: str, contents: list[bytes]) -> int:
    """A log with one WRITE for each content, block after block; how many records it has."""
    pair = next(iter(world.legs))
    sink = area(world).sink(job, FILE_BYTES, BLOCK)
    for number, content in enumerate(contents):
        sink.write(pair, number * BLOCK, content)
    sink.finish()
    return sink.count


def test_what_was_staged_is_applied_over_all_of_its_files() -> None:
    world = World()
    pair = world.pair()
    contents = [bytes([number + 1]) * BLOCK for number in range(20)]
    count = stage(world, "job", contents)
    assert len(world.disk.list(DIRECTORY)) > 1
    assert not any(world.legs[pair].secondary.data), "only staged"
    area(world).apply("job", {pair.id: pair}, count, SecondarySink(), Watch())
    assert world.legs[pair].secondary.data[: 20 * BLOCK] == b"".join(contents)


def test_a_log_is_applied_in_steps_that_say_where_they_wrote() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK] * 20)
    log = area(world).log("job", {pair.id: pair}, count)
    spans: list[Span] = []
    while not log.is_applied:
        spans += log.step(SecondarySink(), Watch()).values()
    assert len(spans) > 1
    assert spans[0].offset == 0
    assert spans[-1].end == sum(span.written_bytes for span in spans) == 20 * BLOCK


def test_the_last_of_two_changes_of_one_place_wins() -> None:
    world = World()
    pair = world.pair()
    sink = area(world).sink("job", FILE_BYTES, BLOCK)
    sink.write(pair, 0, b"a" * BLOCK)
    sink.zero(pair, 0, BLOCK // 2, True)
    sink.finish()
    area(world).apply("job", {pair.id: pair}, sink.count, SecondarySink(), Watch())
    half = BLOCK // 2
    assert world.legs[pair].secondary.data[:BLOCK] == bytes(half) + b"a" * half


def test_it_is_durable_once_it_is_finished() -> None:
    world = World()
    world.pair()
    stage(world, "job", [b"x" * BLOCK] * 20)
    assert not any(
        world.disk.unsynced(f"{DIRECTORY}/{name}") for name in world.disk.list(DIRECTORY)
    )


def test_a_log_of_which_a_file_is_missing_is_refused() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK] * 20)
    world.disk.remove(f"{DIRECTORY}/{world.disk.list(DIRECTORY)[-1]}")
    with pytest.raises(DamageError, match=rf"job-0001.stg: .* ends after record \d+ of {count}"):
        area(world).apply("job", {pair.id: pair}, count, SecondarySink(), Watch())


def test_a_damaged_record_ends_the_log_there() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK] * 3)
    world.disk.flip(f"{DIRECTORY}/{world.disk.list(DIRECTORY)[0]}", BLOCK + 500)
    with pytest.raises(DamageError, match=r"job-0000.stg: .* ends after record 1 of 3"):
        area(world).apply("job", {pair.id: pair}, count, SecondarySink(), Watch())


def test_damage_at_the_end_of_one_file_is_not_blamed_on_the_next() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK] * 20)
    world.disk.flip(f"{DIRECTORY}/job-0000.stg", 6 * (BLOCK + RECORD_HEADER_BYTES) + 500)
    with pytest.raises(DamageError, match=r"job-0000.stg: .* ends after record 6 of"):
        area(world).apply("job", {pair.id: pair}, count, SecondarySink(), Watch())


def test_a_volume_that_was_removed_meanwhile_is_passed_by() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK])
    area(world).apply("job", {}, count, SecondarySink(), Watch())
    assert not any(world.legs[pair].secondary.data)


def test_a_secondary_that_fails_while_it_is_applied_fails_alone() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    sink = area(world).sink("job", FILE_BYTES, BLOCK)
    for each in (pair, other, pair, other):
        sink.write(each, sink.count * BLOCK, b"x" * BLOCK)
    sink.finish()
    world.legs[pair].faults.fail("write", errno.EIO)
    pairs = {pair.id: pair, other.id: other}
    failed = area(world).apply("job", pairs, sink.count, SecondarySink(), Watch())
    assert list(failed) == [pair]
    assert world.legs[pair].faults.calls["write"] == 1, "and is not written to again"
    assert world.legs[other].secondary.data.count(b"x") == 2 * BLOCK


def test_a_log_that_cannot_be_read_names_its_path() -> None:
    world = World()
    pair = world.pair()
    count = stage(world, "job", [b"x" * BLOCK])
    world.disk.fail(f"{DIRECTORY}/job-0000.stg", errno.EIO)
    with pytest.raises(OSError, match=r"/state/staging/job-0000.stg: Input/output error"):
        area(world).apply("job", {pair.id: pair}, count, SecondarySink(), Watch())


def test_the_log_of_a_large_volume_has_more_files_than_four_digits() -> None:
    """10,000 files of 16 MiB are 160 GiB; their names no longer sort as their numbers do."""
    world = World()
    pair = world.pair()
    sink = area(world).sink("job", 0, RECORD_HEADER_BYTES)  # two records in each
    for number in range(20_003):
        sink.zero(pair, 0, 1 + number, True)
    sink.finish()
    assert "job-10001.stg" in world.disk.list(DIRECTORY)
    assert not area(world).apply("job", {pair.id: pair}, sink.count, SecondarySink(), Watch())
    assert world.legs[pair].faults.calls["zero"] == sink.count


def test_only_the_file_that_is_written_is_open() -> None:
    """A process may have 1,024 descriptors."""
    world = World()
    pair = world.pair()
    sink = area(world).sink("job", FILE_BYTES, BLOCK)
    for number in range(20):
        sink.write(pair, number * BLOCK, b"x" * BLOCK)
    *full, last = world.disk.list(DIRECTORY)
    for name in full:
        world.disk.open(f"{DIRECTORY}/{name}").close()
        assert not world.disk.unsynced(f"{DIRECTORY}/{name}")
    with pytest.raises(OSError, match="in use"):
        world.disk.open(f"{DIRECTORY}/{last}")


def test_a_secondary_without_room_is_found_before_anything_is_staged_for_it() -> None:
    """Once the log is committed, a full disk would leave the secondary half-way."""
    world = World()
    pair = world.pair()
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    sink = area(world).sink("job", FILE_BYTES, BLOCK)
    with pytest.raises(UntouchedError, match="/b/data: no room for the changes"):
        sink.write(pair, 0, b"x" * BLOCK)
    assert not world.disk.exists(DIRECTORY)


def test_zeroes_need_room_only_where_they_are_kept_allocated() -> None:
    world = World()
    pair = world.pair()
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    sink = area(world).sink("job", FILE_BYTES, BLOCK)
    sink.zero(pair, 0, BLOCK, False)
    with pytest.raises(UntouchedError):
        sink.zero(pair, 0, BLOCK, True)
    sink.close()


def test_only_the_log_of_that_job_is_removed() -> None:
    """Another may be committed, and not applied yet."""
    world = World()
    world.pair()
    stage(world, "one", [b"x" * BLOCK] * 20)
    stage(world, "other", [b"x" * BLOCK])
    area(world).remove("one")
    assert world.disk.list(DIRECTORY) == ["other-0000.stg"]
    area(world).clear(Watch())
    assert not world.disk.list(DIRECTORY)


def test_there_need_not_be_any() -> None:
    world = World()
    area(world).remove("one")
    area(world).clear(Watch())
    assert not world.disk.exists(DIRECTORY)
