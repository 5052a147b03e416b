"""Keys: what they are in bytes, and what they do."""

from __future__ import annotations

import pytest

from duplexd.duplexctl.top.keyboard import Decoder
from duplexd.duplexctl.top.position import GROUP, SORTS, VOLUME, Item, Position, marked, press

ITEMS = [Item(VOLUME, "data"), Item(VOLUME, "wal"), Item(GROUP, "db")]


def pressed(*keys: str, items: list[Item] | None = None) -> Position:
    position = Position()
    for key in keys:
        position = press(position, key, ITEMS if items is None else items)
    return position


def test_down_and_up_stay_on_the_list() -> None:
    assert marked(pressed("up"), ITEMS) == 0
    assert marked(pressed("down", "down", "down", "down"), ITEMS) == 2
    assert marked(pressed("down", "down", "up"), ITEMS) == 1
    assert marked(pressed("end"), ITEMS) == 2
    assert marked(pressed("end", "home"), ITEMS) == 0


def test_the_selection_follows_its_row_to_another_place() -> None:
    position = pressed("down")
    assert marked(position, list(reversed(ITEMS))) == 1
    assert press(position, "enter", [ITEMS[2], ITEMS[0], ITEMS[1]]).at == Item(VOLUME, "wal")


def test_a_row_that_is_gone_selects_the_first() -> None:
    assert marked(pressed("down"), [ITEMS[0], ITEMS[2]]) == 0


def test_back_selects_what_was_left() -> None:
    position = pressed("end", "enter")
    assert position.at == Item(GROUP, "db")
    position = press(press(position, "down", ITEMS[:2]), "enter", ITEMS[:2])
    assert position.trail == (Item(GROUP, "db"), Item(VOLUME, "wal"))
    position = press(position, "back", [])
    assert (position.at, position.selected) == (Item(GROUP, "db"), Item(VOLUME, "wal"))
    assert press(press(position, "back", ITEMS), "back", ITEMS).trail == ()


def test_details_are_scrolled() -> None:
    position = press(pressed("enter"), "down", [])
    assert position.scrolled == 1
    assert press(press(position, "up", []), "up", []).scrolled == 0


def test_enter_with_nothing_to_open_does_nothing() -> None:
    assert pressed("enter", items=[]).trail == ()


def test_s_goes_through_all_orders() -> None:
    orders = [pressed(*["sort"] * count).sort for count in range(len(SORTS) + 1)]
    assert orders == [*SORTS, SORTS[0]]


def test_help_is_left_by_any_key_and_quit_quits_everywhere() -> None:
    assert pressed("help").helping
    assert not pressed("help", "other").helping
    assert pressed("help", "quit").leaving
    assert pressed("enter", "quit").leaving


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"\x1b[A\x1b[Bkj", ["up", "down", "up", "down"]),
        (b"\x1bOA\x1bOB\r\n", ["up", "down", "enter", "enter"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F", ["page up", "page down", "home", "end"]),
        (b"bs?q", ["back", "sort", "help", "quit"]),
        (b"\x1b[1;5Cq", ["other", "quit"]),  # its letters are no keys
        (b"\x1b\x1b[A", ["back", "up"]),
        (b"\xc3\xa4x\x00", ["other"] * 4),
    ],
)
def test_bytes_are_keys(data: bytes, keys: list[str]) -> None:
    assert Decoder().feed(data) == keys
    decoder = Decoder()
    assert [key for each in data for key in decoder.feed(bytes([each]))] == keys


def test_a_lone_escape_is_a_key_once_nothing_follows() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.waiting
    assert decoder.end() == ["back"]
    assert not decoder.waiting


def test_a_sequence_may_come_in_parts() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b[") == []
    assert decoder.feed(b"A") == ["up"]
