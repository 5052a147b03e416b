"""A few bytes that outlive a process: in memory, and nowhere else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime import machine, tally_file
from duplexd.runtime.tally_file import TallyFile

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = bytes(range(96))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "ctl.sock.tally"


def test_what_is_stored_is_in_the_file_at_once(path: Path) -> None:
    view = TallyFile(str(path)).begin(CONTENT)
    assert view is not None
    view[80:88] = b"12345678"
    assert TallyFile(str(path)).read(96) == CONTENT[:80] + b"12345678" + CONTENT[88:]
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_one_takes_its_place_and_what_the_old_one_gets_is_seen_by_nobody(path: Path) -> None:
    old = TallyFile(str(path)).begin(CONTENT)
    assert old is not None
    path.with_name(f"{path.name}.new").write_bytes(b"of a process that was killed")
    assert TallyFile(str(path)).begin(CONTENT[::-1]) is not None
    old[:4] = b"late"
    assert TallyFile(str(path)).read(96) == CONTENT[::-1]


def test_a_file_on_a_disk_is_neither_made_nor_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TallyFile(str(path)).begin(CONTENT) is not None
    monkeypatch.setattr(tally_file, "is_memory_now", lambda _device: False)
    assert TallyFile(str(path)).read(96) == b""
    assert TallyFile(str(path)).begin(CONTENT[::-1]) is None
    monkeypatch.undo()
    assert TallyFile(str(path)).read(96) == CONTENT, "the old one stays"


def test_a_file_of_another_size_kind_or_mode_is_not_read(path: Path) -> None:
    tally = TallyFile(str(path))
    assert tally.read(96) == b"", "nothing there"
    for wrong in (CONTENT[:-1], CONTENT + b"\0", b""):
        path.write_bytes(wrong)
        path.chmod(0o600)
        assert tally.read(96) == b""
    path.write_bytes(CONTENT)
    assert tally.read(96) == CONTENT
    path.chmod(0o640)
    assert tally.read(96) == b""
    path.chmod(0o600)
    os.link(path, path.with_name("other"))
    assert tally.read(96) == b""
    path.unlink()
    path.symlink_to("other")
    assert tally.read(96) == b""
    path.unlink()
    os.mkfifo(path, 0o600)
    assert tally.read(96) == b""


def test_where_nothing_can_be_made_there_is_none(path: Path) -> None:
    assert TallyFile(str(path.parent / "missing" / "tally")).begin(CONTENT) is None
    assert TallyFile(str(path.parent / "missing" / "tally")).read(96) == b""
    path.mkdir()
    assert TallyFile(str(path)).begin(CONTENT) is None


def test_a_number_that_another_file_system_has_by_now_is_looked_up_again(path: Path) -> None:
    device = path.parent.stat().st_dev
    assert machine.is_memory_now(device)
    assert not machine.is_memory_now(Path("/proc").stat().st_dev)
