"""What the second reader says, and what becomes of the backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplexd.backup import copies, second_reader
from duplexd.errors import DuplexdError, LeaseLostError
from duplexd.verify_cut.report import FOUND, MemberReport, Report, VolumeReport


def report(**fields: object) -> Report:
    member = MemberReport("alpha", record=FOUND, volumes=[VolumeReport("data", 8, checked_bytes=8)])
    for name, value in fields.items():
        setattr(member, name, value)
    return Report("c", "db", "consistent", controllers=[member])


def test_a_cut_that_the_journal_confirms_is_confirmed() -> None:
    assert second_reader.check(report()) == "confirmed"


@pytest.mark.parametrize(
    ("fields", "outcome"), [({"record": "absent"}, "unchecked"), ({"volumes": []}, "recorded")]
)
def test_what_cannot_be_read_here_is_no_error(fields: dict[str, object], outcome: str) -> None:
    assert second_reader.check(report(**fields)) == outcome


def test_a_contradiction_is_no_backup() -> None:
    with pytest.raises(DuplexdError, match=r"contradicts the cut, .*: other bytes"):
        second_reader.check(report(contradictions=["other bytes"]))


def test_a_void_cut_is_no_backup() -> None:
    with pytest.raises(LeaseLostError, match="void: it failed"):
        second_reader.check(report(void=["it failed"]))


def test_a_disk_that_is_too_small_is_refused_before_it_is_filled() -> None:
    copies.check_room(100, 100, Path("/d"))
    with pytest.raises(DuplexdError, match="/d: a backup takes up to 101 B, and 100 B are free"):
        copies.check_room(101, 100, Path("/d"))
