"""Whatever happens, a delayed secondary is where status says, and a past cut holds the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from duplexd.core import delayed as folds
from duplexd.engine.recovery import left_behind as recovery
from duplexd.replication.backlog import Backlog
from duplexd.replication.scout import Scout
from tests.sim import delayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.delay_markers import Horizon

SEEDS = 12
PLANTED_SEEDS = 150  # tried until the mistake is found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_delayed_secondaries_hold_what_status_says(seed: int) -> None:
    delayed.run(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS, 400))
def test_delayed_secondaries_hold_what_status_says_in_many_lives(seed: int) -> None:
    delayed.run(seed)


def what_changed_since_the_cut_is_forgotten(patch: Callable[..., Any]) -> None:
    patch(folds, "_changed_since", lambda _pairs, _marker: None)


def what_changed_last_is_not_in_the_map(patch: Callable[..., Any]) -> None:
    ahead = Backlog.ahead

    async def too_far(self: Any, position: int, pairs: Any) -> Any:
        changed = await ahead(self, position, pairs)
        return changed._replace(until=changed.until + 1)

    patch(Backlog, "ahead", too_far)


def the_last_record_is_passed_over(patch: Callable[..., Any]) -> None:
    go = Scout.go

    def one_less(self: Any, time_us: int, until: int, bytes_from: int = 0, *more: int) -> int:
        before = self.position
        go(self, time_us, until, bytes_from, *more)
        if bytes_from == 0 and self.position > before:
            self.position -= 1
        return int(self.position)

    patch(Scout, "go", one_less)


def a_lost_end_of_the_journal_is_not_compared(patch: Callable[..., Any]) -> None:
    exact = recovery.is_exact

    def always(journal: Any, record: Any, is_short: bool) -> bool:
        return record.horizon is not None or exact(journal, record, is_short)

    patch(recovery, "is_exact", always)


def a_compared_secondary_is_left_behind(patch: Callable[..., Any]) -> None:
    from duplexd.core.unmarked import Unmarked  # noqa: PLC0415

    patch(Unmarked, "follows_to_the_tail", lambda _self, _pair: None)


def the_horizon_names_a_lower_number(patch: Callable[..., Any]) -> None:
    may_go = folds.may_go

    def lower(pairs: Any, marker: Horizon) -> None:
        may_go(pairs, marker._replace(to=max(marker.to - 2, 0)))

    patch(folds, "may_go", lower)


def what_a_later_cut_lacks_is_forgotten(patch: Callable[..., Any]) -> None:
    go_on = folds.go_on

    def forgetful(pairs: Any, marker: Any, tracked: int) -> Any:
        for pair in pairs:
            pair.changed, pair.tracked_bytes = None, 0
        return go_on(pairs, marker, tracked)

    patch(folds, "go_on", forgetful)


@pytest.mark.long
@pytest.mark.parametrize(
    "plant",
    [
        what_changed_since_the_cut_is_forgotten,
        what_changed_last_is_not_in_the_map,
        the_last_record_is_passed_over,
        a_lost_end_of_the_journal_is_not_compared,
        a_compared_secondary_is_left_behind,
        the_horizon_names_a_lower_number,
        what_a_later_cut_lacks_is_forgotten,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_mistake_is_found(plant: Callable[..., None]) -> None:
    patches: list[Any] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        patches.append(mock.patch.object(owner, name, value))

    plant(patch)
    for each in patches:
        each.start()
    try:
        for seed in range(PLANTED_SEEDS):
            try:
                delayed.run(seed)
            except AssertionError:
                return
    finally:
        for each in patches:
            each.stop()
    pytest.fail(f"none of {PLANTED_SEEDS} seeds noticed")
