"""What is followed, made and written as root, where others may have put links. `root=True` asks for
root's rules from any user: a directory that everybody may write to is one of others.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime import directory, owned
from duplexd.runtime.owned import UnsafePlaceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = b"of root"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of ours that nobody is to overwrite."""
    path = tmp_path / "victim"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory in which others may put what they like."""
    path = tmp_path / "theirs"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours"
    path.mkdir(0o755)
    return path


def write(path: Path) -> None:
    fd = owned.open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, root=True)
    os.write(fd, b"x")
    os.close(fd)


def test_a_link_that_others_may_have_made_is_not_followed(theirs: Path, victim: Path) -> None:
    (theirs / "lock").symlink_to(victim)
    with pytest.raises(UnsafePlaceError, match="'lock' is a symbolic link"):
        write(theirs / "lock")
    assert victim.read_bytes() == CONTENT


def test_a_directory_that_others_may_have_linked_is_not_entered(theirs: Path, ours: Path) -> None:
    (theirs / "state").symlink_to(ours)
    with pytest.raises(UnsafePlaceError, match="'state' is a symbolic link"):
        write(theirs / "state" / "lock")
    assert not list(ours.iterdir())


def test_a_link_of_ours_is_followed(ours: Path, theirs: Path) -> None:
    (ours / "image").symlink_to("../theirs/./image")
    (ours / "absolute").symlink_to(ours / "image")
    write(ours / "absolute")
    assert (theirs / "image").read_bytes() == b"x"


def test_a_link_of_ours_in_a_sticky_directory_is_followed(theirs: Path, victim: Path) -> None:
    theirs.chmod(0o1777)
    (theirs / "image").symlink_to(victim)
    write(theirs / "image")
    assert victim.read_bytes() == b"x"


def test_a_hard_link_in_a_directory_of_others_is_refused(
    theirs: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(victim, theirs / "image")
    real = os.fstat

    def of_another(fd: int) -> os.stat_result:
        found = real(fd)
        user = found.st_uid + stat.S_ISDIR(found.st_mode)  # the directory is of another one
        return os.stat_result((*found[:4], user, *found[5:10]))

    monkeypatch.setattr(os, "fstat", of_another)
    with pytest.raises(UnsafePlaceError, match="other names"):
        owned.open_file(str(theirs / "image"), os.O_RDWR, root=True)


def test_links_in_a_circle_end(ours: Path) -> None:
    (ours / "a").symlink_to("b")
    (ours / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write(ours / "a")


def test_what_is_not_there_is_named_whole(ours: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        owned.open_file(str(ours / "no" / "such"), os.O_RDONLY, root=True)
    assert missing.value.filename == str(ours / "no" / "such")


def test_no_descriptor_is_left(ours: Path, theirs: Path, victim: Path) -> None:
    (theirs / "lock").symlink_to(victim)
    before = os.listdir("/proc/self/fd")
    write(ours / "x")
    for path in (theirs / "lock", ours / "no" / "such"):
        with pytest.raises(OSError, match=r"link|No such"):
            write(path)
    assert os.listdir("/proc/self/fd") == before


# ------------------------------------------------------------- places that others must not change


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_place_of_ours_is_one(ours: Path, mode: int) -> None:
    ours.chmod(mode)
    owned.check_place(str(ours), root=True)
    owned.check_place(str(ours / "not" / "there"), root=True)


@pytest.mark.parametrize("inside", ["", "state", "state/deeper"])
def test_no_place_is_ours_below_a_directory_that_others_write_to(theirs: Path, inside: str) -> None:
    (theirs / "state" / "deeper").mkdir(parents=True)
    with pytest.raises(UnsafePlaceError, match="its group or everybody") as error:
        owned.check_place(str(theirs / inside), root=True)
    assert error.value.filename == str(theirs)


def test_a_sticky_directory_may_be_above_but_not_be_the_place(theirs: Path) -> None:
    theirs.chmod(0o1777)
    (theirs / "state").mkdir(0o755)
    owned.check_place(str(theirs / "state"), root=True)
    with pytest.raises(UnsafePlaceError):
        owned.check_place(str(theirs), root=True)


def test_a_process_that_is_not_root_does_what_its_user_may(theirs: Path, victim: Path) -> None:
    owned.check_place(str(theirs), root=False)
    (theirs / "image").symlink_to(victim)
    os.close(owned.open_file(str(theirs / "image"), os.O_RDWR, root=False))


# ------------------------------------------------------------------------- files that are replaced


@pytest.mark.parametrize("put", [os.symlink, os.link])
def test_a_replacement_does_not_write_through_what_was_put_at_its_temporary_name(
    ours: Path, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    put(victim, ours / "checkpoint.tmp")
    directory.replace_file(str(ours / "checkpoint"), b"new")
    assert (victim.read_bytes(), (ours / "checkpoint").read_bytes()) == (CONTENT, b"new")
    assert sorted(each.name for each in ours.iterdir()) == ["checkpoint"]


def test_a_replacement_takes_the_place_of_a_link_and_leaves_its_target(
    ours: Path, victim: Path
) -> None:
    (ours / "certificate").symlink_to(victim)
    directory.replace_file(str(ours / "certificate"), b"new", shared=True)
    assert (victim.read_bytes(), (ours / "certificate").read_bytes()) == (CONTENT, b"new")
    assert not (ours / "certificate").is_symlink()
