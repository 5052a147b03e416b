"""Whatever happens, a secondary that is read stays at its cut until its reader has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from duplexd.core import snapshot
from duplexd.core.readers import Readers
from duplexd.engine.cut_readers import CutReaders
from tests.sim import being_read

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = 8
PLANTED_SEEDS = 60  # tried until the mistake is found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_read_is_not_moved(seed: int) -> None:
    being_read.run(seed)


def a_resync_asks_nobody(patch: Callable[..., Any]) -> None:
    patch(Readers, "refuse", lambda _self, _numbers: None)
    patch(CutReaders, "_make_way", lambda _self, _pairs, _how: [])


def a_checkpoint_forgets_readers(patch: Callable[..., Any]) -> None:
    take = snapshot.take

    def forgetful(*given: Any) -> Any:
        return {key: value for key, value in take(*given).items() if key != "readers"}

    patch(snapshot, "take", forgetful)


@pytest.mark.parametrize(
    "mutant",
    [a_resync_asks_nobody, a_checkpoint_forgets_readers],
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
                being_read.run(seed)
            except AssertionError:
                return
    finally:
        for each in patches:
            each.stop()
    pytest.fail(f"none of {PLANTED_SEEDS} seeds noticed")
