"""A run goes on where it was ended, and never mixes figures of different origin."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.bench.parts import Bench, in_turns
from tests.bench.rows import OURS, Measure, Row, summarize
from tests.bench.run_file import Run

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row("work", "1/s")


def bench(directory: Path, rounds: int = 3) -> Bench:
    return Bench(directory, rounds, 1.0, (OURS,))


def test_a_part_that_was_measured_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = summarize(ROW, {OURS: [Measure(5.0)]})
    Run.open(path, bench(tmp_path)).keep("part", [result], 0.5)
    again = Run.open(path, bench(tmp_path))
    assert list(again.results()) == [result]
    assert again.load_average() == 0.5


def test_figures_of_another_run_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    Run.open(path, bench(tmp_path, rounds=3)).keep("part", [], 0.5)
    with pytest.raises(SystemExit, match="another rounds; remove it"):
        Run.open(path, bench(tmp_path, rounds=5))
    assert Run.open(path, bench(tmp_path, rounds=5), again=True).parts == {}


def test_servers_take_turns_and_another_is_first_each_round(tmp_path: Path) -> None:
    order: list[str] = []

    def work(name: str) -> Measure:
        order.append(name)
        return Measure(1.0)

    works = {"row": {name: partial(work, name) for name in "abc"}}
    found = in_turns(bench(tmp_path), works)
    assert order == list("abc") + list("bca") + list("cab")
    assert [len(measures) for measures in found["row"].values()] == [3, 3, 3]
