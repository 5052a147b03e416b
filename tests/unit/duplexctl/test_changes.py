"""`duplexctl changes`: a summary for people, all extents for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.duplexctl.cli import run
from tests.support.fake_changes import GRAIN

if TYPE_CHECKING:
    import pytest

    from tests.support.control_plane import ControlPlane


def call(plane: ControlPlane, *arguments: str) -> int:
    return run(["--socket", str(plane.path), "changes", *arguments])


def test_a_line_for_each_volume(plane: ControlPlane, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(plane, "db", "--since", "monday", "--until", "tuesday") == 0
    first, second = capfd.readouterr().out.splitlines()
    assert first == (
        "data: 256.0 KiB of 1.0 MiB changed from cut 0000000000000001 (monday) to cut"
        " 0000000000000002 (tuesday), in 3 extents of 64.0 KiB and more"
    )
    assert second.startswith("wal: 256.0 KiB of 1.0 MiB changed")


def test_until_now_and_why_more_counts(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    plane.controller.changes.why = ["the daemon did not stop cleanly"]
    assert call(plane, "data", "--since", "monday") == 0
    first, second = capfd.readouterr().out.splitlines()
    assert "to now (number 99), in 3 extents" in first
    assert second == "    counts more than what changed: the daemon did not stop cleanly"


def test_volumes_whose_latest_cuts_differ_are_not_said_to_belong_together(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    plane.controller.changes.latest = {"data": "monday", "wal": "tuesday"}
    assert call(plane, "db", "--since", "monday", "--until", "latest") == 0
    assert "warning: --until: it is not one cut for all volumes" in capfd.readouterr().err
    assert call(plane, "data", "--since", "monday", "--until", "latest") == 0
    assert capfd.readouterr().err == ""


def test_json_has_all_extents_of_several_answers(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    plane.controller.changes.most = 1
    assert call(plane, "data", "--since", "monday", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    (volume,) = found["volumes"]
    assert [each["offset"] for each in volume["extents"]] == [0, 4 * GRAIN, 9 * GRAIN]
    assert "next_offset" not in volume
    assert (found["changed_bytes"], found["exact"]) == (4 * GRAIN, True)


def test_a_cut_that_is_not_remembered_is_3(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(plane, "data", "--since", "sunday") == 3
    assert "'sunday' is not a cut for which changes are remembered" in capfd.readouterr().err
