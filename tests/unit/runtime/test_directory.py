from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime import directory
from duplexd.runtime.locked import create_locked
from duplexd.runtime.realfile import RealFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("call", "broken"),
    [
        (lambda path: directory.replace_file(path, b"x"), "write"),
        (lambda path: directory.replace_file(path, b"x"), "fsync"),
        (lambda path: create_locked(path, 4096, allocate=True), "pwrite"),
        (lambda path: create_locked(path, 4096, allocate=False), "truncate"),
    ],
)
def test_a_file_for_which_there_is_no_room_is_named(
    tmp_path: Path, call: Callable[[str], object], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "f")
    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        call(path)
    assert caught.value.filename == path
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("call", "broken"),
    [
        (lambda file: file.write(0, b"x"), "pwrite"),
        (lambda file: file.writev(0, [b"x"], 1), "pwritev"),
        (lambda file: file.read(0, 1), "pread"),
        (lambda file: file.read_into(0, memoryview(bytearray(1))), "preadv"),
        (lambda file: file.sync(), "fdatasync"),
    ],
)
def test_an_error_of_an_open_file_names_it(
    tmp_path: Path,
    call: Callable[[RealFile], object],
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(tmp_path / "f")
    file = RealFile(create_locked(path, 4096, allocate=False), path, 4096, is_block=False)
    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        call(file)
    file.close()
