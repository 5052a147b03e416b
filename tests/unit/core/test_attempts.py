"""When something is tried again: at once never, then after pauses that grow, and shrink again."""

from __future__ import annotations

import pytest

from duplexd.core.attempts import GOOD, UNDER_WAY, WANTED, Attempts

FIRST, LONGEST, CALM = 1.0, 300.0, 60.0


class Life:
    """One name, asked about once a second; `tried` are the seconds of its attempts."""

    def __init__(self) -> None:
        self.attempts = Attempts(FIRST, LONGEST, CALM)
        self.now = 0.0
        self.tried: list[float] = []

    def pass_(self, seconds: int, state: str) -> None:
        for _ in range(seconds):
            if self.attempts.due({"data": state}, self.now):
                self.tried.append(self.now)
            self.now += 1.0


def test_pauses_double_up_to_the_longest() -> None:
    life = Life()
    life.pass_(2000, WANTED)
    gaps = [after - before for before, after in zip(life.tried, life.tried[1:], strict=False)]
    assert life.tried[0] == FIRST
    assert gaps[:9] == [3.0, 5.0, 9.0, 17.0, 33.0, 65.0, 129.0, 257.0, 301.0]
    assert set(gaps[8:]) == {301.0}


def test_nothing_is_tried_while_an_attempt_is_under_way() -> None:
    life = Life()
    life.pass_(2, WANTED)
    life.pass_(1000, UNDER_WAY)
    assert life.tried == [1.0]


def test_one_that_failed_again_soon_is_tried_after_a_longer_pause() -> None:
    life = Life()
    life.pass_(2, WANTED)
    life.pass_(5, UNDER_WAY)
    life.pass_(int(CALM) - 5, GOOD)
    again = life.now
    life.pass_(3, WANTED)
    assert life.tried == [1.0, again + 2.0]


def test_pauses_are_short_again_after_it_was_good_for_a_while() -> None:
    life = Life()
    life.pass_(100, WANTED)
    before = len(life.tried)
    life.pass_(int(CALM) + 1, GOOD)
    again = life.now
    life.pass_(2, WANTED)
    assert life.tried[before:] == [again + FIRST]


def test_good_in_between_counts_from_its_beginning_each_time() -> None:
    life = Life()
    for _ in range(4):
        life.pass_(40, GOOD)
        life.pass_(40, WANTED)
    assert life.attempts.pause_s("data") > 2 * FIRST


def test_what_is_not_asked_about_is_forgotten() -> None:
    """It was suspended by command, or removed: the next failure is the first one."""
    life = Life()
    life.pass_(100, WANTED)
    assert life.attempts.due({}, life.now) == []
    again, before = life.now, len(life.tried)
    life.pass_(2, WANTED)
    assert life.tried[before:] == [again + FIRST]


@pytest.mark.parametrize("state", [GOOD, UNDER_WAY])
def test_what_never_failed_is_not_tried(state: str) -> None:
    life = Life()
    life.pass_(100, state)
    assert not life.tried


def test_names_have_pauses_of_their_own() -> None:
    attempts = Attempts(FIRST, LONGEST, CALM)
    assert attempts.due({"old": WANTED}, 0.0) == []
    assert attempts.due({"old": WANTED}, 1.0) == ["old"]
    assert attempts.due({"old": WANTED, "new": WANTED}, 2.0) == []
    assert attempts.due({"old": WANTED, "new": WANTED}, 3.0) == ["new"]
    assert attempts.due({"old": WANTED, "new": UNDER_WAY}, 4.0) == ["old"]
