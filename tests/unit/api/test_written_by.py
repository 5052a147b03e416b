"""What had been written by when: how old what a secondary lacks is."""

from __future__ import annotations

import pytest

from duplexd.api.loop_lag import WrittenBy


@pytest.mark.parametrize(("applied", "lag"), [(30, 0.0), (25, 10.0), (20, 10.0), (19, 20.0)])
def test_the_lag_is_the_age_of_the_first_change_that_is_missing(applied: int, lag: float) -> None:
    written = WrittenBy()
    for sequence, now in ((10, 0.0), (20, 10.0), (30, 20.0)):
        written.note(sequence, now)
    assert written.lag_seconds(applied, 20.0) == lag


def test_an_idle_hour_is_no_lag_of_what_comes_after_it() -> None:
    written = WrittenBy()
    for now in range(3600):
        written.note(10, float(now))
    written.note(11, 3600.0)
    assert written.lag_seconds(10, 3600.0) == 1.0
