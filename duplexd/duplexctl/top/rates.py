"""What happened between two scrapes: requests and bytes a second, and how long requests took. Pure.

A rate needs two scrapes of one run of the daemon. After a restart the counters begin anew, and the
difference would be an invention, so there is none until the scrape after the next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from duplexd.duplexctl.top.figures import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.duplexctl.top.figures import Figures

_NOTHING = Operation()


class Rate(NamedTuple):
    """Of one operation. None: not known, or there was no request. The quantiles lie within a bucket
    of the histogram, as Prometheus computes them; infinite above the last bound.
    """

    requests_s: float | None = None
    bytes_s: float | None = None
    mean_s: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    above_s: float | None = None  # the last finite bound, for a quantile that is infinite


class Rates(NamedTuple):
    """`other`: of what no client has used yet."""

    other: Rate
    of: Mapping[str, Mapping[str, Rate]]  # by volume and operation


NO_RATES = Rates(Rate(), {})  # not known


def rates(before: Figures | None, now: Figures, seconds: float) -> Rates:
    """Of what was done between two scrapes, so many seconds apart."""
    if before is None or before.started != now.started or not now.started or seconds <= 0:
        return NO_RATES
    return Rates(
        Rate(0.0, 0.0),
        {
            volume: {
                name: _rate(before.operations.get(volume, {}).get(name, _NOTHING), done, seconds)
                for name, done in operations.items()
            }
            for volume, operations in now.operations.items()
        },
    )


def _rate(before: Operation, now: Operation, seconds: float) -> Rate:
    requests = now.requests - before.requests
    if not requests >= 0 or not math.isfinite(requests):
        return Rate()
    size, took = max(0.0, now.bytes - before.bytes), max(0.0, now.seconds - before.seconds)
    taken = {bound: n - before.buckets.get(bound, 0.0) for bound, n in now.buckets.items()}
    # those of a histogram, which counts answers; a request under way is in `requests` already
    answered = max(taken.values(), default=0.0)
    finite = [bound for bound in taken if math.isfinite(bound)]
    return Rate(
        requests / seconds,
        size / seconds,
        took / answered if answered > 0 else None,
        quantile(taken, 0.5),
        quantile(taken, 0.99),
        max(finite, default=None),
    )


def quantile(cumulative: Mapping[float, float], part: float) -> float | None:
    """The time that `part` of the requests took at most; None if there were none."""
    bounds = sorted(bound for bound in cumulative if not math.isnan(bound))
    total = cumulative[bounds[-1]] if bounds else 0.0
    if not total > 0 or not math.isfinite(total):
        return None
    wanted, low, count = part * total, 0.0, 0.0
    for bound in bounds:
        within = cumulative[bound]
        if within >= wanted and within > count:
            share = (wanted - count) / (within - count)
            return bound if math.isinf(bound) else low + (bound - low) * share
        low, count = bound, within
    return None
