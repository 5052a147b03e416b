"""What a certificate holds, and that its file is there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.client import certificate
from duplexd.client.results import Hold, Suspended
from duplexd.errors import DuplexdError, UsageError
from duplexd.verify_cut import document

if TYPE_CHECKING:
    from pathlib import Path

MEMBER: dict[str, Any] = {
    "cut": "0123456789abcdef",
    "controller": "alpha",
    "sequence": 7,
    "time": 12.5,
    "journal": {"directory": "/state", "identity": "00" * 16, "crc": 1, "chain": 2},
    "volumes": [{"id": 3, "name": "dätä", "size": 4096, "primary": "/a", "secondary": "/b"}],
}
RESULT = Suspended(
    verdict="consistent",
    cut="0123456789abcdef",
    tag="nightly",
    group="db",
    controllers={"alpha": 7},
    volumes=["alpha:dätä"],
    hold=Hold(seconds_max=0.0123, writes_held=4, volumes=[{"name": "alpha:dätä", "count": 4}]),
    phases={"closing": 0.001, "cutting": 1 / 3},
    members=[MEMBER],
)


def test_what_is_written_is_what_verify_cut_reads(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    certificate.write(path, certificate.make(RESULT))
    found = document.read(str(path))
    assert found.intact
    assert (found.cut, found.group, found.tag, found.verdict) == (
        "0123456789abcdef",
        "db",
        "nightly",
        "consistent",
    )
    member = found.members[0]
    assert (
        member.name,
        member.sequence,
        member.identity,
        member.crc,
        member.chain,
        member.directory,
    ) == (
        "alpha",
        7,
        bytes(16),
        1,
        2,
        "/state",
    )
    assert member.volumes == ((3, "dätä", 4096, "/a", "/b"),)


def test_it_holds_the_verdict_the_hold_and_the_phases() -> None:
    body = certificate.make(RESULT)["certificate"]
    assert (body["verdict"], body["hold"]["writes_held"], body["phases"]["cutting"]) == (
        "consistent",
        4,
        1 / 3,
    )
    assert body["program"].startswith("duplexd ")
    assert body["written"].endswith("+00:00")


def test_a_void_cut_is_certified_as_void() -> None:
    assert (
        certificate.make(replace(RESULT, verdict="void", why="a lease was lost"))["certificate"][
            "why"
        ]
        == "a lease was lost"
    )


@pytest.mark.parametrize("members", [[], [MEMBER | {"controller": "beta"}]])
def test_a_controller_that_did_not_say_where_its_cut_is(members: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="did not say where"):
        certificate.make(replace(RESULT, members=members))


def test_the_file_is_for_owner_and_group_and_for_people_too(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    old = os.umask(0o077)
    try:
        certificate.write(path, certificate.make(RESULT))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text().count("\n") > 20
    assert os.listdir(tmp_path) == ["cut.json"]


def test_a_file_that_can_not_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cut.json"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DuplexdError, match=r"cut\.json: No space left"):
        certificate.write(path, certificate.make(RESULT))
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["cut.json"])
    with pytest.raises(DuplexdError, match="No such file"):
        certificate.write(tmp_path / "nowhere" / "x", certificate.make(RESULT))


def something_else(path: Path, kind: str) -> None:
    """What is there, and no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o666)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory"])
@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_is_refused_before_the_cut_and_stays(
    tmp_path: Path, kind: str, link: bool
) -> None:
    path = thing = tmp_path / "thing"
    something_else(thing, kind)
    before = thing.lstat()
    if link:
        path = tmp_path / "link"
        path.symlink_to(thing)
    with pytest.raises(
        UsageError, match="directory" if kind == "directory" else "Not a regular file"
    ):
        certificate.check_place(path)
    with pytest.raises(DuplexdError, match="could not be written"):
        certificate.write(path, certificate.make(RESULT))
    assert (thing.lstat().st_ino, thing.lstat().st_mode, path.is_symlink()) == (
        before.st_ino,
        before.st_mode,
        link,
    )


def test_a_link_to_a_device_is_refused_and_stays(tmp_path: Path) -> None:
    terminal = os.openpty()
    try:
        (tmp_path / "link").symlink_to(os.ttyname(terminal[1]))
        with pytest.raises(UsageError, match="Not a regular file"):
            certificate.check_place(tmp_path / "link")
    finally:
        for descriptor in terminal:
            os.close(descriptor)


@pytest.mark.parametrize(
    "through", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}", "/dev/../dev/fd/{}"]
)
@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_open_already_is_refused_and_stays(
    tmp_path: Path, through: str, link: bool
) -> None:
    (tmp_path / "out").write_text("what was written before")
    with (tmp_path / "out").open("a") as out:
        path = through.format(out.fileno())
        if link:
            (tmp_path / "link").symlink_to(path)
            path = str(tmp_path / "link")
        with pytest.raises(UsageError, match="a descriptor has open"):
            certificate.check_place(path)
        with pytest.raises(DuplexdError, match="could not be written"):
            certificate.write(path, certificate.make(RESULT))
    assert (tmp_path / "out").read_text() == "what was written before"


def test_standard_output_is_refused_and_a_file_in_a_directory_that_is_open_is_not(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="a descriptor has open"):
        certificate.check_place("/dev/stdout")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        certificate.check_place(f"/dev/fd/{directory}/cut.json")
    finally:
        os.close(directory)


@pytest.mark.parametrize("exists", [False, True])
def test_a_symbolic_link_leads_to_the_file_that_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "cut.json", tmp_path / "link"
    if exists:
        file.write_text("old")
    link.symlink_to("elsewhere/cut.json")
    certificate.check_place(link)
    certificate.write(link, certificate.make(RESULT))
    assert link.is_symlink()
    assert document.read(str(file)).intact


def test_a_symbolic_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "astray").symlink_to("none/cut.json")
    for name in ("loop", "astray"):
        with pytest.raises(UsageError, match="no certificate could be written"):
            certificate.check_place(tmp_path / name)


def test_the_same_cut_has_one_canonical_form() -> None:
    made = certificate.make(RESULT)
    assert (
        document.check_sum(json.loads(json.dumps(made["certificate"], sort_keys=False)))
        == made["sha256"]
    )
