"""The disk that fails on command: each fault, shown with plain calls of the operating system.

Without /dev/fuse and fusermount3 these tests fail, with what is missing.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from tests.support.fuse import faulty_disk, mounting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from tests.support.fuse import FaultyDisk

BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path / "d") as made:
        yield made


@pytest.fixture
def volatile(tmp_path: Path) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path / "d", volatile=True) as made:
        yield made


@pytest.fixture
def image(disk: FaultyDisk) -> Iterator[int]:
    """An open file of four blocks of `a`."""
    with opened(disk, b"a" * 4 * BLOCK) as fd:
        yield fd.fileno()


def opened(disk: FaultyDisk, content: bytes, name: str = "x.img") -> FileIO:
    """A file with content, synced, for reading and writing."""
    (disk.path / name).write_bytes(content)
    file = (disk.path / name).open("r+b", buffering=0)
    os.fsync(file.fileno())
    return file


def failing(call: Callable[..., object], *arguments: object) -> int:
    """The errno that a call fails with."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno is not None
    return caught.value.errno


# --- nothing goes wrong


def test_files_pass_through(disk: FaultyDisk) -> None:
    (disk.path / "sub").mkdir()
    (disk.path / "sub" / "one").write_bytes(b"content")
    (disk.path / "sub" / "one").rename(disk.path / "two")
    os.link(disk.path / "two", disk.path / "three")
    (disk.path / "four").symlink_to("two")
    (disk.path / "sub").rmdir()
    assert sorted(os.listdir(disk.path)) == ["four", "three", "two"]
    assert (disk.path / "four").read_bytes() == b"content"
    assert (disk.below / "two").read_bytes() == b"content"
    assert os.path.samefile(disk.path / "two", disk.path / "three")
    (disk.path / "two").unlink()
    assert (disk.path / "three").stat().st_nlink == 1


def test_an_open_file_outlives_its_name(disk: FaultyDisk, image: int) -> None:
    (disk.path / "x.img").unlink()
    os.pwrite(image, b"b", 0)
    assert os.pread(image, 2, 0) == b"ba"
    assert os.fstat(image).st_nlink == 0


def test_large_requests_pass_whole(disk: FaultyDisk, image: int) -> None:
    data = os.urandom(5 << 20)
    assert os.pwrite(image, data, 100) == len(data)
    assert os.pread(image, len(data), 100) == data


def test_a_file_without_a_name_is_given_one(disk: FaultyDisk) -> None:
    fd = os.open(disk.path, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"content")
    os.link(f"/proc/self/fd/{fd}", disk.path / "named", src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)
    assert (disk.path / "named").read_bytes() == b"content"


def test_holes_are_punched_and_found(disk: FaultyDisk, image: int) -> None:
    assert fallocate(image, PUNCH_HOLE | KEEP_SIZE, BLOCK, BLOCK)
    assert fallocate(image, ZERO_RANGE | KEEP_SIZE, 2 * BLOCK, BLOCK)
    assert os.pread(image, 4 * BLOCK, 0) == b"a" * BLOCK + bytes(2 * BLOCK) + b"a" * BLOCK
    assert os.lseek(image, 0, os.SEEK_HOLE) == BLOCK
    assert os.lseek(image, 0, os.SEEK_DATA) == 0


def test_attributes_are_kept(disk: FaultyDisk, image: int) -> None:
    path = disk.path / "x.img"
    os.setxattr(path, "user.name", b"value")
    assert os.listxattr(path) == ["user.name"]
    assert os.getxattr(path, "user.name") == b"value"
    os.removexattr(path, "user.name")
    assert failing(os.getxattr, path, "user.name") == errno.ENODATA
    path.chmod(0o600)
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


def test_a_file_is_locked_once(disk: FaultyDisk, image: int) -> None:
    command = ["flock", "--nonblock", str(disk.path / "x.img"), "true"]
    with (disk.path / "x.img").open("rb") as file:
        subprocess.run(
            ["flock", "--exclusive", str(file.fileno())], pass_fds=[file.fileno()], check=True
        )
        assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0


# --- failing


def test_a_read_error_passes_when_lifted(disk: FaultyDisk, image: int) -> None:
    bad = disk.fail("read", "x.img")
    assert failing(os.pread, image, 1, 0) == errno.EIO
    os.pwrite(image, b"b", 0)
    bad.lift()
    assert os.pread(image, 1, 0) == b"b"
    assert bad.disk.lift() == 0


