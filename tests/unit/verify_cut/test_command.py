"""`duplexctl verify-cut`: exit codes, what it says, its options."""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.duplexctl.cli import run
from duplexd.verify_cut.check import check
from tests.unit.verify_cut.world import CUT, NO_WAIT, World, certificate, fill, flip, poke, save

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write(0, fill(1))
    world.cut()
    return world


@pytest.fixture
def path(tmp_path: Path, world: World) -> str:
    return save(tmp_path, certificate(world.member()))


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["verify-cut", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_confirmed_cut_is_0(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verify(capsys, path, "--complete")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"cut {CUT} of db: confirmed",
        "alpha: the cut's record is as certified; the journal has records 1 to 3",
        "  data: all of 1.0 MiB checked (4.0 KiB by the journal, 1.0 MiB by the primary)",
    ]


def test_bytes_that_differ_are_1(
    path: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(world.secondary, 5)
    code, out, err = verify(capsys, path)
    assert (code, "contradicts the certificate" in err) == (1, True)
    assert f"WRONG: {world.secondary}: byte 5 differs" in out


def test_with_json_a_refuted_cut_is_one_object(
    path: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(world.secondary, 5)
    code, out, _ = verify(capsys, path, "--json")
    assert (code, json.loads(out)["outcome"]) == (1, "refuted")


@pytest.mark.parametrize("place", [5, 100 * 4096])
def test_after_a_contradiction_the_rest_is_checked(
    path: str, world: World, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    flip(world.secondary, place)
    lines = verify(capsys, path)[1].splitlines()
    assert lines[-1] == (
        "  data: all but 1 B of 1.0 MiB right "
        "(4.0 KiB by the journal, 1.0 MiB by the primary); 1 B WRONG"
    )
    assert sum("WRONG: " in line for line in lines) == 1


def test_a_volume_that_differs_everywhere(
    path: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    poke(world.secondary, 0, fill(9, 1 << 20))
    assert (
        verify(capsys, path)[1].splitlines()[-1]
        == "  data: nothing of 1.0 MiB is right; 1.0 MiB WRONG"
    )


def test_what_a_starting_daemon_may_change_is_5(
    path: str, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duplexd.verify_cut.check.check", partial(check, limits=NO_WAIT))
    world.lock("17")
    flip(world.secondary, 5)
    code, out, err = verify(capsys, path)
    assert (code, "try again when it serves" in err, out.splitlines()[0]) == (
        5,
        True,
        f"cut {CUT} of db: unchecked",
    )
    assert (
        f"a daemon is starting, or was ended while it did: {world.secondary}: byte 5 differs" in out
    )


def test_void_is_9(path: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.mark({"m": "void", "cut": CUT})
    code, out, _ = verify(capsys, path)
    assert (code, out.splitlines()[0]) == (9, f"cut {CUT} of db: VOID")


def test_nothing_to_check_is_5(path: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    moved = world.directory / "elsewhere"
    shutil.move(world.state_dir, moved)
    code, out, err = verify(capsys, path)
    assert (code, "not checked: " in out, "--state-dir" in err) == (5, True, True)
    assert verify(capsys, path, "--state-dir", f"alpha={moved}")[0] == 10


def test_complete_fails_if_anything_could_not_be_checked(
    path: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = world.directory / "b.img"
    shutil.move(world.secondary, moved)
    code, out, err = verify(capsys, path, "--complete")
    assert (code, "nothing of 1.0 MiB checked" in out, "not everything" in err) == (5, True, True)
    assert verify(capsys, path, "--complete", "--image", f"alpha:data={moved}")[0] == 0


def test_a_cut_of_which_no_image_was_checked_is_10_and_not_confirmed(
    path: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.secondary.unlink()
    code, out, err = verify(capsys, path)
    assert (code, "of the images nothing was checked" in err) == (10, True)
    assert "recorded as certified; of the images nothing was checked" in out.splitlines()[0]
    code, out, _ = verify(capsys, path, "--json")
    assert (code, json.loads(out)["outcome"]) == (10, "recorded")


def test_a_bad_file_and_names_that_are_not_in_the_certificate_are_2(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(capsys, str(tmp_path / "none"))[0] == 2
    assert verify(capsys, path, "--state-dir", "beta=/x")[0] == 2
    code, _, err = verify(capsys, path, "--image", "alpha:wal=/x")
    assert (code, "alpha:data" in err) == (2, True)


def test_json_has_every_field(path: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(verify(capsys, path, "--json")[1])
    assert (found["outcome"], found["complete"], found["is_void"], found["cut"]) == (
        "confirmed",
        True,
        False,
        CUT,
    )
    member = found["controllers"][0]
    assert (
        member["name"],
        member["record"],
        member["first_sequence"],
        member["last_sequence"],
    ) == ("alpha", "found", 1, 3)
    assert member["volumes"][0] == {
        "name": "data",
        "size": 1 << 20,
        "secondary": str(world.secondary),
        "stands": True,
        "by_journal_bytes": 4096,
        "by_primary_bytes": 1 << 20,
        "checked_bytes": 1 << 20,
        "data_bytes": 4096,
        "checked_data_bytes": 4096,
        "whole_journal": True,
        "wrong_bytes": 0,
        "undecided_bytes": 0,
        "unchecked": [],
        "unchecked_bytes": 0,
    }


def test_control_characters_in_a_certificate_do_not_reach_the_terminal(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = certificate(world.member(name="al\x1b[2Jpha"), group="\x1b]0;x\x07")
    out = verify(capsys, save(tmp_path, evil))[1]
    assert "al\\x1b[2Jpha" in out
    assert "\x1b" not in out
