"""The directory of the backups: one run at a time, a whole backup or none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.destination import RECORD, LeftReader, opened
from duplexd.errors import DuplexdError, WrongStateError
from tests.unit.backup.made import name_of, put

if TYPE_CHECKING:
    from pathlib import Path

NAME = name_of(1)
FIRST = LeftReader("backup-h-1", ("db",), ("data", "wal"))
SECOND = LeftReader("backup-h-2", ("a", "b"), ("a", "b"))


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir() if each.name[0] != ".")


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with opened(str(tmp_path / "a" / "b")):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    refused = pytest.raises(WrongStateError, match="another backup is being written there")
    with opened(str(tmp_path)), refused:
        opened(str(tmp_path)).__enter__()
    with opened(str(tmp_path)):
        pass


def test_what_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(DuplexdError, match="Not a directory"):
        opened(str(tmp_path / "x")).__enter__()


def test_readers_are_remembered_until_they_are_forgotten(tmp_path: Path) -> None:
    with opened(str(tmp_path)) as place:
        place.note(FIRST)
        place.note(SECOND)
    with opened(str(tmp_path)) as place:
        assert place.left_readers() == [FIRST, SECOND]
        place.forget(FIRST)
        assert place.left_readers() == [SECOND]
        place.forget(SECOND)
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "readers": []}', '{"version": 1}'])
def test_a_record_that_cannot_be_read_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with opened(str(tmp_path)) as place, pytest.raises(DuplexdError, match="not the record"):
        place.left_readers()


def test_a_backup_has_its_name_only_when_it_is_published(tmp_path: Path) -> None:
    with opened(str(tmp_path)) as place:
        (place.begin(NAME) / "data.qcow2").touch()
        assert names(tmp_path) == [f"{NAME}.partial"]
        place.sync(NAME)
        assert place.publish(NAME) == tmp_path / NAME
        place.discard_partial()
    assert os.listdir(tmp_path / NAME) == ["data.qcow2"]


def test_only_what_a_backup_may_have_left_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "mine.partial").mkdir()
    with opened(str(tmp_path)) as place:
        place.begin(NAME)
        place.discard_partial()
    assert names(tmp_path) == ["mine.partial"]


def test_a_backup_is_removed(tmp_path: Path) -> None:
    put(tmp_path, NAME)
    with opened(str(tmp_path)) as place:
        place.remove([NAME])
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes what others may not")
def test_root_makes_no_backup_where_another_user_could_lead_it_elsewhere(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(DuplexdError, match="user 65534"), opened(str(tmp_path)):
        pass
