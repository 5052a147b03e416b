"""Status and other texts for people."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from duplexd.duplexctl import texts, views
from tests.support.fake_controller import FakeController

CUT = {"id": "c7", "sequence": 7, "time": 1.0, "tag": "", "verdict": "consistent"}

GROUP = {
    "name": "all",
    "members": ["a:x", "b:y", "c:z"],
    "state": "SUSPENDED",
    "verdict": "consistent",
    "cut": "0123456789abcdef",
}


CUT_WITHOUT_VERDICT = {"id": "c" * 16, "sequence": 1, "time": 1.0}


def status_of(count: int) -> dict[str, Any]:
    names = [f"vol{number:04}" for number in range(count)]
    return FakeController(
        names, {f"g{number}": names[number : number + 2] for number in range(0, count, 20)}
    ).status()


def test_a_small_status_lists_every_volume() -> None:
    text = views.ControllerView(status_of(5), 24).text()
    assert all(f"vol000{number}" in text for number in range(5))
    assert "not listed" not in text


@pytest.mark.parametrize("lines", [12, 24, 50])
def test_a_thousand_volumes_fit_one_screen_and_are_counted(lines: int) -> None:
    text = views.ControllerView(status_of(1000), lines).text()
    assert len(text.splitlines()) < lines
    assert "1000 of 1000 volumes not listed (1000 DUPLEX); name one, or use --all" in text


def test_of_a_thousand_volumes_those_that_are_not_well_are_listed() -> None:
    status = status_of(1000)
    status["volumes"][700] |= {"state": "SUSPENDED", "reason": "secondary error"}
    status["volumes"][800]["held"] = True
    text = views.ControllerView(status, 24).text()
    assert "vol0700" in text
    assert "secondary error" in text
    assert "vol0800" in text
    assert "998 of 1000" in text


def test_the_journal_is_as_full_as_it_cannot_be_written_over() -> None:
    status = status_of(1)
    status["controller"]["journal"] |= {"used_bytes": 9 << 20, "pinned_bytes": 2 << 20}
    assert "journal 2.0 MiB of 16.0 MiB" in views.head_line(status)


def test_the_first_line_names_a_pair_that_differs() -> None:
    status = status_of(3)
    status["volumes"][1]["differs"] = {"text": "the legs differ in 4.0 KiB"}
    assert views.head_line(status).startswith("DEGRADED: the legs of vol0001 differ: ")


def test_more_troubles_than_lines_still_fit() -> None:
    status = status_of(1000)
    for volume in status["volumes"]:
        volume["state"] = "SUSPENDED"
    view = views.ControllerView(status, 24)
    assert len(view.text().splitlines()) < 24
    assert f"{1000 - len(view.rows)} SUSPENDED" in view.text()


def test_all_means_all() -> None:
    assert len(views.ControllerView(status_of(1000), None).rows) == 1000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"state": "SUSPENDED", "secondary": {"usable": True, "cut": CUT}}, "cut c7"),
        (
            {"state": "SUSPENDED", "secondary": {"usable": True, "cut": CUT | {"tag": "nightly"}}},
            "cut c7 (nightly)",
        ),
        (
            {
                "state": "SUSPENDED",
                "secondary": {"usable": True, "cut": CUT | {"tag": "ü\n\x1b[31m"}},
            },
            "cut c7 (ü\\n\\x1b[31m)",
        ),
        (
            {"state": "SUSPENDED", "secondary": {"usable": True, "cut": CUT | {"verdict": "void"}}},
            "VOID cut c7",
        ),
        (
            {"state": "SUSPENDED", "secondary": {"usable": True, "cut": CUT | {"verdict": None}}},
            "not yet durable, cut c7",
        ),
        (
            {
                "state": "SUSPENDED",
                "secondary": {"usable": True, "cut": None, "as_of_sequence": 12},
            },
            "at 12",
        ),
        ({"state": "DUPLEX", "secondary": {"usable": True, "lag_bytes": 2048}}, "2.0 KiB behind"),
        ({"state": "PENDING", "secondary": {"usable": False}}, "not usable"),
        ({"state": "SIMPLEX", "secondary": None}, "-"),
    ],
)
def test_what_is_said_of_a_secondary(change: dict[str, Any], text: str) -> None:
    assert views.secondary_text(status_of(1)["volumes"][0] | change) == text


def test_a_copy_says_how_far_and_how_long() -> None:
    assert (
        texts.copy_text({"done_bytes": 1 << 20, "total_bytes": 4 << 20, "eta_s": 12.3})
        == "25 % of 4.0 MiB, 12 s left"
    )
    assert texts.copy_text({"done_bytes": 0, "total_bytes": 0, "eta_s": None}) == "100 % of 0 B"


def test_the_table_in_colour_has_the_same_words_as_the_text() -> None:
    status = status_of(3)
    status["volumes"][1] |= {"state": "SUSPENDED", "reason": "[by command]"}  # not markup
    out = io.StringIO()
    Console(file=out, width=160).print(views.ControllerView(status, 24).renderable())
    assert out.getvalue().split() == views.ControllerView(status, 24).text().split()


def test_an_event_of_unknown_shape_is_shown_whole() -> None:
    text = texts.event_text(
        {"event": "novelty", "time": 0, "sequence": 4, "volumes": ["a", "b"], "odd": {"x": 1}}
    )
    assert text == "1970-01-01T00:00:00.000000Z novelty sequence 4, odd x 1, volumes a,b"


def test_a_controller_that_failed_says_so_first() -> None:
    status = status_of(1)
    status["controller"]["failed"] = "the journal could not be synced"
    assert views.head_line(status).startswith("FAILED: the journal could not be synced")


def test_of_many_legs_those_that_differ_are_listed_and_the_others_counted() -> None:
    rows = [
        {
            "name": f"v{number}",
            "equal": number not in {7, 8},
            "compared_bytes": 1 << 20,
            "first_difference": 5,
        }
        for number in range(500)
    ]
    rows[8]["why"] = "/b/v8.img: gone"
    assert texts.verified_text(rows).splitlines() == [
        "v7: THE LEGS DIFFER, first at byte 5 (1.0 MiB compared)",
        "v8: NOT EQUAL: /b/v8.img: gone",
        "498 volumes: the legs are equal (498.0 MiB compared)",
    ]
    assert len(texts.verified_text(rows[: texts.LISTED_MAX]).splitlines()) == texts.LISTED_MAX


def test_of_what_was_not_compared_no_leg_is_called_equal() -> None:
    """All of a suspended volume, or a part of it, has changed since its cut."""
    rows: list[dict[str, Any]] = [
        {"name": "all", "equal": None, "compared_bytes": 0, "changed_bytes": 4096},
        {"name": "part", "equal": True, "compared_bytes": 8192, "changed_bytes": 4096},
    ]
    nothing = "all: NOTHING COMPARED: all of it may have changed since its cut"
    left = "4.0 KiB not, as it may have changed since the cut"
    part = f"part: the legs are equal (8.0 KiB compared, {left})"
    assert texts.verified_text(rows).splitlines() == [nothing, part]
    assert texts.verified_text(rows[:1] + rows[1:] * 30).splitlines() == [
        nothing,
        "30 volumes: the legs are equal (240.0 KiB compared)",
    ]


def test_of_many_resyncs_those_that_failed_are_listed_and_the_others_counted() -> None:
    rows = [
        {
            "name": f"v{number}",
            "how": "map" if number else "copy",
            "state": "DUPLEX",
            "copied_bytes": 1 << 20,
        }
        for number in range(500)
    ]
    rows[3] |= {"state": "SUSPENDED", "reason": "by secondary error"}
    assert texts.resync_text(rows) == "1 volume: full copy\n499 volumes: resync by change map"
    assert texts.resynced_text(rows).splitlines() == [
        "v3: SUSPENDED (by secondary error), 1.0 MiB copied",
        "499 volumes: DUPLEX, 499.0 MiB copied",
    ]
    few = rows[: texts.LISTED_MAX]
    assert (
        len(texts.resync_text(few).splitlines())
        == len(texts.resynced_text(few).splitlines())
        == texts.LISTED_MAX
    )


def drawn(view: views.View, width: int, height: int) -> list[str]:
    """What a screen of that size shows of a view that is watched."""
    console = Console(file=io.StringIO(), width=width, height=height)
    lines = console.render_lines(view.renderable(watched=True), pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


@pytest.mark.parametrize(("width", "height"), [(60, 12), (40, 10), (200, 30)])
def test_a_small_screen_that_is_watched_shows_the_groups(width: int, height: int) -> None:
    status = FakeController(
        [f"volume-with-a-name-{number}" for number in range(50)],
        {"db": ["volume-with-a-name-1"], "web": []},
    ).status()
    for volume in status["volumes"]:
        volume |= {"state": "SUSPENDED", "reason": "by secondary error"}
    shown = drawn(views.ControllerView(status, height), width, height)
    assert len(shown) < height
    assert shown[0].startswith("controller fake")
    assert any(line.startswith("group db: ") for line in shown)
    assert any(line.startswith("group web: ") for line in shown)
    several = {
        "controllers": dict.fromkeys("abc", status),
        "unreachable": {},
        "exit_codes": {},
        "groups": [GROUP],
    }
    assert drawn(views.StatusView(several, height, of_groups=True), width, height)[0].startswith(
        "group all: SUSPENDED"
    )


def test_what_is_no_screen_gets_every_volume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "10")
    views.show(views.ControllerView(status_of(100), views.screen_lines()))
    out = capsys.readouterr().out
    assert "vol0099" in out
    assert "not listed" not in out


@pytest.mark.parametrize(("no_color", "escapes"), [("", True), ("1", False)])
def test_without_colour_nothing_is_bold_either(
    no_color: str, escapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = views.console()
    console.file = out = io.StringIO()
    console.print(views.ControllerView(status_of(3), 24).renderable())
    assert ("\x1b" in out.getvalue()) == escapes


def test_the_fields_of_an_event_are_one_line_and_move_no_cursor() -> None:
    event = {"event": "suspended", "time": 0, "tag": "\x1b[2J\r\n1970 forged", "volumes": ["a"]}
    text = texts.event_text(event)
    assert text == (r"1970-01-01T00:00:00.000000Z suspended tag \x1b[2J\r\n1970 forged, volumes a")


def test_a_name_in_a_coloured_status_moves_no_cursor() -> None:
    status = status_of(1)
    status["leases"] = [{"id": "1", "volumes": [], "owner": "certificate \x1b[2J"}]
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(views.ControllerView(status, None).renderable())
    assert isinstance(console.file, io.StringIO)
    assert r"certificate \x1b[2J" in console.file.getvalue()


def test_the_first_line_of_events_moves_no_cursor() -> None:
    status = status_of(1)
    status["controller"]["failed"] = "gone\n\x1b[2Jcontroller alpha is well"
    text = texts.event_text({"event": "state"}, views.head_line(status))
    assert r"gone\n\x1b[2Jcontroller" in text


@pytest.mark.parametrize("moment", [1e15, -1e15, 2**63])
def test_a_time_of_no_calendar_is_shown_as_a_number(moment: float) -> None:
    event = {"event": "suspended", "time": moment}
    assert texts.event_text(event) == f"{moment} suspended"


@pytest.mark.parametrize(
    "strange",
    [
        {"state": ""},
        {"state": "SUSPENDED", "secondary": None, "rebuild": {"possible": False}},
        {"state": "SUSPENDED", "secondary": {"usable": True, "cut": CUT_WITHOUT_VERDICT}},
    ],
)
def test_a_volume_that_no_daemon_of_ours_has_is_shown(strange: dict[str, Any]) -> None:
    status = status_of(1)
    status["volumes"][0] |= strange
    shown = views.ControllerView(status, 24)
    assert status["volumes"][0]["name"] in shown.text()
    assert drawn(shown, 100, 24)
