"""What /metrics says, as families of prometheus_client. docs/metrics.md lists them all.

Each part of the daemon keeps plain ints and lists of ints; they are read when someone scrapes. So a
metric costs a request an addition and nothing else: a labelled counter of prometheus_client costs a
microsecond, a quarter of what a small write may cost here. Nothing but this module, pair_metrics.py
and scrape.py imports prometheus_client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

import duplexd
from duplexd.api.durations import Timed, durations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from duplexd.api.durations import Later
    from duplexd.api.loop_lag import LoopLag
    from duplexd.engine.counters import Counters
    from duplexd.json_object import Json
    from duplexd.runtime.histogram import Histogram

_COUNTERS = (
    ("batches", "duplexd_batches_total", "batches written to the journal"),
    (
        "changes_by_threads",
        "duplexd_changes_by_threads_total",
        "changes applied in worker threads, the others in the event loop",
    ),
    ("cuts", "duplexd_cuts_total", "cuts asked for"),
    ("marks", "duplexd_marks_total", "marks that are consistent"),
    ("holds_lost", "duplexd_holds_lost_total", "holds that ended before their owner ended them"),
    ("checkpoints", "duplexd_checkpoints_total", "checkpoints"),
    ("copied_bytes", "duplexd_copied_bytes_total", "bytes copied to secondaries"),
)


class VolumeTraffic(Timed, Protocol):
    """What the NBD server counts for a volume."""

    refused: int
    failed: int

    def by_operation(self) -> Mapping[str, tuple[int, int]]: ...


class NbdServer(Protocol):
    """What the NBD server counts."""

    @property
    def traffic(self) -> Mapping[str, VolumeTraffic]: ...
    @property
    def connections_refused(self) -> int: ...


def histogram_family(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    """A histogram as Prometheus wants it: counts are cumulative there."""
    running, buckets = 0, []
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        running += count
        buckets.append((str(bound), running))
    return HistogramMetricFamily(name, text, buckets, histogram.total)


def process_metrics(lag: LoopLag, started: float = 1.0) -> Iterator[Metric]:
    """The process: its version, how much of its start is done, its event loop."""
    info = GaugeMetricFamily("duplexd_info", "always 1", labels=("version",))
    info.add_metric((duplexd.__version__,), 1)
    yield info
    text = "how much of the start is done; 1 once volumes are served"
    yield GaugeMetricFamily("duplexd_start_ratio", text, started)
    yield histogram_family(
        "duplexd_event_loop_lag_seconds", "how late the event loop was", lag.histogram
    )


def status_metrics(status: Json, failed: str) -> Iterator[Metric]:
    """What the status says of the controller and its volumes."""
    controller = status["controller"]
    journal = controller["journal"]
    for name, text, value in (
        ("duplexd_failed", "1 if no change is taken until a restart", bool(failed)),
        ("duplexd_refusing", "1 while every change is refused", _refuses(controller, failed)),
        ("duplexd_sequence", "last sequence number given out", controller["sequence"]),
        (
            "duplexd_journal_used_bytes",
            "what the records in the journal take",
            journal["used_bytes"],
        ),
        ("duplexd_journal_size_bytes", "size of the journal", journal["size_bytes"]),
        (
            "duplexd_journal_waiting_seconds",
            "how long the disk of the journal has not answered",
            journal["waiting_s"],
        ),
        (
            "duplexd_journal_no_room_seconds",
            "how long changes have waited for room in the journal",
            journal.get("no_room_s", 0.0),
        ),
        ("duplexd_leases", "holds in force", len(status["leases"])),
        ("duplexd_cuts_undecided", "group cuts and marks in doubt", len(status["cuts"])),
    ):
        yield GaugeMetricFamily(name, text, value)


def _refuses(controller: Json, failed: str) -> bool:
    """For good, or until there is room."""
    return bool(failed or controller.get("refused"))


def counter_metrics(counters: Counters) -> Iterator[Metric]:
    """What the controller has counted since its start."""
    values = counters._asdict()
    for field, name, text in _COUNTERS:
        yield CounterMetricFamily(name, text, values[field])
    text = "journal bytes that cannot be written over"
    yield GaugeMetricFamily("duplexd_journal_pinned_bytes", text, counters.journal_pinned_bytes)
    text = "time of the last consistent mark; 0 if none is kept"
    yield GaugeMetricFamily("duplexd_last_mark_timestamp_seconds", text, counters.last_mark_time)
    for name, text, histogram in (
        ("duplexd_journal_append_duration_seconds", "appends of batches", counters.journal_appends),
        ("duplexd_journal_fsync_duration_seconds", "syncs of the journal", counters.journal_syncs),
    ):
        yield histogram_family(name, text, histogram)


def nbd_metrics(server: NbdServer) -> Iterator[Metric | Later]:
    """What the NBD server has counted since its start."""
    by_operation = ("volume", "op")
    requests = CounterMetricFamily(
        "duplexd_nbd_requests_total", "requests taken", labels=by_operation
    )
    sizes = CounterMetricFamily(
        "duplexd_nbd_bytes_total", "bytes of those requests", labels=by_operation
    )
    errors = CounterMetricFamily(
        "duplexd_nbd_errors_total", "requests answered with an error", labels=("volume", "cause")
    )
    for volume, traffic in list(server.traffic.items()):
        for operation, (count, size) in traffic.by_operation().items():
            requests.add_metric((volume, operation), count)
            sizes.add_metric((volume, operation), size)
        errors.add_metric((volume, "request"), traffic.refused)
        errors.add_metric((volume, "storage"), traffic.failed)
    yield from (requests, sizes, errors)
    yield durations(server.traffic)
    yield CounterMetricFamily(
        "duplexd_nbd_connections_refused_total",
        "connections beyond the limit",
        server.connections_refused,
    )
