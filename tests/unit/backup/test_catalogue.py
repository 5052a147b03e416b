"""Backups that are listed, checked and removed."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from duplexd.backup import catalogue
from duplexd.backup.retention import parse
from duplexd.backup.saved import FILE, Base
from duplexd.errors import DuplexdError, NotFoundError
from tests.unit.backup.made import manifest, name_of, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY_S = 86400.0


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "4K"], check=True)
    return path.read_bytes()


def test_backups_are_listed_by_time_and_nothing_else_is(tmp_path: Path) -> None:
    for day in (2, 1):
        put(tmp_path, name_of(day))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f"{name_of(3)}.partial").mkdir()
    found = catalogue.find(tmp_path)
    assert [(each.id, each.wrong) for each in found] == [(name_of(1), ()), (name_of(2), ())]


def test_a_directory_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"{tmp_path}/none: there is no such directory"):
        catalogue.find(tmp_path / "none")
    with pytest.raises(DuplexdError) as error:
        catalogue.find(__file__)
    assert error.value.exit_code == 1


def test_of_two_backups_of_one_second_the_later_one_is_the_newest(tmp_path: Path) -> None:
    earlier, later = "20260101T020000Z-ffffffffffffffff", "20260101T020000Z-0000000000000000"
    put(tmp_path, earlier, cut_time=1e9 + 0.1)
    put(tmp_path, later, cut_time=1e9 + 0.2)
    assert [each.id for each in catalogue.find(tmp_path)] == [earlier, later]


def test_an_image_of_another_size_than_its_volume_cannot_be_restored(
    tmp_path: Path, image: bytes
) -> None:
    row = manifest(name_of(1), image).volumes[0]._replace(size=8192)
    put(tmp_path, name_of(1), image, volumes=(row,))
    (found,) = catalogue.find(tmp_path)
    (wrong,) = asyncio.run(catalogue.check([found]))[0].wrong
    assert wrong == "data.qcow2 is the image of a volume of 4096 bytes instead of 8192"


def _no_manifest(path: Path) -> None:
    (path / FILE).unlink()


def _bad_manifest(path: Path) -> None:
    (path / FILE).write_text("{}")


def _no_image(path: Path) -> None:
    (path / "data.qcow2").unlink()


def _short_image(path: Path) -> None:
    (path / "data.qcow2").write_bytes(b"")


def _another(path: Path) -> None:
    (path / FILE).write_text(manifest(name_of(9)).text())


@pytest.mark.parametrize("spoil", [_no_manifest, _bad_manifest, _no_image, _short_image, _another])
def test_a_backup_that_lacks_something_is_wrong_at_a_look(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(put(tmp_path, name_of(1)))
    (found,) = catalogue.find(tmp_path)
    assert len(found.wrong) == 1


def test_a_sound_backup_is_found_sound(tmp_path: Path, image: bytes) -> None:
    put(tmp_path / "d", name_of(1), image)
    (found,) = catalogue.find(tmp_path / "d")
    assert asyncio.run(catalogue.check([found]))[0].wrong == ()


def test_a_directory_may_have_a_colon_in_its_name(
    tmp_path: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a:b", name_of(1), image)
    monkeypatch.chdir(tmp_path)
    (found,) = catalogue.find("a:b")
    assert asyncio.run(catalogue.check([found]))[0].wrong == ()


def test_a_byte_that_changed_is_found(tmp_path: Path, image: bytes) -> None:
    path = put(tmp_path / "d", name_of(1), image)
    (path / "data.qcow2").write_bytes(image[:-1] + bytes([image[-1] ^ 1]))
    (found,) = catalogue.find(tmp_path / "d")
    assert found.wrong == ()
    assert "SHA-256" in asyncio.run(catalogue.check([found]))[0].wrong[0]


def test_an_image_that_qemu_does_not_take_is_found(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), b"not an image")
    (found,) = catalogue.find(tmp_path)
    assert "qemu-img check" in asyncio.run(catalogue.check([found]))[0].wrong[0]


def test_only_older_good_ones_of_the_same_targets_are_surplus(tmp_path: Path) -> None:
    for day in range(1, 6):
        put(tmp_path, name_of(day), cut_time=day * DAY_S)
    put(tmp_path, name_of(6), cut_time=6 * DAY_S, targets=("other",))
    put(tmp_path, name_of(7), cut_time=7 * DAY_S, controllers={"beta": 1})
    _no_image(tmp_path / name_of(4))
    newest = manifest(name_of(5))
    assert catalogue.surplus(tmp_path, newest, parse("2"), {}) == [name_of(1), name_of(2)]


def test_the_backup_that_was_just_made_stays_whatever_the_clock_says(tmp_path: Path) -> None:
    for day in (1, 2):
        put(tmp_path, name_of(day), cut_time=day * DAY_S)
    newest = manifest(name_of(1), cut_time=DAY_S)  # the clock was set back
    assert catalogue.surplus(tmp_path, newest, parse("1"), {}) == []


def test_one_of_a_clock_that_was_ahead_stays_and_does_not_count(tmp_path: Path) -> None:
    for day in (1, 2, 3, 30):
        put(tmp_path, name_of(day), cut_time=day * DAY_S)
    newest = manifest(name_of(3), cut_time=3 * DAY_S)
    assert catalogue.surplus(tmp_path, newest, parse("2"), {}) == [name_of(1)]


# ------------------------------------------------------------------------------------- chains


def put_chain(directory: Path, days: int, content: bytes = b"image") -> None:
    """One for each day, each on the one before."""
    base = None
    for day in range(1, days + 1):
        path = put(directory, name_of(day), content, cut_time=day * DAY_S, base=base)
        text = (path / FILE).read_bytes()
        base = Base(name_of(day), hashlib.sha256(text).hexdigest())


def _other_tag(path: Path) -> None:
    """A backup, and none that anything was made on."""
    (path / FILE).write_text((path / FILE).read_text().replace('"nightly"', '"other"'))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_no_image, "which cannot be restored"),
        (_bad_manifest, "which cannot be restored"),
        (shutil.rmtree, "which is not there"),
        (_other_tag, "whose manifest.json is another now"),
    ],
)
def test_whatever_lies_on_a_wrong_one_is_wrong(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    put_chain(tmp_path, 4)
    spoil(tmp_path / name_of(2))
    wrong = {each.id: each.wrong for each in catalogue.find(tmp_path)}
    assert wrong[name_of(1)] == ()
    assert wrong[name_of(3)] == wrong[name_of(4)] == (f"it lies on {name_of(2)}, {why}",)


def test_a_circle_is_wrong_and_has_an_end(tmp_path: Path) -> None:
    put(tmp_path, name_of(1), base=Base(name_of(2), "0" * 64))
    put(tmp_path, name_of(2), base=Base(name_of(1), "0" * 64))
    assert all(each.wrong for each in catalogue.find(tmp_path))


def test_a_byte_that_changed_is_found_in_all_that_lie_on_it(tmp_path: Path, image: bytes) -> None:
    put_chain(tmp_path, 3, image)
    (tmp_path / name_of(2) / "data.qcow2").write_bytes(image[:-1] + bytes([image[-1] ^ 1]))
    found = asyncio.run(catalogue.check(catalogue.find(tmp_path)))
    assert [len(each.wrong) for each in found] == [0, 1, 1]
    assert found[2].wrong == (f"it lies on {name_of(2)}, which cannot be restored",)


def test_what_a_kept_or_a_wrong_one_lies_on_is_no_surplus(tmp_path: Path) -> None:
    put_chain(tmp_path, 4)
    newest = manifest(name_of(4))
    assert catalogue.surplus(tmp_path, newest, parse("1"), {}) == []
    put(tmp_path, name_of(5), cut_time=5 * DAY_S)
    newest = manifest(name_of(5))
    going = [name_of(day) for day in (4, 3, 2, 1)]
    assert catalogue.surplus(tmp_path, newest, parse("1"), {}) == going
    _no_image(tmp_path / name_of(3))
    assert catalogue.surplus(tmp_path, newest, parse("1"), {}) == []


def test_what_was_found_unsound_is_none_of_those_to_keep(tmp_path: Path) -> None:
    """Else a damaged backup would stay in place of a sound one."""
    for day in (1, 2):
        put(tmp_path, name_of(day), cut_time=day * DAY_S)
    text = (tmp_path / name_of(2) / FILE).read_bytes()
    on_it = Base(name_of(2), hashlib.sha256(text).hexdigest())
    put(tmp_path, name_of(3), cut_time=3 * DAY_S, base=on_it)
    put(tmp_path, name_of(4), cut_time=4 * DAY_S)
    newest = manifest(name_of(4))
    unsound = {name_of(2): replace(catalogue.find(tmp_path)[1], wrong=("damaged",))}
    assert catalogue.surplus(tmp_path, newest, parse("2"), {}) == [name_of(1)]
    assert catalogue.surplus(tmp_path, newest, parse("2"), unsound) == []


@pytest.mark.parametrize("spoil", [_no_manifest, _bad_manifest])
def test_what_one_without_a_manifest_lies_on_is_no_surplus(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Its images are there still, and somebody may read them, or find the manifest again."""
    for day in (1, 2, 3):
        put(tmp_path, name_of(day), cut_time=day * DAY_S)
    own = tmp_path / name_of(2)
    for path, up in ((own / "data.qcow2", ".."), (own / "alpha" / "data.qcow2", "../..")):
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        base = f"{up}/{name_of(1)}/data.qcow2"
        create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base]
        subprocess.run([*create, str(path), "1M"], check=True)
        spoil(own)
        assert catalogue.surplus(tmp_path, manifest(name_of(3)), parse("1"), {}) == []
        path.unlink()
        (own / FILE).touch()
