"""The figures of the benchmark are computed as docs/performance.md says."""

from __future__ import annotations

from tests.bench.rows import MIRROR, NBDKIT, OURS, Goal, Measure, Row, described, spread, summarize

ROW = Row("4 KiB random write", "1/s", (Goal(4, MIRROR), Goal(1.5, NBDKIT)))
LIMIT = Row("memory", "MiB", (Goal(100),), limit=True)


def measures(*values: float) -> list[Measure]:
    return [Measure(value, 5.0) for value in values]


def test_ratio_is_the_median_of_the_rounds_not_the_ratio_of_the_medians() -> None:
    found = summarize(ROW, {OURS: measures(100, 10, 300), NBDKIT: measures(50, 1, 100)})
    assert found["ratios"][NBDKIT]["median"] == 3.0


def test_quartiles_leave_out_the_outer_rounds() -> None:
    assert spread([9, 1, 2, 3, 4, 5, 6, 100]) == {"median": 4.5, "low": 3, "high": 6}
    assert spread([3, 1, 2]) == {"median": 2, "low": 1, "high": 3}


def test_a_row_is_reached_if_all_of_its_goals_are() -> None:
    ours = measures(40)
    both = {OURS: ours, MIRROR: measures(10), NBDKIT: measures(20)}
    assert summarize(ROW, both)["reached"] is True
    assert summarize(ROW, both | {NBDKIT: measures(30)})["reached"] is False
    assert summarize(ROW, both | {MIRROR: measures(11)})["reached"] is False


def test_a_goal_whose_peer_was_not_measured_is_not_known_to_be_reached() -> None:
    assert summarize(ROW, {OURS: measures(40), MIRROR: measures(1)})["reached"] is None
    assert summarize(ROW, {NBDKIT: measures(40)})["reached"] is None


def test_a_limit_is_of_duplexds_own_figure() -> None:
    assert summarize(LIMIT, {OURS: measures(100)})["reached"] is True
    assert summarize(LIMIT, {OURS: measures(101)})["reached"] is False
    assert LIMIT.to_reach == "≤ 100 MiB"


def test_a_line_says_figures_ratios_and_verdict() -> None:
    found = summarize(ROW, {OURS: measures(30000), MIRROR: measures(10000), NBDKIT: measures(8000)})
    assert described(found) == (
        "4 KiB random write: duplexd 30,000, qemu mirror 10,000, nbdkit 8,000 1/s; "
        "3.00 (3.00-3.00) x qemu mirror, 3.75 (3.75-3.75) x nbdkit; "
        "[≥ 4 x qemu mirror, ≥ 1.5 x nbdkit: NOT REACHED]"
    )