def test_only_the_named_file_fails(disk: FaultyDisk, image: int) -> None:
    disk.fail(pattern="other*")
    assert os.pread(image, 1, 0) == b"a"
    assert failing(os.open, disk.path / "other", os.O_RDWR | os.O_CREAT) == errno.EIO


def test_a_fault_follows_a_file_that_was_renamed(disk: FaultyDisk, image: int) -> None:
    (disk.path / "x.img").rename(disk.path / "y.img")
    disk.fail("read", "y.img")
    assert failing(os.pread, image, 1, 0) == errno.EIO


def test_a_bad_sector_fails_what_touches_it(disk: FaultyDisk, image: int) -> None:
    disk.fail("read", "x.img", start=BLOCK, end=BLOCK + 512)
    assert os.pread(image, BLOCK, 0) == b"a" * BLOCK
    assert os.pread(image, BLOCK, BLOCK + 512) == b"a" * BLOCK
    assert failing(os.pread, image, BLOCK + 1, 0) == errno.EIO
    assert failing(os.pread, image, 1, BLOCK + 511) == errno.EIO


def test_a_bad_sector_is_good_again_when_all_of_it_was_written(
    disk: FaultyDisk, image: int
) -> None:
    disk.fail("read", "x.img", start=BLOCK, end=2 * BLOCK, until_written=True)
    os.pwrite(image, b"b" * (BLOCK - 1), BLOCK)
    assert failing(os.pread, image, 1, BLOCK) == errno.EIO
    os.pwrite(image, b"b" * BLOCK, BLOCK)
    assert os.pread(image, 1, BLOCK) == b"b"


def test_one_operation_fails_once_after_some(disk: FaultyDisk, image: int) -> None:
    bad = disk.fail("write", error=errno.ENOMEM, skip=1, times=1)
    os.pwrite(image, b"b", 0)
    assert failing(os.pwrite, image, b"c", 0) == errno.ENOMEM
    os.pwrite(image, b"d", 0)
    assert bad.met() == 1


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("sync", lambda _, fd: os.fdatasync(fd)),
        ("sync", lambda _, fd: os.fsync(fd)),
        ("truncate", lambda _, fd: os.ftruncate(fd, 1)),
        ("truncate", lambda path, _: os.truncate(path, 1)),
        ("fallocate", lambda _, fd: fallocate(fd, KEEP_SIZE, 0, BLOCK)),
        ("seek", lambda _, fd: os.lseek(fd, 0, os.SEEK_DATA)),
        ("open", lambda path, _: path.open("rb")),
        ("create", lambda path, _: path.with_name("new").open("xb")),
        ("create", lambda path, _: os.open(path.parent, os.O_TMPFILE | os.O_RDWR)),
        ("stat", lambda _, fd: os.fstat(fd)),
        ("lookup", lambda path, _: path.lstat()),
        ("list", lambda path, _: os.listdir(path.parent)),
        ("rename", lambda path, _: path.rename(path.with_name("new"))),
        ("unlink", lambda path, _: path.unlink()),
        ("link", lambda path, _: os.link(path, path.with_name("new"))),
        ("mkdir", lambda path, _: path.with_name("new").mkdir()),
        ("attribute", lambda path, _: path.chmod(0o600)),
        ("attribute", lambda path, _: os.getxattr(path, "user.x")),
    ],
)
def test_each_operation_fails(
    disk: FaultyDisk, image: int, operation: str, call: Callable[[Path, int], object]
) -> None:
    disk.fail(operation)
    assert failing(call, disk.path / "x.img", image) == errno.EIO


def test_a_directory_whose_sync_fails(disk: FaultyDisk, image: int) -> None:
    disk.fail("sync", ".")
    os.fsync(image)
    above = os.open(disk.path, os.O_RDONLY)
    assert failing(os.fsync, above) == errno.EIO
    os.close(above)


def test_read_only(disk: FaultyDisk, image: int) -> None:
    protected = disk.read_only()
    assert failing(os.pwrite, image, b"b", 0) == errno.EROFS
    assert failing(os.open, disk.path / "x.img", os.O_RDWR) == errno.EROFS
    assert failing((disk.path / "new").mkdir) == errno.EROFS
    assert (disk.path / "x.img").read_bytes()[:1] == b"a"
    os.fsync(image)
    protected.lift()
    os.pwrite(image, b"b", 0)


