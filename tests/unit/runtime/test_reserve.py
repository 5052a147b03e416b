from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.reserve import Reserve

if TYPE_CHECKING:
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


def test_without_room_nothing_is_kept_and_the_file_is_named() -> None:
    reserve = Reserve("/proc/self/reserve")
    with pytest.raises(OSError, match="/proc/self/reserve"):
        reserve.make(SIZE)
    assert reserve.size == 0
