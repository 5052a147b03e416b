"""Which backups are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.backup.retention import Dated, Part, chain, free, parse, surplus

BEGIN = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
PARTS = st.lists(
    st.builds(Part, st.integers(1, 9), st.sampled_from(["", "d", "w", "m", "y"])),
    min_size=1,
    max_size=4,
)
BACKUPS = st.lists(st.integers(0, 3 * 366 * 24), unique=True, min_size=1, max_size=60).map(
    lambda hours: [Dated(f"{each:06}", BEGIN + timedelta(hours=each)) for each in hours]
)


def nightly(nights: int) -> list[Dated]:
    return [Dated(f"{night:04}", BEGIN + timedelta(days=night)) for night in range(nights)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("5", (Part(5, ""),)),
        ("7d,4w,6m", (Part(7, "d"), Part(4, "w"), Part(6, "m"))),
        ("1y, 2", (Part(1, "y"), Part(2, ""))),
    ],
)
def test_a_rule_is_read(text: str, parts: tuple[Part, ...]) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize("text", ["", "0", "0d", "-1", "7h", "7d,", "d", "7 days", "123456"])
def test_a_rule_that_keeps_nothing_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not say what to keep"):
        parse(text)


def test_a_number_keeps_the_newest() -> None:
    assert surplus(parse("5"), nightly(7)) == ["0000", "0001"]


def test_of_a_day_the_newest_is_kept() -> None:
    hourly = [Dated(f"{hour}", BEGIN + timedelta(hours=hour)) for hour in range(48)]
    removed = surplus(parse("2d"), hourly)
    assert sorted({"21", "45", "47"} - set(removed)) == ["45", "47"]


def test_days_weeks_and_months_add_up() -> None:
    """A year of nights: 7 days, then ends of weeks, then ends of months."""
    backups = nightly(365)
    removed = set(surplus(parse("7d,4w,6m"), backups))
    kept = [each.time.date() for each in backups if each.name not in removed]
    assert [day.isoformat() for day in kept] == [
        "2026-07-31", "2026-08-31", "2026-09-30", "2026-10-31", "2026-11-30",
        "2026-12-13", "2026-12-20", "2026-12-25", "2026-12-26", "2026-12-27", "2026-12-28",
        "2026-12-29", "2026-12-30", "2026-12-31",
    ]  # fmt: skip


def test_days_without_a_backup_do_not_count() -> None:
    old = nightly(3)
    assert surplus(parse("3d"), [*old, Dated("new", BEGIN + timedelta(days=90))]) == ["0000"]


@given(parts=PARTS, backups=BACKUPS)
def test_the_newest_is_always_kept(parts: list[Part], backups: list[Dated]) -> None:
    newest = max(backups, key=lambda each: each.time)
    assert newest.name not in surplus(parts, backups)


@given(parts=PARTS, backups=BACKUPS)
def test_what_was_kept_is_kept_when_the_rule_is_applied_again(
    parts: list[Part], backups: list[Dated]
) -> None:
    removed = set(surplus(parts, backups))
    assert surplus(parts, [each for each in backups if each.name not in removed]) == []


@given(parts=PARTS, backups=BACKUPS)
def test_each_part_of_a_rule_only_adds(parts: list[Part], backups: list[Dated]) -> None:
    together = set(surplus(parts, backups))
    assert all(together <= set(surplus([part], backups)) for part in parts)


# ------------------------------------------------------------------------------------- chains

CHAINED = {"2": "1", "3": "2", "5": "4"}  # 1 and 4 are full ones


def test_a_chain_ends_at_a_full_one_or_where_something_is_missing_or_runs_in_a_circle() -> None:
    assert chain("3", CHAINED) == ["3", "2", "1"]
    assert chain("1", CHAINED) == ["1"]
    assert chain("7", {"7": "6"}) == ["7", "6"]
    assert chain("a", {"a": "b", "b": "a"}) == ["a", "b"]


def test_what_one_that_stays_lies_on_is_not_free() -> None:
    assert free(["1", "2", "4"], CHAINED, ["3", "5"]) == []
    assert free(["1", "2", "4"], CHAINED, ["5"]) == ["2", "1"]


def test_none_is_removed_before_those_that_lie_on_it() -> None:
    assert free(["1", "2", "3", "4", "5"], CHAINED, []) == ["3", "2", "5", "1", "4"]


@given(
    links=st.lists(st.integers(0, 30), max_size=30),
    going=st.sets(st.integers(0, 30)),
)
def test_whatever_is_removed_in_that_order_no_chain_is_ever_broken(
    links: list[int], going: set[int]
) -> None:
    bases = {
        str(number): str(link % number)
        for number, link in enumerate(links, 1)
        if link % 3  # others are full ones
    }
    there = {str(number) for number in range(len(links) + 1)}
    names = sorted(there & {str(each) for each in going})
    for name in free(names, bases, sorted(there - set(names))):
        there.remove(name)
        assert all(base in there for each, base in bases.items() if each in there)
    assert there >= {str(number) for number in range(len(links) + 1)} - set(names)
