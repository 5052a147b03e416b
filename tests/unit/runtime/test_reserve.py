from __future__ import annotations

import errno
import os
import zlib
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.disk import RealDisk
from duplexd.runtime.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 3 << 20


def test_the_room_is_really_taken(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(str(path))
    assert reserve.size == 0
    reserve.make(SIZE + 1)
    assert reserve.size == SIZE + 1
    assert path.stat().st_blocks * 512 >= SIZE
    # nor can a file system that compresses, or one that shares equal blocks, do with less
    assert len(zlib.compress(path.read_bytes())) > SIZE


def test_it_is_made_once_and_again_if_it_has_to_be_larger(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.make(SIZE)
    before = os.stat(reserve.path).st_mtime_ns
    reserve.make(SIZE - 1)
    assert os.stat(reserve.path).st_mtime_ns == before
    reserve.make(SIZE + 1)
    assert reserve.size == SIZE + 1


def test_it_is_given_back_once(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    assert not reserve.release()
    reserve.make(SIZE)
    assert reserve.release()
    assert not os.path.exists(reserve.path)
    assert not reserve.release()


class Full:
    """A write to a disk that has no room while the reserve is there."""

    def __init__(self, reserve: Reserve, number: int = errno.ENOSPC) -> None:
        self.reserve, self.number, self.calls = reserve, number, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.reserve.size or self.number != errno.ENOSPC:
            raise OSError(self.number, os.strerror(self.number))


def test_it_is_lent_for_a_write_and_made_again(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.make(SIZE)
    before, full = os.stat(reserve.path).st_mtime_ns, Full(reserve)
    reserve.lend(full)
    assert (full.calls, reserve.size) == (2, SIZE)
    assert os.stat(reserve.path).st_mtime_ns > before


def test_it_is_not_lent_for_another_error(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.make(SIZE)
    before, broken = os.stat(reserve.path), Full(reserve, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        reserve.lend(broken)
    after = os.stat(reserve.path)
    assert (broken.calls, after.st_ino, after.st_mtime_ns) == (1, before.st_ino, before.st_mtime_ns)


def test_a_write_that_has_no_room_with_it_either_fails(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    larger = Reserve(str(tmp_path / "larger"))
    larger.make(1)
    with pytest.raises(OSError, match="No space left"):
        reserve.lend(Full(larger))  # nothing is kept
    reserve.make(SIZE)
    with pytest.raises(OSError, match="No space left"):
        reserve.lend(Full(larger))
    assert reserve.size == SIZE


def test_only_what_lies_in_the_private_directory_is_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(str(tmp_path / "state" / "reserve"))
    (tmp_path / "state").mkdir()
    lent: list[str] = []

    def lend(_reserve: Reserve, write: Callable[[], None]) -> None:
        lent.append("lent")
        write()

    monkeypatch.setattr(Reserve, "lend", lend)
    disk = RealDisk(str(tmp_path / "state"), spare=reserve)
    disk.replace_file(str(tmp_path / "elsewhere"), b"a")
    assert not lent
    disk.replace_file(str(tmp_path / "state" / "checkpoint"), b"b")
    assert lent
    assert (tmp_path / "state" / "checkpoint").read_bytes() == b"b"


def test_what_is_known_to_have_no_place_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.make(4096)
    before = os.stat(reserve.path)
    monkeypatch.setattr("duplexd.runtime.reserve.free_bytes", lambda _path: SIZE - 4097)
    with pytest.raises(OSError, match=r"No space left.*reserve"):
        reserve.make(SIZE)
    assert os.stat(reserve.path) == before
    monkeypatch.setattr("duplexd.runtime.reserve.free_bytes", lambda _path: None)
    reserve.make(SIZE)
    assert reserve.size == SIZE


def test_without_room_nothing_is_kept_and_the_file_is_named() -> None:
    reserve = Reserve("/proc/self/reserve")
    with pytest.raises(OSError, match="/proc/self/reserve"):
        reserve.make(SIZE)
    assert reserve.size == 0
