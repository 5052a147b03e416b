"""Time-outs of calls on legs."""

from __future__ import annotations

from duplexd.core.patience import PRIMARY, SECONDARY, SYNC, Patience


def test_a_secondary_is_given_up_sooner_than_a_primary_or_a_sync() -> None:
    patience = Patience(secondary_s=2.0, primary_s=20.0)
    assert [patience.seconds(use) for use in (SECONDARY, PRIMARY, SYNC)] == [2.0, 20.0, 20.0]
