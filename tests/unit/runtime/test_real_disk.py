"""`RealDisk` where the operating system does not do what it is asked to at once."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import tempfile
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.runtime import directory, fallocate, locked, machine, realfile, writeback
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.medium import Aligned
from duplexd.runtime.page_cache import is_cached
from duplexd.runtime.pipes import Pipe
from duplexd.runtime.writeback import Losses, LostWritesError, write_back
from tests.unit.runtime.test_page_cache import KERNEL_SAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.runtime.disk import File

SIZE = 3 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.img")


@pytest.fixture
def file(path: str) -> Iterator[File]:
    file = RealDisk().create(path, SIZE)
    yield file
    file.close()


def short(at_most: int) -> Callable[..., int]:
    """`os.pwrite` and `os.pwritev` that write no more than `at_most` bytes a time."""
    pwrite = os.pwrite

    def write(fd: int, data: Any, offset: int) -> int:
        joined = b"".join(data) if isinstance(data, list) else bytes(data)
        return pwrite(fd, joined[:at_most], offset)

    return write


@pytest.mark.parametrize("at_most", [1, 7, 100, 4096])
def test_short_writes_are_continued_where_they_stopped(
    file: File, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    buffers = [bytes([number]) * (number * 3) for number in range(40)]
    whole = b"".join(buffers)
    monkeypatch.setattr(os, "pwritev", short(at_most))
    monkeypatch.setattr(os, "pwrite", short(at_most))
    file.write(10, whole)
    file.writev(9000, buffers, len(whole))
    assert file.read(10, len(whole)) == whole
    assert file.read(9000, len(whole)) == whole


@pytest.mark.parametrize(
    ("file_system", "release", "cut"),
    [
        ("ext4", "6.16.0", True),
        ("ext4", "6.18.44-1-generic", True),
        ("ext4", "7.0-rc1", True),
        ("ext4", "6.15.9", False),
        ("ext4", "5.19.0", False),
        ("xfs", "6.18.1", False),
        ("", "6.18.1", False),
    ],
)
def test_large_writes_are_cut_where_the_page_cache_would_keep_large_folios(
    file_system: str, release: str, cut: bool
) -> None:
    assert machine.folio_bytes_max(file_system, release) == (32 << 10 if cut else sys.maxsize)


@pytest.fixture
def in_pieces(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[File]:
    monkeypatch.setattr(realfile, "at_once_bytes_max", lambda _fd: 100)
    file = RealDisk().create(path, SIZE)
    yield file
    file.close()


def test_a_large_write_is_cut_at_multiples_of_a_piece(
    in_pieces: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, written = os.pwrite, []

    def noting(fd: int, data: bytes, offset: int) -> int:
        written.append((offset, len(data)))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noting)
    data = bytes(range(250))
    in_pieces.write(30, data)
    assert written == [(30, 70), (100, 100), (200, 80)]
    assert in_pieces.read(30, 250) == data


def test_a_large_write_into_what_is_cached_is_not_cut(
    in_pieces: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, written = os.pwrite, []

    def noting(fd: int, data: bytes, offset: int) -> int:
        written.append((offset, len(data)))
        return pwrite(fd, data, offset)

    in_pieces.write(0, bytes(mmap.PAGESIZE))
    monkeypatch.setattr(os, "pwrite", noting)
    monkeypatch.setattr(realfile, "is_cached", lambda _fd, offset, length: offset + length <= SIZE)
    data = bytes(range(250))
    in_pieces.write(30, data)
    assert written == [(30, 250)]
    assert in_pieces.read(30, 250) == data


@pytest.mark.parametrize("at_most", [1, 99])
def test_short_writes_of_pieces_are_made_whole(
    in_pieces: File, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    data = bytes(range(250))
    monkeypatch.setattr(os, "pwrite", short(at_most))
    in_pieces.write(30, data)
    assert in_pieces.read(30, 250) == data


def test_an_error_of_a_piece_names_the_path(
    in_pieces: File, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int, data: bytes, offset: int) -> int:
        if offset >= 200:
            raise OSError(errno.ENOSPC, "full")
        return len(data)

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(OSError, match="full") as caught:
        in_pieces.write(0, bytes(300))
    assert caught.value.filename == path


def test_a_write_that_gets_nowhere_is_an_error_not_a_loop(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match="wrote nothing"):
        file.write(0, b"abc")


def test_short_reads_are_continued(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(50, bytes(range(200)))
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 13), offset))
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:13]], offset)
    )
    assert file.read(50, 200) == bytes(range(200))


def test_a_cold_read_says_no_and_a_broken_one_raises(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = memoryview(bytearray(4))

    def fails(code: int) -> Callable[..., int]:
        def preadv(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        return preadv

    monkeypatch.setattr(os, "preadv", fails(errno.EAGAIN))
    assert not file.read_cached(0, buffer)
    monkeypatch.setattr(os, "preadv", lambda *_: 3)
    assert not file.read_cached(0, buffer)
    monkeypatch.setattr(os, "preadv", fails(errno.EIO))
    with pytest.raises(OSError):
        file.read_cached(0, buffer)


def test_pages_are_put_only_if_the_page_cache_has_all_of_them(file: File) -> None:
    file.write(0, b"x" * 3 * PAGESIZE)
    pipe = Pipe()
    assert file.put_pages(100, 2 * PAGESIZE, pipe) == KERNEL_SAYS
    assert pipe.read() == (b"x" * 2 * PAGESIZE if KERNEL_SAYS else b"")
    assert not file.put_pages(2 * PAGESIZE, 2 * PAGESIZE, pipe)
    assert len(pipe) == 0


def test_pages_that_are_on_their_way_are_not_waited_for(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(*_: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    file.write(0, b"x" * PAGESIZE)
    monkeypatch.setattr(os, "preadv", later)
    pipe = Pipe()
    assert not file.put_pages(0, PAGESIZE, pipe)
    assert len(pipe) == 0


@pytest.mark.parametrize("memory", [True, False])
def test_without_nowait_only_a_file_system_in_memory_is_read_in_the_loop(
    path: str, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    preadv, flagged = os.preadv, []

    def refuses(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            flagged.append(flags)
            raise OSError(errno.EOPNOTSUPP, "no")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuses)
    monkeypatch.setattr(realfile, "in_memory", lambda _fd: memory)
    file = RealDisk().create(path, SIZE)
    # not again: any call on the descriptor may hang
    monkeypatch.setattr(realfile, "in_memory", lambda _fd: not memory)
    file.write(0, b"data")
    buffer = bytearray(4)
    assert [file.read_cached(0, memoryview(buffer)) for _ in range(3)] == [memory] * 3
    assert buffer == (b"data" if memory else bytes(4))
    assert len(flagged) == 1, "asked once, remembered"
    file.close()


def test_file_systems_in_memory_are_recognised() -> None:
    with (
        tempfile.TemporaryFile(dir="/dev/shm") as in_memory,
        open("/proc/self/status", "rb") as elsewhere,
    ):
        assert machine.in_memory(in_memory.fileno())
        assert not machine.in_memory(elsewhere.fileno())


@pytest.mark.parametrize(
    ("kind", "memory"),
    [("ext4", False), ("xfs", False), ("overlay", False), ("tmpfs", True), ("ramfs", True)],
)
def test_a_file_system_is_known_by_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, memory: bool
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw\n27 22 8:1 / / rw "
        f"shared:1 - {kind} /dev/sda1 rw\n"
    )
    monkeypatch.setattr(machine, "Path", lambda _path: mounts)
    look = machine._file_system.__wrapped__  # what it remembers is of the real machine
    found = [look(os.makedev(8, 1)), look(os.makedev(0, 21)), look(os.makedev(8, 2))]
    assert found == [kind, "proc", ""]
    assert (kind in machine._MEMORY_FILE_SYSTEMS) == memory


@pytest.mark.parametrize(
    "unsupported",
    [{fallocate.PUNCH_HOLE}, {fallocate.ZERO_RANGE}, {fallocate.PUNCH_HOLE, fallocate.ZERO_RANGE}],
)
@pytest.mark.parametrize("allocate", [True, False])
def test_zero_falls_back_to_what_the_file_system_can(
    path: str, monkeypatch: pytest.MonkeyPatch, unsupported: set[int], allocate: bool
) -> None:
    asked = []

    def partly(fd: int, mode: int, offset: int, length: int) -> bool:
        asked.append(mode)
        return not any(mode & bit for bit in unsupported) and fallocate.fallocate(
            fd, mode, offset, length
        )

    monkeypatch.setattr(machine, "_PUNCHING_FILE_SYSTEMS", frozenset())  # ask
    monkeypatch.setattr(machine, "fallocate", partly)
    monkeypatch.setattr(realfile, "fallocate", partly)
    file = RealDisk().create(path, SIZE)
    assert file.can_punch == (fallocate.PUNCH_HOLE not in unsupported)
    file.write(0, b"\xff" * SIZE)
    for _ in range(2):
        file.zero(1000, SIZE - 2000, allocate)
    assert file.read(0, SIZE) == b"\xff" * 1000 + bytes(SIZE - 2000) + b"\xff" * 1000
    for bit in unsupported:
        assert sum(bool(mode & bit) for mode in asked) <= 1, "asked once, remembered"
    if allocate:
        assert os.stat(path).st_blocks * 512 >= SIZE, "the space is kept"
    file.close()


def test_the_probe_for_holes_changes_nothing_and_leaves_nothing(tmp_path: Path, path: str) -> None:
    RealDisk().create(path, SIZE, allocate=True).close()
    before = (os.stat(path).st_size, os.stat(path).st_blocks)
    file = RealDisk().open(path)
    assert file.can_punch
    assert (os.stat(path).st_size, os.stat(path).st_blocks) == before
    assert os.listdir(tmp_path) == ["a.img"]
    file.close()


def test_fallocate_raises_what_is_not_a_missing_ability(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError) as caught:
        fallocate.fallocate(file.fileno(), fallocate.KEEP_SIZE, 0, 0)
    assert caught.value.errno == errno.EINVAL
    with (tmp_path / "x").open("rb") as file, pytest.raises(OSError) as caught:
        fallocate.fallocate(file.fileno(), fallocate.KEEP_SIZE, 0, 4096)
    assert caught.value.errno == errno.EBADF


def test_reserve_without_space_raises_and_leaves_the_content() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        file = RealDisk().create(directory + "/a.img", 1 << 45)
        file.write(5000, b"here")
        with pytest.raises(OSError) as caught:
            file.reserve(0, 1 << 45)  # more than any tmpfs has: refused before anything is taken
        assert caught.value.errno == errno.ENOSPC
        assert file.read(4990, 20) == bytes(10) + b"here" + bytes(6)
        file.close()


def test_another_process_is_kept_out_until_this_one_closes(path: str, file: File) -> None:
    program = f"from duplexd.runtime.disk import RealDisk; RealDisk().open({path!r})"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    refused = run()
    assert refused.returncode == 1
    assert (
        f"in use already: by another process, or as another image of this one: {path!r}"
        in refused.stderr
    )
    file.close()
    assert run().returncode == 0


def test_one_file_by_two_names_is_refused(tmp_path: Path, path: str, file: File) -> None:
    os.symlink(path, tmp_path / "symbolic")
    os.link(path, tmp_path / "hard")
    for other in ("symbolic", "hard"):
        with pytest.raises(OSError, match="in use already"):
            RealDisk().open(str(tmp_path / other))


@pytest.mark.parametrize("kind", ["directory", "fifo", "character device"])
def test_only_files_and_block_devices_are_opened(tmp_path: Path, kind: str) -> None:
    path = {
        "directory": str(tmp_path),
        "fifo": str(tmp_path / "fifo"),
        "character device": "/dev/null",
    }[kind]
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(OSError, match="neither a regular file nor a block device"):
        RealDisk().open(path)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("step", ["_fill", "_name"])
def test_a_create_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, step: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(locked, step, fails)
    if named:
        without_nameless_files(monkeypatch)
    with pytest.raises(OSError, match="full"):
        RealDisk().create(str(tmp_path / "b.img"), SIZE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_create_where_files_need_a_name_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    without_nameless_files(monkeypatch)
    if not links:

        def refuses(*_: object, **_by_name: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuses)
    file = RealDisk().create(str(tmp_path / "b.img"), SIZE)
    assert os.listdir(tmp_path) == ["b.img"]
    assert file.read(0, SIZE) == bytes(SIZE)
    with pytest.raises(OSError, match="in use already"):
        RealDisk().open(str(tmp_path / "b.img"))
    file.close()


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def refuses(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no nameless files")
        return really_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuses)


def test_create_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", tmp_path / "b.img")
    with pytest.raises(FileExistsError):
        RealDisk().create(str(tmp_path / "b.img"), SIZE)
    assert os.listdir(tmp_path) == ["b.img"]


def test_replace_file_in_a_shared_directory_touches_no_name_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    (tmp_path / "cut.json.tmp").write_bytes(b"somebody's")
    directory.replace_file(str(path), b"new", shared=True)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
    assert (tmp_path / "cut.json.tmp").read_bytes() == b"somebody's"
    assert len(list(tmp_path.iterdir())) == 2


def test_replace_file_that_fails_in_the_open_directory_names_the_whole_path(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoint.tmp").mkdir()
    path = str(tmp_path / "checkpoint")
    with pytest.raises(OSError) as raised:
        RealDisk().replace_file(path, b"new")
    assert str(raised.value) == f"[Errno {errno.EISDIR}] Is a directory: {path!r}"


def test_an_image_that_is_there_is_named_once(tmp_path: Path) -> None:
    path = str(tmp_path / "image")
    RealDisk().replace_file(path, b"x")
    with pytest.raises(OSError) as raised:
        RealDisk().create(path, 4096)
    assert str(raised.value) == f"[Errno {errno.EEXIST}] File exists: {path!r}"


def test_replace_file_that_fails_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "checkpoint")
    RealDisk().replace_file(path, b"old")

    def fails(_fd: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        RealDisk().replace_file(path, b"new")
    assert RealDisk().read_file(path) == b"old"
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_what_is_made_durable_and_in_which_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        events.append("sync " + os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        fsync(fd)

    def renamed(old: str, new: str, **by_name: int) -> None:
        events.append("rename")
        rename(old, new, **by_name)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    RealDisk().replace_file(str(tmp_path / "checkpoint"), b"x")
    assert events == ["sync checkpoint.tmp", "rename", "sync ."]
    events.clear()
    RealDisk().create(str(tmp_path / "d/e/a.img"), 10).close()
    assert events[:2] == ["sync .", "sync d"]
    assert events[-1] == "sync d/e"
    assert len(events) == 4, "the file itself is synced before it gets its name"
    events.clear()
    RealDisk().remove(str(tmp_path / "d/e/a.img"))
    assert events == ["sync d/e"]


def test_exists_does_not_guess(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not RealDisk().exists(str(tmp_path / "file" / "below"))
    with pytest.raises(OSError) as caught:
        RealDisk().exists(str(tmp_path / ("n" * 300)))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_file_knows_whether_its_path_leads_to_it(file: File, path: str, tmp_path: Path) -> None:
    assert file.in_place()
    os.rename(path, tmp_path / "elsewhere")
    assert not file.in_place()
    (tmp_path / "a.img").write_bytes(bytes(SIZE))
    assert not file.in_place()
    os.rename(tmp_path / "elsewhere", path)
    assert file.in_place()
    os.link(path, tmp_path / "same")
    os.symlink(tmp_path / "same", tmp_path / "link")
    os.rename(tmp_path / "link", path)
    assert file.in_place()
    os.rename(tmp_path, tmp_path.with_name("moved"))
    assert not file.in_place()
    os.rename(tmp_path.with_name("moved"), tmp_path)


# ---------------------------------------------------------------------------- marks and truncation


def test_a_truncated_file_is_unreadable_behind_its_end_and_is_no_hole(
    path: str, file: File
) -> None:
    file.write(0, b"x" * SIZE)
    os.truncate(path, SIZE // 2)
    buffer = memoryview(bytearray(4096))
    for offset in (SIZE // 2, SIZE // 2 - 2048, SIZE - 4096):
        assert not file.read_cached(offset, buffer)
        with pytest.raises(OSError, match="past the end"):
            file.read_into(offset, buffer)
        with pytest.raises(OSError, match="truncated"):
            file.extents(offset, 4096)
    assert file.extents(0, SIZE // 2) == [(0, SIZE // 2, True)]
    assert file.stamp().size == SIZE // 2


def test_a_write_of_the_last_byte_does_not_hide_that_a_file_was_truncated(
    path: str, file: File
) -> None:
    os.truncate(path, SIZE // 2)
    file.write(0, b"x" * 4096)
    with pytest.raises(OSError, match="the file was truncated") as raised:
        file.write(SIZE - 4096, b"x" * 4096)
    assert (raised.value.errno, raised.value.filename) == (errno.ESTALE, path)
    file.zero(SIZE - 4096, 4096, allocate=True)
    file.zero(SIZE - 4096, 4096, allocate=False)
    assert file.stamp().size == SIZE // 2
    os.truncate(path, SIZE)
    file.write(SIZE - 4096, b"x" * 4096)


def test_a_mark_stays_with_a_file_that_is_moved(path: str, file: File, tmp_path: Path) -> None:
    assert file.read_mark() == b""
    assert file.write_mark(b"first", durable=True)
    assert file.write_mark(b"ours", durable=False)
    file.close()
    os.rename(path, tmp_path / "b.img")
    again = RealDisk().open(str(tmp_path / "b.img"))
    assert again.read_mark() == b"ours"
    again.close()


def test_where_there_are_no_extended_attributes_a_file_has_no_mark(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    assert not file.write_mark(b"ours", durable=True)
    assert file.read_mark() == b""


def test_looking_for_holes_puts_the_time_back(
    path: str, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that is not known to punch holes one is asked for."""
    file.close()
    os.utime(path, ns=(1, 1_234_567_891))
    monkeypatch.setattr(machine, "_PUNCHING_FILE_SYSTEMS", frozenset())
    again = RealDisk().open(path)
    assert again.can_punch
    again.close()
    assert os.stat(path).st_mtime_ns == 1_234_567_891


