"""duplexctl swap and adopt: what they say, what they ask, and how they end."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.duplexctl import texts
from duplexd.duplexctl.cli import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json
    from tests.support.control_plane import ControlPlane

    Ctl = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[3]
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]
PATIENCE_SECONDS = 100.0


@pytest.fixture
def ctl(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ctl:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(list(arguments))
        text = capfd.readouterr()
        return code, text.out, text.err

    return call


def at_terminal(plane: ControlPlane, typed: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal where somebody types that: (exit code, what the screen shows)."""
    return typed_at_terminal(typed, "--socket", str(plane.path), *arguments)


def typed_at_terminal(typed: str, *arguments: str) -> tuple[int, str]:
    parent, child = pty.openpty()
    command = [*MAIN, *arguments]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=ROOT)
    os.close(child)
    os.write(parent, typed.encode())
    seen = b""
    with suppress(OSError):  # that is how a terminal ends
        while more := os.read(parent, 4096):
            seen += more
    os.close(parent)
    return process.wait(PATIENCE_SECONDS), seen.decode()


def test_a_swap_says_which_image_clients_use(ctl: Ctl) -> None:
    code, out, err = ctl("swap", "data")
    assert (code, err) == (0, "")
    assert out == "data: swapped: clients use /b/data.img; /a/data.img is the secondary, DUPLEX\n"


def test_a_swap_without_an_option_is_5_while_suspended(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    code, out, err = ctl("swap", "data")
    assert (code, out, "--roll-forward or --lose-changes" in err) == (5, "", True)
    assert plane.controller.swapped == set()


def test_what_was_lost_is_said_with_number_time_and_bytes(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    code, out, _ = ctl("swap", "data", "--lose-changes")
    assert code == 0
    assert "LOST: 2 changes from number 8 to 9, since 1970-01-01T00:00:01Z, 64.0 KiB" in out


def test_a_script_is_not_asked(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    plane.controller.refused["wal"] = "another image"
    assert ctl("swap", "data", "--lose-changes", "--json")[0] == 0
    assert ctl("adopt", "wal", "--json")[0] == 0


@pytest.mark.parametrize(
    ("typed", "code", "swapped"), [("y\n", 0, {"data"}), ("n\n", 1, set()), ("\n", 1, set())]
)
def test_a_terminal_is_asked_before_changes_are_lost(
    plane: ControlPlane, typed: str, code: int, swapped: set[str]
) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    ended, seen = at_terminal(plane, typed, "swap", "data", "--lose-changes")
    assert "data: all changes from number 1 on, since 1970-01-01T00:00:01Z, 64.0 KiB" in seen
    assert "--roll-forward brings it back" in seen
    assert (ended, plane.controller.swapped) == (code, swapped)


@pytest.mark.parametrize(("typed", "code", "refused"), [("y\n", 0, []), ("n\n", 1, ["data"])])
def test_a_terminal_is_asked_before_an_image_is_adopted(
    plane: ControlPlane, typed: str, code: int, refused: list[str]
) -> None:
    plane.controller.refused["data"] = "/a/data.img: was emptied"
    ended, seen = at_terminal(plane, typed, "adopt", "data")
    assert "data: /a/data.img: was emptied" in seen
    assert (ended, list(plane.controller.refused)) == (code, refused)


def test_the_question_of_an_adopt_names_what_loses_nothing(plane: ControlPlane) -> None:
    plane.controller.refused["data"] = "/a/data.img: Input/output error"
    plane.controller.volumes["data"] = "SUSPENDED"
    _, seen = at_terminal(plane, "n\n", "adopt", "data")
    assert "would be lost: `duplexctl swap data --roll-forward` keeps them" in seen


def test_a_terminal_is_asked_where_a_controller_does_not_say_what_would_be_lost(
    plane: ControlPlane, tmp_path: Path
) -> None:
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.fake]\nsocket = "{plane.path}"\n'
        f'[controllers.beta]\nsocket = "{tmp_path}/nobody.sock"\n'
        '[groups.all]\nmembers = ["fake:wal", "beta:wal"]\n'
    )
    arguments = ["--groups", str(groups), "swap", "all", "--lose-changes"]
    ended, seen = typed_at_terminal("n\n", *arguments)
    assert "beta: no answer, so this is not known there" in seen
    assert (ended, plane.controller.swapped) == (1, set())


def test_an_end_of_input_at_the_question_changes_nothing(plane: ControlPlane) -> None:
    plane.controller.refused["data"] = "/a/data.img: was emptied"
    assert at_terminal(plane, "\x04", "adopt", "data")[0] == 130
    assert list(plane.controller.refused) == ["data"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["swap", "data", "--lose-changes", "--yes"],
        ["adopt", "data", "--yes"],
        ["swap", "data"],
        ["adopt", "wal"],  # which is served
        ["swap", "wal", "--lose-changes"],  # which is DUPLEX: nothing is lost
    ],
)
def test_nothing_is_asked_where_nothing_is_lost_or_yes_was_said(
    plane: ControlPlane, arguments: list[str]
) -> None:
    if "--yes" in arguments:
        plane.controller.volumes["data"] = "SUSPENDED"
        plane.controller.refused["data"] = "another image"
    code, seen = at_terminal(plane, "", *arguments)
    assert (code, "[y/N]" in seen) == (0, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--roll-forward", "--lose-changes"],
        ["--keep-to", "/srv/x"],
        ["--lose-changes", "--keep-to", "/srv/x"],
    ],
)
def test_options_that_contradict_each_other_are_2(
    ctl: Ctl, plane: ControlPlane, arguments: list[str]
) -> None:
    code, out, _ = ctl("swap", "data", "--json", *arguments)
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert plane.controller.swapped == set()


