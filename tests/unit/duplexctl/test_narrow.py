"""A status on a terminal fits its width: what gives way, and what stays."""

from __future__ import annotations

import time
from typing import Any

import pytest

from duplexd.duplexctl import views
from duplexd.duplexctl.texts import drill_text
from tests.support.fake_controller import FakeController

CUT = {"id": "0123456789abcdef", "sequence": 7, "tag": "nightly of all databases", "canary": None}


def status(reason: str = "by command") -> dict[str, Any]:
    found = FakeController(["data", "journal"], {}).status()
    cut = CUT | {"time": time.time() - 3 * 3600, "verdict": "consistent"}
    found["volumes"][0] |= {
        "state": "SUSPENDED",
        "reason": reason,
        "changed_bytes": 1 << 20,
        "secondary": {"usable": True, "cut": cut},
    }
    return found


@pytest.mark.parametrize("reason", ["by command", "by secondary error"])
def test_a_long_tag_gives_way_on_80_columns(reason: str) -> None:
    table = views.ControllerView(status(reason), 24, 80).text().splitlines()[1:4]
    assert max(map(len, table)) <= 80
    assert table[1].startswith("data ")
    assert reason in table[1]
    assert "3 h old" in table[1]


def test_a_wide_terminal_shows_the_whole_tag() -> None:
    text = views.ControllerView(status(), 24, 200).text()
    assert "cut 0123456789abcdef (nightly of all databases), 3 h old" in text


def test_columns_of_which_nothing_is_to_be_said_are_left_out() -> None:
    text = views.ControllerView(FakeController(["data"], {}).status(), 24, 80).text()
    assert "REASON" not in text
    assert "COPY" not in text


def test_a_void_cut_is_called_void_in_every_form() -> None:
    found = status()
    found["volumes"][0]["secondary"]["cut"]["verdict"] = "void"
    for width in (40, 80, 200):
        assert "VOID cut" in views.ControllerView(found, 24, width).text()


def test_a_resync_by_map_is_not_current() -> None:
    volume = status()["volumes"][0]
    volume |= {"state": "PENDING", "secondary": {"usable": True, "as_of_sequence": 7}}
    assert views.secondary_text(volume) == "at 7, not current"


def test_details_have_paths_mode_ages_and_the_number_of_an_error() -> None:
    found = FakeController(["data"], {}).status()
    found["volumes"][0]["secondary"] |= {
        "path": "/b/data.img",
        "error": "Input/output error",
        "error_time": 1.0,
    }
    found["volumes"][0] |= {"mode": "sync", "consistent_cut_time": time.time() - 7200}
    lines = views.ControllerView(found, None, details=True).text().splitlines()
    assert "data: secondary /b/data.img, sync" in lines
    assert "data:   Input/output error (EIO), since 1970-01-01T00:00:01Z" in lines
    assert any(line.startswith("data: last consistent cut: 2 h ago, ") for line in lines)
    assert "data: last drill: none" in lines


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (0, "passed 2 h ago"),
        (None, "FAILED 2 h ago, with exit code 3; none has passed"),
        (86400, "FAILED 2 h ago, with exit code 3; one passed 3 days ago"),
    ],
)
def test_a_drill_in_words(passed: float | None, expected: str) -> None:
    now = 4.0 * 86400
    last = {"outcome": "failed", "exit_code": 3, "time": now - 7200, "passed_time": passed}
    if passed == 0:
        last |= {"outcome": "passed", "exit_code": 0, "passed_time": now - 7200}
    assert drill_text(last, now) == expected
