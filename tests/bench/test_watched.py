"""That the watched daemon is watched, and the other one is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.units import MIB
from tests.bench.parts import Bench
from tests.bench.rows import OURS
from tests.bench.watched import ALONE, LOADS, Alone, Watched, measure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.long
def test_both_are_measured_in_each_row(tmp_path: Path) -> None:
    found = measure(Bench(tmp_path, rounds=1, seconds=0.1, servers=(), small=True))
    assert set(found) == {row.name for row, _ in LOADS}
    for measured in found.values():
        assert {name: len(rounds) for name, rounds in measured.items()} == {OURS: 1, ALONE: 1}


def test_only_the_watched_one_notes_changes_and_has_a_page(tmp_path: Path) -> None:
    with Watched(tmp_path / "watched", 16 * MIB) as watched, Alone(tmp_path / "a", MIB) as alone:
        changes = "/v1/changes?target=volume&since=before"
        assert [each.daemon.request("GET", changes)[0] for each in (watched, alone)] == [200, 409]
        assert watched.files().text() != alone.files().text()
        watched.port = 1  # nobody answers there
        watched._watcher.join()
        with pytest.raises(RuntimeError, match="not watched all the time"):
            watched.check(0)
