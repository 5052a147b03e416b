"""What `Disk` and `File` promise, asked of each disk there is: a file system with a disk below, one
in memory, the simulated one.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.disk import RealDisk
from tests.sim.disk import SimDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.runtime.disk import Disk, File

SIZE = 1 << 20


@pytest.fixture(params=["file system", "tmpfs", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    if request.param == "simulated":
        yield SimDisk(seed=1), "/sim"
    elif request.param == "tmpfs":
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            yield RealDisk(), directory
    else:
        yield RealDisk(), str(tmp_path)


@pytest.fixture
def disk(place: tuple[Disk, str]) -> Disk:
    return place[0]


@pytest.fixture
def path(place: tuple[Disk, str]) -> str:
    return place[1] + "/images/a.img"


@pytest.fixture
def file(disk: Disk, path: str) -> Iterator[File]:
    file = disk.create(path, SIZE)
    yield file
    file.close()


def read(file: File, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    file.read_into(offset, memoryview(buffer))
    assert file.read(offset, length) == buffer
    return bytes(buffer)


def error_of(caught: pytest.ExceptionInfo[OSError]) -> int | None:
    return caught.value.errno


def test_new_file_is_zeroes_of_the_size_asked_for(disk: Disk, file: File, path: str) -> None:
    assert (file.path, file.size, disk.size(path), file.is_block) == (path, SIZE, SIZE, False)
    assert read(file, 0, SIZE) == bytes(SIZE)


def test_allocated_file_has_no_holes(disk: Disk, path: str) -> None:
    file = disk.create(path, SIZE + 5, allocate=True)
    assert all(is_data for _, _, is_data in file.extents(0, SIZE + 5))
    assert read(file, 0, SIZE + 5) == bytes(SIZE + 5)
    file.close()


def test_create_refuses_a_name_that_is_taken_and_leaves_it_alone(
    disk: Disk, file: File, path: str
) -> None:
    file.write(0, b"mine")
    with pytest.raises(OSError) as caught:
        disk.create(path, 10)
    assert error_of(caught) == errno.EEXIST
    assert read(file, 0, 4) == b"mine"
    assert disk.list(os.path.dirname(path)) == ["a.img"]


def test_a_file_is_opened_by_one_at_a_time(disk: Disk, file: File, path: str) -> None:
    with pytest.raises(OSError, match="in use already") as caught:
        disk.open(path)
    assert error_of(caught) == errno.EBUSY
    file.write(0, b"kept")
    file.close()
    again = disk.open(path)
    assert (again.size, again.read(0, 4)) == (SIZE, b"kept")
    again.close()


def test_opening_what_is_not_there_is_enoent(disk: Disk, path: str) -> None:
    assert not disk.exists(path)
    with pytest.raises(FileNotFoundError):
        disk.open(path)


def test_what_was_written_is_read_back_from_any_kind_of_buffer(file: File) -> None:
    for place, data in (
        (0, b"bytes"),
        (4093, bytearray(b"bytearray")),
        (SIZE - 4, memoryview(b"..view..")[2:6]),
    ):
        file.write(place, data)
        assert read(file, place, len(data)) == bytes(data)


def test_read_cached_gives_what_is_there_or_says_no(file: File) -> None:
    file.write(100, b"warm")
    buffer = bytearray(4)
    answers = [file.read_cached(100, memoryview(buffer)) for _ in range(40)]
    assert True in answers
    assert buffer == b"warm"


@pytest.mark.parametrize("count", [0, 1, 7, 1024, 1025, 3000])
def test_writev_writes_any_number_of_buffers(file: File, count: int) -> None:
    buffers = [bytes([number % 251]) * (number % 5) for number in range(count)]
    whole = b"".join(buffers)
    file.writev(4000, buffers, len(whole))
    assert read(file, 4000, len(whole) + 3) == whole + bytes(3)


@pytest.mark.parametrize("allocate", [True, False])
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, SIZE), (4096, 8192), (1, 1), (4095, 2), (513, 70000), (SIZE - 10, 10)],
)
def test_zeroed_range_reads_as_zeroes_and_its_neighbours_stay(
    file: File, allocate: bool, offset: int, length: int
) -> None:
    file.write(0, b"\xff" * SIZE)
    file.zero(offset, length, allocate)
    assert read(file, 0, SIZE) == b"\xff" * offset + bytes(length) + b"\xff" * (
        SIZE - offset - length
    )


def test_punching_leaves_a_hole(file: File) -> None:
    file.write(0, b"\xff" * SIZE)
    file.zero(65536, 131072, allocate=False)
    assert file.can_punch
    assert file.extents(0, SIZE) == [
        (0, 65536, True),
        (65536, 131072, False),
        (196608, SIZE - 196608, True),
    ]


def test_extents_cover_exactly_what_was_asked_for(file: File) -> None:
    assert file.extents(1000, 5000) == [(1000, 5000, False)]
    file.write(65536, b"\xff" * 65536)
    assert file.extents(60000, 10000) == [(60000, 5536, False), (65536, 4464, True)]
    assert file.extents(66000, 100) == [(66000, 100, True)]
    assert file.extents(0, 0) == []


def test_reserve_changes_nothing_that_is_read(file: File) -> None:
    file.write(5000, b"here")
    file.reserve(0, SIZE)
    assert read(file, 4998, 8) == b"\0\0here\0\0"
    assert file.size == SIZE


@pytest.mark.parametrize("use", ["read", "read_into", "write", "writev", "zero"])
def test_nothing_reaches_past_the_end(disk: Disk, file: File, path: str, use: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: file.read(SIZE - 2, 3),
        "read_into": lambda: file.read_into(SIZE - 2, memoryview(bytearray(3))),
        "write": lambda: file.write(SIZE - 2, b"abc"),
        "writev": lambda: file.writev(SIZE - 2, [b"ab", b"c"], 3),
        "zero": lambda: file.zero(SIZE - 2, 3, allocate=False),
    }
    with pytest.raises(OSError) as caught:
        calls[use]()
    assert error_of(caught) == errno.EIO
    assert disk.size(path) == SIZE


def test_a_closed_file_is_not_used_and_may_be_closed_again(file: File) -> None:
    file.close()
    with pytest.raises(OSError) as caught:
        file.write(0, b"late")
    assert error_of(caught) == errno.EBADF
    file.close()


def test_replace_file_takes_the_place_of_the_old_content(disk: Disk, path: str) -> None:
    directory = os.path.dirname(path)
    disk.make_directory(directory)
    for content in (b"first, and longer", b"second", b""):
        disk.replace_file(directory + "/checkpoint", content)
        assert disk.read_file(directory + "/checkpoint") == content
        assert disk.size(directory + "/checkpoint") == len(content)
    assert disk.list(directory) == ["checkpoint"]


def test_replace_file_in_a_missing_directory_is_enoent(disk: Disk, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        disk.replace_file(path, b"x")


def test_directories_are_made_with_their_parents_listed_and_emptied(disk: Disk, path: str) -> None:
    directory = os.path.dirname(path) + "/x/y"
    disk.make_directory(directory)
    disk.make_directory(directory)
    assert disk.exists(directory)
    for name in ("b", "a"):
        disk.create(f"{directory}/{name}", 1).close()
    assert disk.list(directory) == ["a", "b"]
    disk.remove(directory + "/a")
    assert disk.list(directory) == ["b"]
    with pytest.raises(FileNotFoundError):
        disk.remove(directory + "/a")
    with pytest.raises(FileNotFoundError):
        disk.list(directory + "/z")
    for below in ("", "/c", "/c/d"):
        with pytest.raises(NotADirectoryError):
            disk.make_directory(directory + "/b" + below)
    with pytest.raises(NotADirectoryError):
        disk.create(directory + "/b/c", 1)
