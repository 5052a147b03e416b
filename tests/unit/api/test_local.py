"""How often a user may connect on the Unix socket."""

from __future__ import annotations

from duplexd.api.local import USERS_MAX, Rates


def test_a_user_has_a_burst_and_then_so_many_a_second() -> None:
    rates = Rates(burst=3, per_second=2)
    assert [rates.allow(7, 0.0) for _ in range(4)] == [True] * 3 + [False]
    assert [rates.allow(7, 0.5), rates.allow(7, 0.5)] == [True, False]
    assert [rates.allow(7, 100.0) for _ in range(4)] == [True] * 3 + [False]


def test_one_user_costs_another_nothing() -> None:
    rates = Rates(burst=1, per_second=1)
    assert [rates.allow(uid, 0.0) for uid in (7, 7, 8)] == [True, False, True]


def test_who_asks_in_vain_is_not_kept_out_for_longer() -> None:
    rates = Rates(burst=1, per_second=1)
    assert rates.allow(7, 0.0)
    assert not any(rates.allow(7, at / 10) for at in range(1, 9))
    assert rates.allow(7, 1.01)


def test_users_that_are_remembered_are_bounded() -> None:
    rates = Rates(burst=1, per_second=1)
    for uid in range(2 * USERS_MAX):
        rates.allow(uid, 0.0)
    assert rates.allow(0, 0.0), "it was forgotten"
    assert not rates.allow(2 * USERS_MAX - 1, 0.0)
