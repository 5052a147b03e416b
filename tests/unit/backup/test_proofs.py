"""Which images were read and found right, and when that counts no more."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.proofs import RECORD, Proofs, Sum, forget, sum_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR_NS = 3600 * 10**9


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "backup" / "data.qcow2"
    path.parent.mkdir()
    path.write_bytes(b"content")
    return path


def later(path: Path) -> Sum:
    """As if it were read an hour later than it was written."""
    found = sum_of(path)
    return found._replace(read_ns=found.read_ns + HOUR_NS)


def note(above: Path, *images: Path) -> str:
    """What a run leaves; the check-sum of the first."""
    proved = Proofs(above)
    for each in images:
        proved.note(each, later(each))
    proved.save()
    return later(images[0]).sha256


def test_the_next_run_knows_what_was_read(tmp_path: Path, image: Path) -> None:
    sha256 = note(tmp_path, image)
    assert Proofs(tmp_path).holds(image, sha256)
    assert not Proofs(tmp_path).holds(image, "0" * 64)
    assert not Proofs(tmp_path).holds(image.with_name("wal.qcow2"), sha256)


def _write(path: Path) -> None:
    path.write_bytes(b"CONTENT")


def _replace(path: Path) -> None:
    """By one of the same times, as `cp --preserve` makes them."""
    status = path.stat()
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rewrite_with_its_old_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "change", [_write, _replace, _rewrite_with_its_old_times, _lengthen, _remove]
)
def test_a_file_that_somebody_wrote_to_is_read_again(
    tmp_path: Path, image: Path, change: Callable[[Path], None]
) -> None:
    sha256 = note(tmp_path, image)
    noted = image.stat().st_ctime_ns
    change(image)
    while image.exists() and image.stat().st_ctime_ns == noted:  # within a tick of the clock
        change(image)
    assert not Proofs(tmp_path).holds(image, sha256)


def test_what_was_changed_just_before_it_was_read_is_read_again(
    tmp_path: Path, image: Path
) -> None:
    """The next change may leave the same times."""
    found = sum_of(image)
    proved = Proofs(tmp_path)
    proved.note(image, found._replace(read_ns=found.look.changed_ns + 1))
    proved.save()
    assert not Proofs(tmp_path).holds(image, found.sha256)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "images": 3}'])
def test_a_record_that_cannot_be_read_is_empty(tmp_path: Path, image: Path, text: str) -> None:
    sha256 = note(tmp_path, image)
    (tmp_path / RECORD).write_text(text)
    assert not Proofs(tmp_path).holds(image, sha256)
    note(tmp_path, image)
    assert Proofs(tmp_path).holds(image, sha256)


def test_what_others_noted_stays_until_its_image_is_removed(tmp_path: Path, image: Path) -> None:
    other = image.with_name("wal.qcow2")
    other.write_bytes(b"x")
    sha256 = note(tmp_path, image)
    note(tmp_path, other)
    assert Proofs(tmp_path).holds(image, sha256)
    image.unlink()
    note(tmp_path, other)
    assert "data.qcow2" not in (tmp_path / RECORD).read_text()


def test_a_record_that_cannot_be_removed_is_named(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(tmp_path, image)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("pathlib.Path.unlink", unlink)
    assert forget(tmp_path).startswith(f"{tmp_path / RECORD} cannot be removed (Read-only")


def test_what_is_forgotten_while_a_run_works_does_not_come_back(
    tmp_path: Path, image: Path
) -> None:
    sha256 = note(tmp_path, image)
    running = Proofs(tmp_path)
    forget(tmp_path)
    running.save()
    assert not Proofs(tmp_path).holds(image, sha256)
