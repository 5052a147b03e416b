"""Who may read what the daemon creates: nobody else, except images where that is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime import directory
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.locked import Ownership

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A mode is what is configured, whatever the umask is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_created_is_private(tmp_path: Path) -> None:
    RealDisk().create(f"{tmp_path}/new/a.img", 4096).close()
    RealDisk().replace_file(f"{tmp_path}/checkpoint", b"x")
    assert mode(tmp_path / "new") == 0o700
    assert mode(tmp_path / "new/a.img") == 0o600
    assert mode(tmp_path / "checkpoint") == 0o600


def test_images_have_their_own_mode_and_group(tmp_path: Path) -> None:
    disk = RealDisk(f"{tmp_path}/state", Ownership(0o640, os.getegid()))
    disk.create(f"{tmp_path}/a.img", 4096).close()
    disk.create(f"{tmp_path}/state/journal", 4096, allocate=True).close()
    assert mode(tmp_path / "a.img") == 0o640
    assert (tmp_path / "a.img").stat().st_gid == os.getegid()
    assert mode(tmp_path / "state/journal") == 0o600


def test_a_small_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("content")
    (tmp_path / "checkpoint.tmp").symlink_to(victim)
    directory.replace_file(f"{tmp_path}/checkpoint", b"new")
    assert victim.read_text() == "content"
    assert (tmp_path / "checkpoint").read_bytes() == b"new"