# --- filling up


def test_a_full_disk_still_overwrites(disk: FaultyDisk, image: int) -> None:
    disk.fill(room_bytes=BLOCK)
    os.pwrite(image, b"b" * BLOCK, 4 * BLOCK)
    assert failing(os.pwrite, image, b"b", 5 * BLOCK) == errno.ENOSPC
    assert failing(fallocate, image, KEEP_SIZE, 5 * BLOCK, 1) == errno.ENOSPC
    os.pwrite(image, b"b" * 5 * BLOCK, 0)
    assert os.statvfs(disk.path).f_bavail == 0
    disk.fill(None)
    os.pwrite(image, b"b", 5 * BLOCK)


def test_what_was_reserved_is_there_on_a_full_disk(disk: FaultyDisk, image: int) -> None:
    assert fallocate(image, KEEP_SIZE, 8 * BLOCK, BLOCK)
    disk.fill()
    os.pwrite(image, b"b" * BLOCK, 8 * BLOCK)
    assert failing(os.pwrite, image, b"b", 9 * BLOCK) == errno.ENOSPC


def test_holes_and_deleted_files_make_room(disk: FaultyDisk, image: int) -> None:
    with opened(disk, b"b" * BLOCK, "y.img") as other:
        disk.fill()
        fallocate(image, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK)
        os.pwrite(other.fileno(), b"b" * BLOCK, BLOCK)
        assert failing(os.pwrite, other.fileno(), b"b", 2 * BLOCK) == errno.ENOSPC
        (disk.path / "x.img").unlink()
        os.pwrite(other.fileno(), b"b" * 3 * BLOCK, 2 * BLOCK)
        assert failing(os.pwrite, other.fileno(), b"b", 5 * BLOCK) == errno.ENOSPC


# --- hanging


def writer(path: Path, *, term: str = "") -> subprocess.Popen[bytes]:
    """A process that writes one byte, once it has said so."""
    text = f"import os, signal; {term}\nfd = os.open({str(path)!r}, os.O_RDWR); os.write(fd, b'b')"
    return subprocess.Popen([sys.executable, "-c", text])


def test_what_hangs_goes_on_when_lifted(disk: FaultyDisk, image: int) -> None:
    stuck = disk.hang("write")
    thread = threading.Thread(target=os.pwrite, args=(image, b"b", 0))
    thread.start()
    stuck.wait_met()
    assert (stuck.hanging(), os.pread(image, 1, 0)) == (1, b"a")
    assert stuck.lift() == 1
    thread.join()
    assert os.pread(image, 1, 0) == b"b"


def test_what_hangs_may_fail_at_last(disk: FaultyDisk, image: int) -> None:
    stuck = disk.hang("sync")
    errors: list[int] = []
    thread = threading.Thread(target=lambda: errors.append(failing(os.fdatasync, image)))
    thread.start()
    stuck.wait_met()
    stuck.lift(error=errno.EIO)
    thread.join()
    assert errors == [errno.EIO]


def test_any_number_may_hang_while_other_files_go_on(disk: FaultyDisk, image: int) -> None:
    stuck = disk.hang("read", "x.img")
    threads = [threading.Thread(target=os.pread, args=(image, 1, 0)) for _ in range(30)]
    for thread in threads:
        thread.start()
    stuck.wait_met(30)
    (disk.path / "y.img").write_bytes(b"content")
    assert (disk.path / "y.img").read_bytes() == b"content"
    assert stuck.lift() == 30
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_waits_is_killed(disk: FaultyDisk, image: int, number: int) -> None:
    stuck = disk.hang("write")
    process = writer(disk.path / "x.img")
    stuck.wait_met()
    process.send_signal(number)
    assert process.wait(60) == -number
    assert stuck.hanging() == 0
    stuck.lift()
    assert os.pread(image, 1, 0) == b"a"


def test_a_signal_that_is_handled_does_not_end_a_hang(disk: FaultyDisk, image: int) -> None:
    stuck = disk.hang("write")
    process = writer(disk.path / "x.img", term="signal.signal(signal.SIGTERM, lambda *_: None)")
    stuck.wait_met()
    process.terminate()
    stuck.wait_met(2)  # Python makes the call again
    stuck.lift()
    assert process.wait(60) == 0
    assert os.pread(image, 1, 0) == b"b"


