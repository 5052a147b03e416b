"""Which backup is meant, and which image is whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.backup import chosen
from duplexd.backup.catalogue import Listed
from duplexd.backup.saved import Manifest, SavedVolume
from duplexd.errors import NotFoundError, UsageError, WrongStateError

if TYPE_CHECKING:
    from duplexd.json_object import Json

MANIFEST = Manifest(
    id="20261129T020000Z-66c235df228a81d3", targets=("db",), tag="nightly", cut="66c235df228a81d3",
    verdict="consistent", cut_time=1.0, started=1.0, finished=2.0, program="duplexd",
    controllers={"alpha": 1}, verify_cut="skipped",
    volumes=tuple(
        SavedVolume(name, "alpha", name, 1 << 20, f"{name}.qcow2", 1, "")
        for name in ("data", "wal")
    ),
    certificate={},
)  # fmt: skip


def row(volume: str, controller: str = "alpha", size: int = 1 << 20) -> Json:
    return {"name": volume, "volume": volume, "controller": controller, "size": size}


DATA, WAL = row("data"), row("wal")
NOW = 1e9


def listed(second: int, manifest: Manifest | None = MANIFEST) -> Listed:
    name = f"20261129T0200{second:02}Z-66c235df228a81d3"
    return Listed(Path(name), replace(manifest, id=name) if manifest is not None else None)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/srv/db", ("/srv/db", "latest")),
        ("/srv/db@nightly", ("/srv/db", "nightly")),
        ("/srv/a@b/db", ("/srv/a", "b/db")),  # there is no such directory
        ("@x", ("@x", "latest")),
    ],
)
def test_the_directory_ends_at_the_last_at(text: str, meant: tuple[str, str]) -> None:
    assert chosen.parse(text) == meant


def test_a_directory_of_that_very_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert chosen.parse(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), "latest")
    assert chosen.parse(f"{tmp_path}/a@b@c") == (str(tmp_path / "a@b"), "c")
    with pytest.raises(UsageError, match="after the @"):
        chosen.parse(f"{tmp_path}/a@")


def test_a_time_to_come_does_not_say_which_is_the_latest() -> None:
    """A clock was a month ahead when the first of the two was made."""
    ahead = listed(2, replace(MANIFEST, cut_time=NOW + 30 * 86400))
    with pytest.raises(WrongStateError, match=f"{ahead.id} has a time that is still to come"):
        chosen.choose([listed(1), ahead], "latest", [DATA], set(), NOW)
    assert chosen.choose([listed(1), ahead], listed(1).id, [DATA], set(), NOW).id == listed(1).id
    skewed = listed(2, replace(MANIFEST, cut_time=NOW + 60))
    assert chosen.choose([listed(1), skewed], "latest", [DATA], set(), NOW) is skewed


def test_the_latest_is_that_of_these_volumes() -> None:
    others = replace(MANIFEST, volumes=MANIFEST.volumes[:1])
    found = [listed(1), listed(2), listed(3, others)]
    assert chosen.choose(found, "latest", [DATA, WAL], set(), NOW) is found[1]
    assert chosen.choose(found, "latest", [DATA], set(), NOW) is found[2]
    with pytest.raises(NotFoundError, match="no backup is of all of these volumes"):
        chosen.choose(found, "latest", [row("data", "beta")], set(), NOW)


def test_one_that_cannot_be_read_may_be_the_latest() -> None:
    found = [listed(1), listed(2, None)]
    with pytest.raises(WrongStateError, match="may be the latest"):
        chosen.choose(found, "latest", [DATA], set(), NOW)
    assert chosen.choose(found, found[0].id, [DATA], set(), NOW) is found[0]
    assert chosen.choose([found[1], listed(3)], "latest", [DATA], set(), NOW).id == listed(3).id


def test_a_tag_that_was_used_twice_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="several backups have the tag 'nightly'"):
        chosen.choose([listed(1), listed(2)], "nightly", [DATA], set(), NOW)
    with pytest.raises(NotFoundError, match="id or tag 'weekly'"):
        chosen.choose([listed(1)], "weekly", [DATA], set(), NOW)


def test_a_group_has_to_be_what_the_backup_is_of() -> None:
    images = chosen.images(MANIFEST, [DATA, WAL], set())
    assert [image.file for image in images.values()] == ["data.qcow2", "wal.qcow2"]
    with pytest.raises(WrongStateError, match="is of wal as well: the group is another one"):
        chosen.images(MANIFEST, [DATA], set())
    one = chosen.images(MANIFEST, [DATA], {"data"})
    assert chosen.left_out(MANIFEST, one) == ["wal"]
    with pytest.raises(NotFoundError, match="has no more: it has data, wal"):
        chosen.images(MANIFEST, [DATA, WAL, row("more")], {"more"})


def test_another_controller_is_another_volume_unless_it_is_named() -> None:
    there = row("data", "beta")
    with pytest.raises(NotFoundError):
        chosen.images(MANIFEST, [there], set())
    found = chosen.images(MANIFEST, [there], {"data"})
    assert chosen.elsewhere([there], found) == ["data gets the image of data of controller alpha"]
    assert chosen.elsewhere([DATA], chosen.images(MANIFEST, [DATA], {"data"})) == []


def test_another_size_is_refused() -> None:
    with pytest.raises(WrongStateError, match="data has 5 bytes, and had 1048576"):
        chosen.images(MANIFEST, [row("data", size=5), WAL], set())
