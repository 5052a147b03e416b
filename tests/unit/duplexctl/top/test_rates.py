"""Rates and latencies from two scrapes."""

from __future__ import annotations

import math

import pytest

from duplexd.duplexctl.top.figures import Figures, parse
from duplexd.duplexctl.top.rates import Rate, quantile, rates
from tests.unit.duplexctl.top.looks import metrics


def write_rate(before: str, now: str) -> Rate:
    return rates(parse(before), parse(now), 10.0).of["data"]["write"]


def test_a_rate_is_what_came_since_the_scrape_before() -> None:
    rate = write_rate(metrics("data", 100, 100), metrics("data", 300, 299))
    assert (rate.requests_s, rate.bytes_s) == (20.0, 81920.0)
    assert rate.mean_s == pytest.approx(0.001)


def test_quantiles_are_of_the_requests_since_the_scrape_before() -> None:
    rate = write_rate(metrics("data", 100, 0), metrics("data", 200, 90))
    assert rate.p50_s == pytest.approx(0.001 * 50 / 90)
    assert rate.p99_s == pytest.approx(0.001 + 0.009 * 9 / 10)


def test_after_a_restart_there_is_no_rate_even_if_the_counters_are_higher() -> None:
    before, now = parse(metrics("data", 1, 1)), parse(metrics("data", 5, 5, started=2.0))
    assert rates(before, now, 10.0) == (Rate(), {})


def test_the_first_scrape_has_no_rates() -> None:
    assert rates(None, parse(metrics("data", 1, 1)), 0.0).other == Rate()


def test_a_volume_that_no_client_has_used_has_a_rate_of_zero() -> None:
    found = rates(parse(metrics("data", 1, 1)), parse(metrics("data", 1, 1)), 10.0)
    assert found.other == Rate(0.0, 0.0)


def test_a_scrape_that_failed_is_no_rate_of_zero() -> None:
    assert rates(Figures(), Figures(), 10.0).other == Rate()


def test_a_first_request_since_the_scrape_before_counts_whole() -> None:
    assert write_rate("process_start_time_seconds 1.0\n", metrics("data", 10, 10)).requests_s == 1.0


def test_a_quantile_above_the_last_bound_is_infinite() -> None:
    assert quantile({1.0: 1.0, math.inf: 10.0}, 0.99) == math.inf
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.99) is None
    assert quantile({}, 0.5) is None


def test_names_of_volumes_are_read_as_they_were_written() -> None:
    text = 'duplexd_secondary_lag_seconds{volume="a\\"b\\\\n\\nc,}"} 2.5\n'
    assert parse(text).lag_seconds == {'a"b\\n\nc,}': 2.5}


@pytest.mark.parametrize(
    "text",
    [
        "duplexd_nbd_requests_total",
        'duplexd_nbd_requests_total{op="write" 1',
        'duplexd_nbd_requests_total{op="write",volume="d"} many',
        'duplexd_nbd_request_duration_seconds_bucket{le="x",op="write",volume="data"} 3',
        "\x00duplexd_nbd_\xff{}",
        "process_start_time_seconds NaN",
    ],
)
def test_lines_that_make_no_sense_are_no_figures(text: str) -> None:
    found = rates(parse(f"process_start_time_seconds 1\n{text}"), parse(text), 1.0)
    for operations in found.of.values():
        assert all(rate.p99_s is None for rate in operations.values())