def test_a_relative_path_is_one_of_the_caller(
    ctl: Ctl, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plane.controller.volumes["data"] = "SUSPENDED"
    assert ctl("swap", "data", "--roll-forward", "--keep-to", "kept.img")[0] == 0
    assert plane.controller.kept_to == [str(tmp_path / "kept.img")]


def test_of_a_groups_file_a_path_must_be_absolute(ctl: Ctl, tmp_path: Path) -> None:
    groups = tmp_path / "groups.toml"
    groups.write_text('[controllers.fake]\nsocket = "c.sock"\n[groups.db]\nmembers = ["fake:db"]\n')
    code, _, err = ctl("--groups", str(groups), "swap", "db", "--roll-forward", "--keep-to", "x")
    assert (code, "'x' is a relative path" in err) == (2, True)


def test_of_a_group_what_was_done_is_said_and_what_was_refused_is_the_exit_code(
    ctl: Ctl, tmp_path: Path
) -> None:
    groups = tmp_path / "groups.toml"
    groups.write_text(
        '[controllers.fake]\nsocket = "c.sock"\n[controllers.gone]\nsocket = "gone.sock"\n'
        '[groups.db]\nmembers = ["fake:data", "gone:data"]\n'
    )
    code, out, err = ctl("--groups", str(groups), "swap", "db")
    assert (code, out.splitlines()[0].startswith("fake:data: swapped")) == (7, True)
    assert "gone: no daemon answers" in err


def test_an_adopt_says_what_it_took_and_already_the_second_time(
    ctl: Ctl, plane: ControlPlane
) -> None:
    plane.controller.refused["data"] = "another image"
    assert ctl("adopt", "data")[1].startswith("data: adopted /a/data.img; ")
    assert ctl("adopt", "data")[1].startswith("data: already served from /a/data.img; ")


@pytest.mark.parametrize("verb", ["swap", "adopt"])
def test_a_volume_that_is_unknown_is_3(ctl: Ctl, verb: str) -> None:
    assert ctl(verb, "none")[0] == 3


def row(**fields: object) -> Json:
    return {
        "name": "v", "state": "SIMPLEX", "reason": None, "primary": "/a", "secondary": None,
        "lost": None, "already": False,
    } | fields  # fmt: skip


def test_a_change_is_not_called_lost_that_an_adopted_image_has() -> None:
    lost = {"records": 0, "first": None, "last": None, "bytes": 0}
    assert "LOST" not in texts.adopted_text([row(lost=lost)])


def test_what_an_adopted_image_lacks_is_said() -> None:
    lost = {"records": 3, "first": 7, "last": 9, "bytes": 4096}
    assert texts.adopted_text([row(lost=lost)]).splitlines() == [
        "v: adopted /a; SIMPLEX",
        "  LOST: 3 changes from number 7 to 9, 4.0 KiB",
    ]


def test_an_adopted_secondary_is_named_and_what_copies_to_it() -> None:
    taken = row(state="SUSPENDED", secondary="/b", taken=["secondary"])
    assert texts.adopted_text([taken]).splitlines() == [
        "v: adopted the secondary /b; SUSPENDED",
        "  `duplexctl resync v` copies /a to it",
    ]


def test_a_secondary_that_cannot_be_adopted_is_named_with_what_to_do() -> None:
    gone = row(secondary="/b", already=True, secondary_error="/b: the image is missing")
    assert texts.adopted_text([gone]).splitlines() == [
        "v: already served from /a; SIMPLEX",
        "  its secondary cannot be used: /b: the image is missing",
        "  put an image there, then `duplexctl resync v` copies to it",
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "v: swapped: clients use /a; SIMPLEX"),
        ({"already": True}, "v: already: clients use /a; SIMPLEX"),
        (
            {"secondary": "/b", "state": "SUSPENDED", "reason": "by primary error"},
            "v: swapped: clients use /a; /b is the secondary, SUSPENDED (by primary error)",
        ),
    ],
)
def test_a_swap_in_words(fields: Json, text: str) -> None:
    assert texts.swapped_text([row(**fields)]) == text
