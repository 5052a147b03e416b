"""Whatever happens, a volume that goes back holds what its cut holds, or is closed, half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from duplexd.core import rollback, snapshot
from duplexd.engine import rollback_job
from duplexd.engine.rollback_content import pieces
from tests.sim import going_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.core.change_map import ChangeMap

SEEDS = 8
PLANTED_SEEDS = 60  # tried until the mistake is found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_goes_back_arrives_or_is_closed(seed: int) -> None:
    going_back.run(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS, 200))
def test_what_goes_back_arrives_or_is_closed_in_many_lives(seed: int) -> None:
    going_back.run(seed)


def a_restart_forgets_that_it_began(patch: Callable[..., Any]) -> None:
    take = snapshot.take

    def forgetful(*given: Any) -> Any:
        return {key: value for key, value in take(*given).items() if key != "rollback"}

    patch(snapshot, "take", forgetful)


def the_fold_closes_nothing(patch: Callable[..., Any]) -> None:
    patch(rollback, "begin", lambda _pairs, _marker, _time_us: None)


def the_fold_of_what_was_given_up_says_that_nothing_is_to_be_copied(
    patch: Callable[..., Any],
) -> None:
    end = rollback.end

    def always_whole(pairs: Any, marker: Any, time_us: int) -> Any:
        for pair in (found := end(pairs, marker, time_us)) or pairs:
            pair.changed = None
        return found

    patch(rollback, "end", always_whole)


def a_part_is_left_out(patch: Callable[..., Any]) -> None:
    def all_but_the_last(changed: ChangeMap | None) -> Iterator[tuple[int, int]]:
        yield from list(pieces(changed))[:-1]

    patch(rollback_job, "pieces", all_but_the_last)


def nobody_is_waited_for(patch: Callable[..., Any]) -> None:
    async def at_once(_self: Any) -> None:
        """Clients may go on."""

    patch(rollback_job.RollbackJob, "_clients_gone", at_once)
    patch(going_back.Connected, "end_reading", lambda _self, _why: None)


@pytest.mark.parametrize(
    "mutant",
    [
        a_restart_forgets_that_it_began,
        the_fold_closes_nothing,
        the_fold_of_what_was_given_up_says_that_nothing_is_to_be_copied,
        a_part_is_left_out,
        nobody_is_waited_for,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_a_planted_mistake_is_found(mutant: Callable[..., None]) -> None:
    patches: list[Any] = []

    def patch(target: Any, name: str, replacement: Any) -> None:
        patches.append(mock.patch.object(target, name, replacement))

    mutant(patch)
    for each in patches:
        each.start()
    try:
        for seed in range(PLANTED_SEEDS):
            try:
                going_back.run(seed)
            except AssertionError:
                return
    finally:
        for each in patches:
            each.stop()
    pytest.fail(f"none of {PLANTED_SEEDS} seeds noticed")
