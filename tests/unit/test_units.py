from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("512B", 512),
        ("64KiB", 64 * KIB),
        ("64 MiB", 64 * MIB),
        (" 1.5GiB ", 3 * GIB // 2),
        ("0.25k", 256),
        ("2t", 2 * TIB),
        ("10g", 10 * GIB),
        ("1.0000000000TiB", TIB),
        ("9007199254740993", 9007199254740993),  # more than a float holds
    ],
)
def test_a_size_is_read(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10 bananas",
        "-5MiB",
        "5MB",
        "MiB",
        "1e3",
        "0x10",
        "1,5GiB",
        "1.GiB",
        "٣MiB",
        "9" * 400,
        "9" * 400 + ".0",
    ],
)
def test_text_that_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example"):
        parse_size(text)


@pytest.mark.parametrize("value", [True, 1.5, None, [], {}])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)


def test_a_part_of_a_byte_is_refused_with_its_neighbours() -> None:
    with pytest.raises(
        ValueError, match=r"'0\.1KiB' is not a whole number of bytes; write for example 102 or 103"
    ):
        parse_size("0.1KiB")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB - 1, "1.0 MiB"),
        (64 * MIB, "64.0 MiB"),
        (GIB, "1.0 GiB"),
        (TIB, "1.0 TiB"),
        (5000 * TIB, "5000.0 TiB"),
    ],
)
def test_a_size_is_written_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 62))
def test_what_is_written_can_be_read_and_is_near(size: int) -> None:
    assert parse_size(str(size)) == size
    text = format_size(size)
    unit = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}[text.split()[1]]
    assert abs(float(text.split()[0]) * unit - size) <= 0.06 * unit + size * 1e-12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("8h", 28800),
        ("7d", 604800),
        ("1.5h", 5400),
        (60, 60),
        (0.5, 0.5),
    ],
)
def test_a_time_has_a_unit_or_is_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "8 hours", True, None, "1e3", float("nan")])
def test_what_is_not_a_time_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='write for example "90m"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172800, "2 days"),
    ],
)
def test_a_time_is_shown_in_one_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
