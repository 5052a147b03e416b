"""The figures of the benchmark are computed as the table says."""

from tests.bench.loads import LOADS, Measure
from tests.bench.report import summarize, table

RANDOM = next(load for load in LOADS if load.name == "4 KiB random write, depth 32")
LARGE = next(load for load in LOADS if load.name == "1 MiB sequential write, depth 4")


def test_ratio_is_the_median_of_the_rounds_not_the_ratio_of_the_medians() -> None:
    ours = [Measure(100.0, 5.0), Measure(10.0, 6.0), Measure(300.0, 7.0)]
    theirs = [Measure(50.0, 9.0), Measure(1.0, 9.0), Measure(100.0, 9.0)]
    (summary,) = summarize({RANDOM.name: {"duplexd": ours, "qemu": theirs}})
    assert summary["servers"]["duplexd"] == {
        "median": 100.0,
        "rounds": [100.0, 10.0, 300.0],
        "cpu_us_per_request": 6.0,
    }
    assert summary["ratios"] == {"qemu": 3.0}


def test_large_requests_are_given_in_mebibytes() -> None:
    (summary,) = summarize({LARGE.name: {"nbdkit": [Measure(500.0, 1.0)]}})
    assert (summary["unit"], summary["servers"]["nbdkit"]["median"]) == ("MiB/s", 500.0)


def test_table_has_one_line_per_load_and_aligned_columns() -> None:
    measures = {"duplexd": [Measure(60000.0, 12.5)], "nbdkit": [Measure(30000.0, 50.0)]}
    lines = table(summarize({RANDOM.name: measures, LARGE.name: measures}), ["duplexd", "nbdkit"])
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[-6:] == ["1/s", "60,000", "30,000", "2.00", "12.5", "50.0"]
