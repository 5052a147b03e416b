"""When the newest backup of some targets is too old."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backup import catalogue
from duplexd.backup.freshness import stale
from tests.unit.backup.made import name_of, put

if TYPE_CHECKING:
    from pathlib import Path

NOW, HOUR_S = 2e9, 3600.0


def found(directory: Path) -> list[str]:
    """What is wrong if a day and two hours are asked for."""
    return stale(catalogue.find(directory), 26 * HOUR_S, NOW)


def test_the_newest_of_the_same_targets_decides(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), cut_time=NOW - 100 * HOUR_S)
    assert found(tmp_path) == [
        "db: the newest sound backup is 4 days old; at most 26 h was asked for"
    ]
    put(tmp_path, name_of(2), cut_time=NOW - 26 * HOUR_S)
    assert found(tmp_path) == []


def test_a_new_one_of_others_is_none_of_these(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), cut_time=NOW - 27 * HOUR_S)
    put(tmp_path, name_of(2), cut_time=NOW, targets=("files",))
    put(tmp_path, name_of(3), cut_time=NOW, controllers={"beta": 1})
    (text,) = found(tmp_path)
    assert text.startswith("db: ")


def test_a_new_one_that_is_not_sound_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), cut_time=NOW - 27 * HOUR_S)
    (put(tmp_path, name_of(2), cut_time=NOW) / "data.qcow2").unlink()
    assert len(found(tmp_path)) == 1


def test_one_from_the_future_is_not_new(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), cut_time=NOW + 27 * HOUR_S)
    (text,) = found(tmp_path)
    assert "look at the clocks" in text