def test_a_dead_disk_lets_nobody_be_killed_until_it_answers(disk: FaultyDisk, image: int) -> None:
    stuck = disk.hang("write", killable=False)
    process = writer(disk.path / "x.img")
    stuck.wait_met()
    process.kill()
    os.listdir(disk.path)  # which the server takes after the kernel's INTERRUPT
    assert process.poll() is None
    stuck.lift(error=errno.EIO)
    assert process.wait(60) == -signal.SIGKILL


def test_closing_the_disk_frees_who_waits(tmp_path: Path) -> None:
    errors: list[int] = []
    with faulty_disk(tmp_path / "d") as disk:
        file = opened(disk, b"a")
        stuck = disk.hang("write", killable=False)
        thread = threading.Thread(
            target=lambda: errors.append(failing(os.write, file.fileno(), b"b"))
        )
        thread.start()
        stuck.wait_met()
    thread.join()
    file.close()
    assert errors in ([errno.ENOTCONN], [errno.ECONNABORTED])
    assert not os.path.ismount(tmp_path / "d")


# --- forgetting


def test_what_was_not_synced_is_forgotten(volatile: FaultyDisk) -> None:
    with opened(volatile, b"a" * 2 * BLOCK) as file:
        fd = file.fileno()
        os.pwrite(fd, b"b" * BLOCK, 0)
        os.fdatasync(fd)
        os.pwrite(fd, b"c" * BLOCK, 0)
        os.pwrite(fd, b"d" * 3 * BLOCK, BLOCK)
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK)
        assert volatile.forget() == 3
        assert os.pread(fd, 9 * BLOCK, 0) == b"b" * BLOCK + b"a" * BLOCK


def test_a_truncation_is_forgotten(volatile: FaultyDisk) -> None:
    with opened(volatile, b"a" * BLOCK) as file:
        os.ftruncate(file.fileno(), 10)
        volatile.forget()
        assert os.pread(file.fileno(), 2 * BLOCK, 0) == b"a" * BLOCK


def test_a_sync_that_failed_keeps_nothing(volatile: FaultyDisk) -> None:
    with opened(volatile, b"a") as file:
        os.pwrite(file.fileno(), b"b", 0)
        volatile.fail("sync", times=1)
        assert failing(os.fsync, file.fileno()) == errno.EIO
        assert volatile.forget() == 1
        assert os.pread(file.fileno(), 1, 0) == b"a"


def test_a_write_with_o_dsync_is_kept(volatile: FaultyDisk) -> None:
    with opened(volatile, b"a") as file:
        os.pwritev(file.fileno(), [b"b"], 0, os.RWF_DSYNC)
        assert volatile.forget() == 0
        assert os.pread(file.fileno(), 1, 0) == b"b"


def test_some_of_what_was_not_synced_is_forgotten(volatile: FaultyDisk) -> None:
    with opened(volatile, bytes(64 * BLOCK)) as file:
        for block in range(64):
            os.pwrite(file.fileno(), bytes([block + 1]) * BLOCK, block * BLOCK)
        lost = volatile.forget(seed=1)
        found = os.pread(file.fileno(), 64 * BLOCK, 0)
        left = [found[block * BLOCK] for block in range(64)]
        assert left.count(0) == lost
        assert 16 < lost < 48
        assert all(byte in {0, block + 1} for block, byte in enumerate(left))


# --- its end


def test_the_disk_goes_with_the_test_that_made_it(tmp_path: Path) -> None:
    """Standard input ends, as when the test's process was killed."""
    text = (
        "import os, pathlib, sys; from tests.support.fuse.disk import FaultyDisk\n"
        "disk = FaultyDisk(pathlib.Path(sys.argv[1])); os._exit(0)"
    )
    # the server has this pipe too: it ends when both have
    command = [sys.executable, "-c", text, str(tmp_path / "d")]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert not os.path.ismount(tmp_path / "d")


def test_a_machine_without_fuse_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(mounting.NoFuseError, match=r"fusermount3 cannot mount .*/missing"):
        mounting.mount(str(tmp_path / "missing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mounting.NoFuseError, match=r"run `make apt` \(package fuse3\)"):
        mounting.mount(str(tmp_path))
