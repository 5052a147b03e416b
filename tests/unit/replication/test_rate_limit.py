"""The rate limit of copies."""

from __future__ import annotations

from duplexd.replication.rate_limit import Pace


def test_the_first_bytes_need_not_wait() -> None:
    assert Pace().wait_s(1e6, 1000) == 0


def test_what_was_copied_is_paid_for_by_time() -> None:
    pace = Pace()
    pace.spend(500, 10.0, 1000)
    assert pace.wait_s(10.0, 1000) == 0.5
    assert pace.wait_s(10.25, 1000) == 0.25
    assert pace.wait_s(10.5, 1000) == 0


def test_copies_of_several_pairs_share_it() -> None:
    pace = Pace()
    pace.spend(500, 10.0, 1000)
    pace.spend(1000, 10.0, 1000)
    assert pace.wait_s(10.0, 1000) == 1.5


def test_time_without_copies_is_not_saved_up() -> None:
    pace = Pace()
    pace.spend(1, 10.0, 1000)
    pace.spend(2000, 1000.0, 1000)
    assert pace.wait_s(1000.0, 1000) == 2


def test_another_rate_counts_at_once() -> None:
    pace = Pace()
    pace.spend(1000, 10.0, 100)
    assert pace.wait_s(10.0, 100) == 10
    assert pace.wait_s(10.0, 1000) == 1
    assert pace.wait_s(10.0, None) == 0
    assert pace.wait_s(10.0, 100) == 0, "what went without limit is not owed later"