def test_a_mount_keeps_its_name(tmp_path: Path) -> None:
    disk = RealDisk()
    assert disk.mount(str(tmp_path)) == disk.mount(str(tmp_path.parent)) != disk.mount("/proc")
    with pytest.raises(FileNotFoundError):
        disk.mount(str(tmp_path / "nothing"))


# ----------------------------------------------------------------------------- lost in write-back


def losses(*reported: int) -> Callable[..., int]:
    """What the kernel says of lost writes, errnos one after the other, and then nothing any more.
    In the place of a system call.
    """
    waiting = list(reported)

    def ask(*_arguments: object) -> int:
        code = waiting.pop(0) if waiting else 0
        ctypes.set_errno(code)
        return -1 if code else 0

    return ask


LOSS = LostWritesError(errno.EIO, "the disk has lost writes")


def test_after_lost_writes_nothing_is_read_until_a_sync_has_reported_them(
    path: str, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(0, b"data")
    buffer = memoryview(bytearray(4))
    monkeypatch.setattr(writeback, "_ask", losses(0, errno.EIO))
    file.read_into(0, buffer)
    for _ in range(3):
        with pytest.raises(LostWritesError) as caught:
            file.read_into(0, buffer)
        assert caught.value.filename == path
        assert file.has_lost_writes()
    with pytest.raises(LostWritesError, match="lost writes"):
        file.sync()
    file.sync()
    file.read_into(0, buffer)
    assert not file.has_lost_writes()


def test_what_is_found_in_memory_counts_only_if_nothing_was_lost(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be so fast that its old content is in memory again by now."""
    file.write(0, b"data")
    buffer = memoryview(bytearray(4))
    monkeypatch.setattr(writeback, "_ask", losses(0, errno.EIO))
    assert file.read_cached(0, buffer)
    assert not file.has_lost_writes()
    assert file.read_cached(0, buffer)
    assert file.has_lost_writes()
    with pytest.raises(LostWritesError):
        file.read_into(0, buffer)


def test_after_lost_writes_nothing_is_called_a_hole(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost before it got blocks on the disk has left none."""
    assert file.extents(0, SIZE) == [(0, SIZE, False)]
    monkeypatch.setattr(writeback, "_ask", losses(0, errno.EIO))
    assert file.extents(0, SIZE) == [(0, SIZE, False)]
    with pytest.raises(LostWritesError):
        file.extents(0, SIZE)
    with pytest.raises(LostWritesError):
        file.read(0, 4)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_a_kernel_that_cannot_be_asked_has_said_nothing(
    file: File, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(writeback, "_ask", losses(code))
    file.read(0, 4)


def test_what_writing_out_cannot_begin_is_reported_by_the_next_sync(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no room for a page may drop it, and say so once."""

    def refuses(*_: object) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    file.write(0, b"data")
    with monkeypatch.context() as broken:
        broken.setattr(writeback, "_wait", refuses)
        file.write_out(0, SIZE)
    assert file.has_lost_writes()
    with pytest.raises(LostWritesError, match="No space left"):
        file.sync()
    file.sync()


def failing_sync(_fd: int) -> None:
    """In the place of fdatasync(2)."""
    raise OSError(errno.EIO, "Input/output error")


def test_a_sync_that_fails_has_reported_lost_writes(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "_ask", losses(errno.EIO))
    with pytest.raises(LostWritesError):
        file.read(0, 4)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing_sync)
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
    file.sync()
    assert file.read(0, 4) == bytes(4)


def test_after_a_sync_that_failed_nothing_is_read_until_one_succeeds(
    path: str, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the failed one acts on it later, and clients read meanwhile."""
    file.write(0, b"data")
    buffer = memoryview(bytearray(4))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing_sync)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                file.sync()
    assert file.has_lost_writes()
    with pytest.raises(LostWritesError) as caught:
        file.read_into(0, buffer)
    assert caught.value.filename == path
    file.sync()
    assert not file.has_lost_writes()
    file.read_into(0, buffer)


def test_what_is_lost_after_a_report_is_reported_too(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "_ask", losses(errno.EIO, errno.ENOSPC))
    for _ in range(2):
        assert file.has_lost_writes()
        with pytest.raises(LostWritesError):
            file.sync()
    file.sync()
    assert not file.has_lost_writes()


PWRITE = os.pwrite


def write_half(file: File) -> None:
    """A write that the disk refuses, after it has taken a part."""

    def takes_two(fd: int, data: bytes, offset: int) -> int:
        return PWRITE(fd, memoryview(data)[:2], offset)

    def refuses(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left")

    with pytest.MonkeyPatch.context() as full:
        full.setattr(os, "pwrite", takes_two)
        full.setattr(os, "pwritev", refuses)
        with pytest.raises(OSError, match="No space"):
            file.write(0, b"data")


WAYS_TO_WRITE: dict[str, Callable[[File], object]] = {
    "write": lambda file: file.write(0, b"data"),
    "writev": lambda file: file.writev(0, [b"da", b"ta"], 4),
    "zero": lambda file: file.zero(0, SIZE, allocate=True),
    "punch": lambda file: file.zero(0, SIZE, allocate=False),
    "a part of a write": write_half,
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
def test_losses_are_asked_for_unless_all_that_was_written_is_synced(
    file: File, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    file.write(0, b"data")
    file.sync()
    monkeypatch.setattr(writeback, "_ask", losses(errno.EIO))
    assert not file.has_lost_writes()  # the disk has everything
    WAYS_TO_WRITE[way](file)
    assert file.has_lost_writes()


def test_a_sync_says_nothing_of_what_is_written_while_it_runs(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_fd: int) -> None:
        file.write(4, b"more")

    file.write(0, b"data")
    with monkeypatch.context() as during:
        during.setattr(os, "fdatasync", write)
        file.sync()
    monkeypatch.setattr(writeback, "_ask", losses(errno.EIO))
    assert file.has_lost_writes()


def test_a_range_that_is_not_written_back_is_a_loss(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(4096, b"data")
    file.write_back(4096, 4096)
    asked: list[tuple[int, int]] = []

    def loses(_fd: int, offset: int, length: int, _drop: bool) -> OSError:
        asked.append((offset, length))
        return LOSS

    monkeypatch.setattr(realfile, "write_back", loses)
    with pytest.raises(LostWritesError):
        file.write_back(4096, 4096)
    assert asked == [(4096, 4096)]
    with pytest.raises(LostWritesError):
        file.sync()


def test_a_read_of_the_medium_finds_what_was_just_written(file: File) -> None:
    file.write(4096, b"data" * 1024)
    buffer = Aligned(8192)
    file.read_medium(4096, buffer.view[:4096])
    assert bytes(buffer.view[:4096]) == b"data" * 1024
    file.read_medium(4096, memoryview(data := bytearray(100)))  # as no disk can read it
    assert data == b"data" * 25


def test_a_read_of_the_medium_leaves_the_page_cache_as_it_is(path: str, file: File) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        file.write(0, b"data" * 1024)
        file.sync()
        before = is_cached(fd, 0, 4096)
        file.read_medium(0, Aligned(4096).view)
        assert is_cached(fd, 0, 4096) == before
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        before = is_cached(fd, 0, 4096)
        file.read_medium(0, Aligned(4096).view)
        assert is_cached(fd, 0, 4096) == before
    finally:
        os.close(fd)


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.ENOENT, errno.EMFILE])
def test_where_the_medium_cannot_be_read_directly_the_pages_are_dropped(
    file: File, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuses(*_: object) -> int:
        raise OSError(refusal, "no")

    dropped: list[bool] = []

    def writes_back(_fd: int, _offset: int, _length: int, drop: bool) -> None:
        dropped.append(drop)

    file.write(0, b"data" * 1024)
    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.setattr(realfile, "write_back", writes_back)
    buffer = Aligned(4096)
    file.read_medium(0, buffer.view)
    file.read_medium(0, buffer.view)
    assert bytes(buffer.view) == b"data" * 1024
    assert dropped[-1]


def test_a_read_of_the_medium_past_the_end_fails(path: str, file: File) -> None:
    os.truncate(path, 4096)
    with pytest.raises(OSError, match=path):
        file.read_medium(0, Aligned(8192).view)


def test_good_disks_have_lost_nothing(path: str, file: File) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        file.write(0, b"data" * 2048)
        assert Losses(fd).find() is None
        assert write_back(fd, 0, 4096) is None
    finally:
        os.close(fd)
    assert file.read(0, 4) == b"data"
