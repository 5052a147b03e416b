from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.errors import error_of
from duplexd.printable import joined, only_text, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nightly, ü 夜", "nightly, ü 夜"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # an escape sequence of one character
        ("a\r\nforged", r"a\r\nforged"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_does_not_print_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.lists(st.text()))
def test_a_text_has_as_many_lines_as_it_was_made_of(lines: list[str]) -> None:
    text = joined(lines)
    assert len(text.splitlines()) <= len(lines)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert only_text(text) == text


@given(st.text())
def test_json_is_not_changed(text: str) -> None:
    assert only_text(json.dumps({"tag": text})) == json.dumps({"tag": text})


def test_the_error_of_another_machine_is_one_line() -> None:
    assert str(error_of({"detail": "no\n\x1b[2Jforged"}, "beta")) == r"beta: no\n\x1b[2Jforged"
