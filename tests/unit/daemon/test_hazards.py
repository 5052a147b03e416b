"""What `check` warns of, beside what keeps a start or a reload from going well."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from duplexd.config.load import parse
from duplexd.daemon.checking import describe
from duplexd.daemon.hazards import hazards
from duplexd.runtime.in_time import Patience

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config

FILE = """
[controller]
name = "alpha"
state_dir = "state"
journal_size = "{journal}"
[nbd]
listen = ["unix:nbd.sock"]
[metrics]
listen = "tcp:127.0.0.1:9809"
[volumes.data]
size = "{size}"
primary = "a.img"
secondary = "{secondary}"
[volumes.alone]
size = "8MiB"
primary = "c.img"
[groups.db]
volumes = ["data"{more}]
"""
PLAIN = {"journal": "16MiB", "size": "8MiB", "secondary": "/dev/shm/b.img", "more": ""}


def found(directory: Path, **changed: str) -> list[str]:
    return hazards(config(directory, **changed), Patience(60.0))


def config(directory: Path, **changed: str) -> Config:
    return parse(FILE.format(**(PLAIN | changed)), directory / "f.toml")


def test_nothing_is_warned_of_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert [each for each in found(tmp_path) if "tmpfs" not in each] == []


def test_an_image_in_memory_is_warned_of(tmp_path: Path) -> None:
    lines = found(tmp_path)
    assert any("/dev/shm/b.img" in each and "the machine loses them" in each for each in lines), (
        lines
    )


def test_a_state_directory_in_memory_is_warned_of() -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        assert any("the machine loses the journal" in each for each in found(Path(directory)))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"secondary": "b.img"}, "volumes: both images of data lie on one file system"),
        ({"more": ', "alone"'}, "groups.db: alone has no secondary, so the group cannot be"),
        (
            {"more": ']\nbefore_suspend = ["/nowhere/freeze"'},
            "groups.db.before_suspend: '/nowhere/freeze' does not exist, or cannot be reached",
        ),
        ({"journal": "1TiB"}, "controller.journal_size: 1.0 TiB is more than the file system"),
        ({"size": "64TiB"}, "may grow by 64.0 TiB, but its file system has"),
    ],
    ids=["one file system", "no secondary in a group", "no hook", "large journal", "no room"],
)
def test_what_will_hurt_is_named(tmp_path: Path, changed: dict[str, str], line: str) -> None:
    lines = found(tmp_path, **changed)
    assert any(line in each for each in lines), lines


def test_a_journal_that_is_there_needs_no_more_room(tmp_path: Path) -> None:
    (tmp_path / "state" / "journal").mkdir(parents=True)
    with (tmp_path / "state" / "journal" / "0001.seg").open("wb") as segment:
        segment.truncate(1 << 40)
    assert not any("journal_size" in each for each in found(tmp_path, journal="1TiB"))


def test_the_address_of_metrics_is_listed(tmp_path: Path) -> None:
    assert "metrics    tcp:127.0.0.1:9809" in describe(config(tmp_path)).splitlines()
