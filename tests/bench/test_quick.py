"""What `make bench-quick` calls slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.quick import Comparison, checked_out, compared, shown
from tests.bench.rows import Measure
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def comparison(*rates: float, within: float = 0.03) -> Comparison:
    """Of rounds with these rates, beside a revision that always does 1, for the same CPU time."""
    mine = [Measure(rate, 20.0) for rate in rates]
    return compared(mine, [Measure(1.0, 20.0)] * len(rates), within)


def test_within_the_bound_is_ok() -> None:
    assert comparison(0.97, 0.97, 0.97, 0.97, 0.97).verdict == "ok"
    assert comparison(0.86, 0.86, 0.86, 0.86, 0.86, within=0.15).verdict == "ok"


def test_slower_if_nearly_all_rounds_agree() -> None:
    assert comparison(*[0.96] * 8, 1.2).verdict == "SLOWER"
    assert comparison(*[0.96] * 7, 1.2, 1.2).verdict == "unclear"


def test_a_few_rounds_decide_nothing() -> None:
    assert comparison(0.5, 0.5).verdict == "unclear"


def test_a_line_says_ratios_and_bound() -> None:
    *_, line = shown({"4 KiB random write, depth 8": comparison(*[0.5] * 9)}, "main")
    assert line.split("  ")[0] == "4 KiB random write, depth 8"
    assert line.endswith("0.50 (0.50-0.50)    1.00 (1.00-1.00)   0.97  SLOWER")


def test_the_revision_is_checked_out_and_removed_again(tmp_path: Path) -> None:
    with checked_out("HEAD", tmp_path / "revision") as other:
        assert (other / "duplexd" / "__init__.py").exists()
        assert other != ROOT
    assert not (tmp_path / "revision").exists()
