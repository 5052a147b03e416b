"""What /metrics says of volumes, of their pairs and images, and of what is not well with them.

Each family has a sample for every volume, also for those of which there is nothing to say. An alert
on a sample that is not there is silent, and silence reads as good.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from duplexd.core import pair_states
from duplexd.core.findings import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from duplexd.core.findings import Around, Finding
    from duplexd.json_object import Json

STATES = ("SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED")
REASONS = (
    pair_states.BY_COMMAND,
    pair_states.BY_ERROR,
    pair_states.BY_GROUP,
    pair_states.BY_JOURNAL,
)
ROLES = ("primary", "secondary")


class Gauge(NamedTuple):
    """A gauge that each volume has one sample of."""

    name: str
    text: str
    value: Callable[[Json], float]


def _copied(field: str) -> Callable[[Json], float]:
    return lambda volume: (volume.get("copy") or {}).get(field) or 0


def _field(name: str) -> Callable[[Json], float]:
    return lambda volume: float(volume.get(name) or 0)


def _lag(volume: Json) -> float:
    return float((volume.get("secondary") or {}).get("lag_bytes") or 0)


def _delay(field: str) -> Callable[[Json], float]:
    return lambda volume: float(
        ((volume.get("secondary") or {}).get("delay") or {}).get(field) or 0
    )


_GAUGES = (
    Gauge("duplexd_volume_held", "1 while changes wait at the gate", _field("held")),
    Gauge("duplexd_nbd_connections", "NBD connections", _field("connections")),
    Gauge("duplexd_changed_bytes", "what a resync by map would copy", _field("changed_bytes")),
    Gauge("duplexd_volume_served", "0 while NBD clients are refused", _field("served")),
    Gauge(
        "duplexd_volume_swapped",
        "1 while the configured secondary is the primary",
        _field("swapped"),
    ),
    Gauge(
        "duplexd_pair_differs",
        "1 while the images of the pair are known to differ",
        lambda volume: float(bool(volume.get("differs"))),
    ),
    Gauge(
        "duplexd_last_scrub_timestamp_seconds",
        "when the pair was last compared as a whole; 0 if that is not known",
        lambda volume: float((volume.get("scrub") or {}).get("done_time") or 0),
    ),
    Gauge(
        "duplexd_cut_readers",
        "who reads the secondary at its cut: connections and named readers",
        lambda volume: float(len(volume.get("readers") or ())),
    ),
    Gauge("duplexd_volume_size_bytes", "size of the volume", _field("size")),
    Gauge("duplexd_secondary_lag_bytes", "changes that the secondary has yet to apply", _lag),
    Gauge(
        "duplexd_secondary_delay_seconds",
        "delay of a delayed secondary; 0 of others",
        _delay("wanted_s"),
    ),
    Gauge(
        "duplexd_secondary_back_seconds",
        "how far back a delayed secondary can be suspended; 0 of others",
        _delay("back_s"),
    ),
    Gauge(
        "duplexd_secondary_delay_shortened",
        "1 while the journal holds less than the delay",
        _delay("shortened"),
    ),
    Gauge("duplexd_copy_done_bytes", "of the copy that runs", _copied("done_bytes")),
    Gauge("duplexd_copy_total_bytes", "0 if no copy runs", _copied("total_bytes")),
    Gauge(
        "duplexd_last_consistent_cut_timestamp_seconds",
        "when the volume was last cut consistently; 0 if that is not known",
        _field("consistent_cut_time"),
    ),
    Gauge(
        "duplexd_last_drill_passed_timestamp_seconds",
        "when the last drill that passed had ended; 0 if none has",
        lambda volume: float((volume.get("last_drill") or {}).get("passed_time") or 0),
    ),
    Gauge(
        "duplexd_last_drill_failed",
        "1 if the last drill failed; 0 if it passed, or there was none",
        lambda volume: float((volume.get("last_drill") or {}).get("outcome") == "failed"),
    ),
)


def volume_metrics(
    volumes: Sequence[Json], lag_seconds: Callable[[Json], float]
) -> Iterator[Metric]:
    """The rows of the status."""
    for gauge in _GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.text, labels=("volume",))
        for volume in volumes:
            family.add_metric((volume["name"],), gauge.value(volume))
        yield family
    yield _one_of("duplexd_pair_state", "1 for the state of the pair", "state", STATES, volumes)
    yield _one_of("duplexd_pair_reason", "1 for the reason of it", "reason", REASONS, volumes)
    behind = GaugeMetricFamily(
        "duplexd_secondary_lag_seconds",
        "how old what the secondary holds is; NaN if it is not usable",
        labels=("volume",),
    )
    for volume in volumes:
        behind.add_metric((volume["name"],), lag_seconds(volume))
    yield behind


def _one_of(
    name: str, text: str, label: str, values: Iterable[str], volumes: Iterable[Json]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("volume", label))
    for volume in volumes:
        for value in values:
            family.add_metric((volume["name"], value), volume[label] == value)
    return family


def lag_of(volume: Json, now: float, since: Callable[[int], float]) -> float:
    """Seconds. `since`: how long ago what follows a number was written."""
    secondary = volume.get("secondary")
    if secondary is None or volume["state"] == "SIMPLEX":
        return 0.0
    if not secondary.get("usable"):
        return math.nan
    if volume["state"] == "SUSPENDED":
        return max(0.0, now - (secondary.get("as_of_time") or now))
    return since(secondary.get("as_of_sequence") or 0) if secondary.get("lag_bytes") else 0.0


def leg_metrics(
    volumes: Iterable[Json], around: Around, errors: Mapping[tuple[str, str], int]
) -> Iterator[Metric]:
    """Of each image: whether it is in use, how often it failed, what room it has."""
    labels = ("volume", "role")
    failed = GaugeMetricFamily("duplexd_leg_failed", "1 if that image is not in use", labels=labels)
    counts = CounterMetricFamily("duplexd_leg_errors_total", "errors of an image", labels=labels)
    free = GaugeMetricFamily(
        "duplexd_leg_free_bytes", "free on the file system of an image", labels=labels
    )
    for volume in volumes:
        for role in ROLES:
            leg, name = volume.get(role) or {}, (volume["name"], role)
            failed.add_metric(name, bool(leg.get("error")))
            counts.add_metric(name, errors.get(name, 0))
            room = around.images.get(leg.get("path") or "")
            if room is not None and room.device and room.free_bytes is not None:
                free.add_metric(name, room.free_bytes)
    yield from (failed, counts, free)
    state = around.state_free_bytes
    text = "free on the file system of state_dir; NaN if its disk does not say"
    yield GaugeMetricFamily(
        "duplexd_state_dir_free_bytes", text, math.nan if state is None else state
    )


def finding_metrics(findings: Iterable[Finding]) -> Iterator[Metric]:
    """What `duplexctl health` lists, counted: 0 for each kind that there is none of."""
    counts = dict.fromkeys(KINDS, 0)
    for finding in findings:
        counts[finding.kind] += 1
    family = GaugeMetricFamily(
        "duplexd_findings", "things that are not well", labels=("kind", "severity")
    )
    for kind, count in counts.items():
        family.add_metric((kind, KINDS[kind]), count)
    yield family
