"""What is on the screen: never green without reason, whatever its size and the names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from duplexd.duplexctl.top.frame import frame, plain, scrolled_max
from duplexd.duplexctl.top.lines import style_of, text_of
from duplexd.duplexctl.top.listing import items
from duplexd.duplexctl.top.moment import for_terminal, moment
from duplexd.duplexctl.top.overview import overview
from duplexd.duplexctl.top.position import SORTS, Item, Position, press
from tests.unit.duplexctl.top.looks import CUT, NOW, finding, look, metrics, seen

if TYPE_CHECKING:
    from duplexd.duplexctl.top.lines import Line
    from duplexd.duplexctl.top.overview import Overview
    from duplexd.json_object import Json

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\u202e\u0085\x9b31m"
MANY = [f"vol{number:04}" for number in range(1000)]
USABLE = {"usable": True, "as_of_sequence": 6, "as_of_time": 1.0, "lag_bytes": 0, "path": "/b/x"}
SUSPENDED: Json = {
    "state": "SUSPENDED",
    "reason": "by command",
    "secondary": {**USABLE, "cut": CUT},
}


def green(lines: list[Line]) -> list[str]:
    return [span.text.strip() for each in lines for span in each if "green" in style_of(span.style)]


def shown(overview: Overview, position: Position | None = None) -> str:
    return "\n".join(plain(overview, position or Position()))


def screen(overview: Overview, position: Position, width: int = 80, height: int = 24) -> str:
    return "\n".join(text_of(each) for each in frame(overview, position, width, height))


# ------------------------------------------------------------------------------------------ green


def test_green_is_what_is_well_and_duplex() -> None:
    assert green(frame(seen(look()), Position(), 80, 24)) == ["well: 2 volumes", "DUPLEX", "DUPLEX"]


@pytest.mark.parametrize(
    ("overview", "left"),
    [
        (seen(look(findings=[finding("data")])), ["DUPLEX"]),
        (seen(look(findings=[finding("data", "warning")])), ["DUPLEX"]),
        (seen(look(findings=[finding()])), []),
        (seen(look(findings=[finding("data"), finding("wal", "warning")])), []),
        (seen(look(), silent="NO ANSWER for 3 s"), []),
    ],
)
def test_nothing_is_green_that_health_speaks_against(overview: Overview, left: list[str]) -> None:
    assert green(frame(overview, Position(), 80, 24)) == left
    inside = green(frame(overview, Position(trail=(Item("volume", "data"),)), 80, 24))
    assert inside == []


def test_nothing_is_green_if_health_did_not_answer() -> None:
    overview = seen(replace(look(), findings=None, missing=["health is not known: it broke off"]))
    assert green(frame(overview, Position(), 80, 24)) == []
    assert "HEALTH NOT KNOWN" in shown(overview)
    assert "health is not known: it broke off" in shown(overview)


@pytest.mark.parametrize(
    "first",
    [
        SUSPENDED,
        {"state": "PENDING"},
        {"state": "SIMPLEX", "secondary": None},
        {"served": False, "error": "the image is missing"},
        {"held": True},
        {"failing": {"read": "Input/output error"}},
        {"differs": {"text": "the legs differ in 4.0 KiB"}},
        {"secondary": {**USABLE, "usable": False}},
        {"secondary": {**USABLE, "error": "Input/output error"}},
    ],
)
def test_a_volume_is_green_only_if_its_status_is_good_too(first: Json) -> None:
    """Health is asked later than status, so that one of them may be the older one."""
    overview = seen(look(["data"], **first))
    assert "DUPLEX" not in green(frame(overview, Position(), 80, 24))
    assert "DUPLEX" not in green(frame(overview, Position(trail=(Item("volume", "data"),)), 80, 24))


def test_a_cut_is_never_green_and_a_void_one_is_red() -> None:
    overview = seen(look(cuts=[CUT, {**CUT, "id": "d" * 16, "verdict": "void"}], **SUSPENDED))
    styles = {
        span.text.strip(): span.style
        for each in frame(overview, Position(), 120, 30)
        for span in each
    }
    assert styles["VOID"] == "error"
    assert styles["consistent"] == ""


# ------------------------------------------------------------------------------------ what is said


def test_rates_latencies_lag_and_cuts_have_their_columns() -> None:
    before, now = look(text=metrics("data", 100, 100)), look(text=metrics("data", 400, 100))
    text = shown(seen(now, before=before))
    (row,) = [line for line in text.splitlines() if line.startswith("  data")]
    assert row.split() == ["data", "DUPLEX", "0", "30", "0", "120.0K", "-", "9.9ms", "current"]


def test_a_copy_says_how_far_it_is() -> None:
    copy = {"done_bytes": 420, "total_bytes": 1000, "eta_s": 12.0}
    overview = seen(look(state="PENDING", copy=copy))
    assert "copy 42 %, 12 s left" in shown(overview)
    inside = shown(overview, Position(trail=(Item("volume", "data"),)))
    assert "copy [############------------------] 42 % of 1000 B, 12 s left" in inside


def test_a_lag_is_said_in_bytes_and_once_it_is_old_in_seconds() -> None:
    behind: Json = {"secondary": {**USABLE, "lag_bytes": 3 << 20}}
    assert "3.0M behind" in shown(seen(look(**behind)))
    text = 'duplexd_secondary_lag_seconds{volume="data"} 7.2\n'
    assert "3.0M, 7s behind" in shown(seen(look(text=text, **behind)))


def test_a_cut_is_shown_with_verdict_and_age() -> None:
    void = {**CUT, "verdict": "void"}
    text = shown(seen(look(cuts=[void], state="SUSPENDED", secondary={**USABLE, "cut": void})))
    assert "VOID, 2 h old" in text
    (row,) = [line for line in text.splitlines() if line.startswith("  " + "c" * 16)]
    assert row.split() == ["c" * 16, "VOID", "2", "h", "nightly", "data"]


def test_a_cut_without_verdict_is_undecided() -> None:
    undecided = {**CUT, "verdict": None}
    secondary = {**USABLE, "cut": undecided}
    assert "undecided, 2 h old" in shown(seen(look(state="SUSPENDED", secondary=secondary)))


def test_the_cuts_of_what_is_open_are_those_that_were_made_of_it() -> None:
    left = {**CUT, "volumes": []}  # no secondary is at it any more
    for item in (Item("volume", "wal"), Item("group", "db")):
        inside = Position(trail=(item,))
        assert "nightly" in shown(seen(look(cuts=[left], cuts_of=item.name)), inside)
        assert "nightly" not in shown(seen(look(cuts=[left])), inside), "these are of all volumes"


def test_a_cut_names_the_volumes_whose_secondaries_are_at_it() -> None:
    now = look(["data", "wal"], cuts=[CUT, {**CUT, "id": "d" * 16}], **SUSPENDED)
    assert [cut.volumes for cut in seen(now).cuts] == [("data",), ()]


def test_errors_come_first_and_are_counted() -> None:
    found = [finding("data", "error", "it is not served"), finding("wal", "warning", "it is slow")]
    text = shown(seen(look(findings=found)))
    assert "NOT WELL: 1 error, 1 warning, 2 volumes" in text
    assert text.index("ERROR: data: it is not served") < text.index("WARNING: wal: it is slow")


def test_a_silent_daemon_is_said_with_the_age_of_what_is_shown() -> None:
    text = shown(seen(look(), silent="NO ANSWER for 12 s"))
    assert "NO ANSWER for 12 s; this is as of 08:00:00Z" in text
    assert "well" not in text


def test_a_group_shows_its_volumes_and_what_is_about_them() -> None:
    found = [finding("data"), finding("wal", "warning", "it is slow"), finding("", text="it waits")]
    look_at = look(["data", "wal"], found)
    look_at.status["groups"] = [{"name": "logs", "volumes": ["wal"], "state": "DUPLEX"}]
    text = shown(seen(look_at), Position(trail=(Item("group", "logs"),)))
    assert "group logs: DUPLEX" in text
    assert "it is slow" in text
    assert "it waits" in text
    assert "data" not in text


def test_details_show_paths_errors_and_every_operation() -> None:
    secondary = {**USABLE, "path": "/b/data.img", "error": "Input/output error"}
    now = look(text=metrics("data", 10, 10), secondary=secondary)
    text = shown(
        seen(now, before=look(text=metrics("data", 0, 0))),
        Position(trail=(Item("volume", "data"),)),
    )
    for said in ("primary /a/data.img", "secondary /b/data.img", "Input/output error", "write"):
        assert said in text


def test_a_volume_that_is_no_longer_there_is_said() -> None:
    text = shown(seen(look()), Position(trail=(Item("volume", "gone"),)))
    assert "there is no volume gone any more" in text


@pytest.mark.parametrize(("sort", "first"), list(zip(SORTS, "cabbd", strict=True)))
def test_the_order_of_volumes(sort: str, first: str) -> None:
    names = ["a", "b", "c", "d"]
    now = look(names, [finding("c")], text=metrics("b", 10, 0))
    now.status["volumes"][3]["secondary"]["lag_bytes"] = 1
    overview = seen(now, before=look(names, text=metrics("b", 0, 0)))
    assert items(overview, Position(sort=sort))[0] == Item("volume", first)


# --------------------------------------------------------------------------------- any screen


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_control_character_reaches_the_terminal(encoding: str) -> None:
    secondary = {**USABLE, "path": HOSTILE, "error": HOSTILE, "cut": {**CUT, "tag": HOSTILE}}
    found = look(
        ["data", HOSTILE],
        [finding(HOSTILE, text=HOSTILE)],
        [{**CUT, "tag": HOSTILE + "日本"}],
        state="SUSPENDED",
        reason=HOSTILE,
        secondary=secondary,
    )
    found.status["controllers"] = {HOSTILE: {"controller": {"name": HOSTILE}}}
    found = replace(found, missing=[HOSTILE])
    overview = seen(found, silent="", encoding=encoding)
    trails = [(), *((item,) for item in items(overview, Position()))]
    assert len(trails) == 4
    for trail in trails:
        for each in frame(overview, Position(trail=trail), 300, 60):
            assert text_of(each).isprintable()
            text_of(each).encode(encoding)
    assert "\\x1b]0;title\\x07" in shown(overview)


def test_what_the_terminal_has_no_character_for_is_an_escape() -> None:
    found = look(findings=[finding(text="日 café")])
    assert "\\u65e5 café" in shown(seen(found, encoding="latin-1"))
    assert "\\u65e5 caf\\xe9" in shown(seen(found, encoding="ascii"))
    assert "日 café" in shown(seen(found))


@pytest.mark.parametrize("width", [1, 2, 7, 20, 40, 79, 80, 133])
def test_a_frame_fits_any_screen(width: int) -> None:
    wide = "日本語のボリューム" * 3
    found = [finding("vol0001", text="word " * 40), *(finding(name) for name in MANY[2:20])]
    many = seen(look([wide, *MANY[:60]], found, [{**CUT, "tag": wide}] * 9, **SUSPENDED))
    positions = [
        Position(),
        Position(helping=True),
        Position(trail=(Item("volume", wide),), scrolled=4),
        Position(trail=(Item("group", "db"),)),
        Position(selected=Item("group", "db")),
    ]
    for position in positions:
        for height in (1, 2, 3, 5, 10, 24, 50):
            lines = frame(many, position, width, height)
            assert len(lines) == height
            assert max(cell_len(text_of(each)) for each in lines) <= width


@pytest.mark.parametrize("height", [6, 10, 24])
def test_what_is_selected_is_on_the_screen(height: int) -> None:
    overview = seen(look(MANY, [finding(name) for name in MANY[:9]], [CUT]))
    position = Position()
    for key in ("down", "page down", "end", "up", "up", "home"):
        position = press(position, key, items(overview, position))
        kind_and_name = position.selected
        assert kind_and_name is not None
        assert f"> {kind_and_name.name}" in screen(overview, position, height=height)


def test_of_a_thousand_volumes_the_one_that_is_not_well_is_the_first() -> None:
    text = screen(seen(look(MANY, [finding("vol0700", text="it is broken")])), Position())
    assert "> vol0700" in text
    assert "ERROR: vol0700: it is broken" in text


def test_on_eighty_columns_state_rates_and_the_secondary_are_there() -> None:
    head = screen(seen(look()), Position()).splitlines()[2]
    for column in ("VOLUME", "STATE", "READ/s", "WRITE/s", "READ99", "WRITE99", "SECONDARY"):
        assert column in head


def test_a_small_screen_has_health_and_the_selected_volume() -> None:
    text = screen(seen(look(findings=[finding("wal")])), Position(), 40, 6)
    assert "NOT WELL: 1 error" in text
    assert "ERROR: wal" in text
    assert "> wal" in text


def test_more_alerts_than_room_are_counted() -> None:
    text = screen(seen(look(MANY, [finding(name) for name in MANY[:50]])), Position())
    assert "ERROR: vol0000" in text
    assert "more; `duplexctl health` lists them" in text


def test_an_age_is_as_of_now_and_not_of_the_look() -> None:
    shown_at = for_terminal("utf-8")
    now = moment(look(cuts=[CUT]), 20.0, NOW, shown_at)
    assert overview(None, now, "", NOW + 3600).cuts[0].age_s == 3 * 3600


def test_details_are_scrolled_to_their_last_line() -> None:
    overview = seen(look(**SUSPENDED))
    position = Position(trail=(Item("volume", "data"),))
    most = scrolled_max(overview, position, 80)
    end = press(position, "end", items(overview, position), most)
    assert shown(overview, end).splitlines()[-1] == shown(overview, position).splitlines()[-1]
    assert shown(overview, end) != shown(overview, end._replace(scrolled=most - 1))
    assert scrolled_max(overview, Position(), 80) == 0
