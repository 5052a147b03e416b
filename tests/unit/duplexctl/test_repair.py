"""duplexctl repair: what it says, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from duplexd.duplexctl.cli import run
from duplexd.duplexctl.legs import repaired_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control_plane import ControlPlane

    Ctl = Callable[..., tuple[int, str, str]]


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


def test_a_repair_says_what_was_written_where(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    code, out, _ = ctl("repair", "data", "--from", "primary")
    assert code == 0
    assert out.splitlines() == [
        "data: 12.0 KiB repaired, the legs are equal there, from the primary /a/data.img",
        "  4.0 KiB at byte 4096",
        "  8.0 KiB at byte 65536",
    ]
    assert plane.controller.differs == set()


def test_a_dry_run_says_what_would_be(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    code, out, _ = ctl("repair", "data", "--from", "secondary", "--dry-run")
    assert (code, out.splitlines()[0]) == (
        0,
        "data: 12.0 KiB would be repaired, from the secondary /b/data.img",
    )
    assert plane.controller.differs == {"data"}


def test_json_has_the_row_of_each_volume(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    _, out, _ = ctl("--json", "repair", "data", "--from", "primary")
    (row,) = json.loads(out)["volumes"]
    assert (row["name"], row["from"], row["repaired"]) == ("data", "primary", True)


def test_of_a_group_those_that_differ_are_repaired_and_the_others_named(
    ctl: Ctl, plane: ControlPlane
) -> None:
    plane.controller.differs = {"data"}
    code, out, _ = ctl("repair", "db", "--from", "primary")
    assert code == 0
    assert out.splitlines()[0].startswith("data: 12.0 KiB repaired")
    assert out.splitlines()[-1] == "wal: no difference is recorded"
    assert plane.controller.differs == set()


def test_nothing_to_repair_is_the_wrong_state(ctl: Ctl) -> None:
    code, _, err = ctl("repair", "data", "--from", "primary")
    assert code == 5
    assert "nothing to repair" in err


def test_which_image_is_right_has_to_be_said(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    assert ctl("repair", "data")[0] == 2
    assert plane.controller.differs == {"data"}


def test_of_many_places_the_first_are_listed() -> None:
    row = {
        "name": "data", "from": "primary", "path": "/a", "bytes": 4096 * 10, "repaired": True,
        "ranges": [[place * 8192, 4096] for place in range(10)],
    }  # fmt: skip
    lines = repaired_text([row]).splitlines()
    assert (len(lines), lines[-1]) == (10, "  and 2 more places")
