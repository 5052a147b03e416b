"""Figures for Prometheus: plain ints and lists of ints, read when someone scrapes. Nothing here costs anything per request."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

import duplexd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    Source = Callable[[], Iterable[Metric]]

STATES = ("SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED")
SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Histogram:
    """Counts by upper bound: `counts[i]` values were <= `bounds[i]` and above the bound before; the last count is of the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def family(name: str, text: str, *rows: tuple[dict[str, str], Any]) -> HistogramMetricFamily:
    """A histogram family of anything with `bounds`, `counts` and `total` (see Histogram); a row is (labels, histogram)."""
    labels = tuple(rows[0][0]) if rows else ()
    metric = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        counts, total = list(histogram.counts), histogram.total
        running, buckets = 0, []
        for bound, count in zip((*histogram.bounds, "+Inf"), counts, strict=True):
            running += count
            buckets.append((str(bound), running))
        metric.add_metric([values[label] for label in labels], buckets, total)
    return metric


class LoopLag:
    """How late the event loop comes to what was due: what a client's request may have to wait besides its own work."""

    INTERVAL_SECONDS = 0.5

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.last_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(
            loop.time() + self.INTERVAL_SECONDS, self._tick, loop.time() + self.INTERVAL_SECONDS
        )

    def _tick(self, due: float) -> None:
        self.last_seconds = max(0.0, asyncio.get_running_loop().time() - due)
        self.histogram.observe(self.last_seconds)
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def controller_metrics(status: dict[str, Any]) -> Iterator[Metric]:
    """What the status says, as metrics."""
    controller, volumes = status["controller"], status["volumes"]
    journal = controller["journal"]
    yield GaugeMetricFamily(
        "duplexd_sequence", "last sequence number given out", controller["sequence"]
    )
    yield GaugeMetricFamily(
        "duplexd_journal_used_bytes", "bytes of the journal that are needed", journal["used_bytes"]
    )
    yield GaugeMetricFamily(
        "duplexd_journal_size_bytes", "size of the journal", journal["size_bytes"]
    )
    yield GaugeMetricFamily("duplexd_leases", "holds that last", len(status["leases"]))
    yield GaugeMetricFamily(
        "duplexd_cuts_undecided",
        "cuts of several controllers without a verdict",
        len(status.get("cuts", ())),
    )
    state = GaugeMetricFamily(
        "duplexd_pair_state", "1 for the state that the pair is in", labels=("volume", "state")
    )
    gauges = {
        "held": GaugeMetricFamily("duplexd_volume_held", "1 while writes wait", labels=("volume",)),
        "connections": GaugeMetricFamily(
            "duplexd_nbd_connections", "NBD connections", labels=("volume",)
        ),
        "changed_bytes": GaugeMetricFamily(
            "duplexd_changed_bytes", "what a resync would copy", labels=("volume",)
        ),
        "size": GaugeMetricFamily(
            "duplexd_volume_size_bytes", "size of the volume", labels=("volume",)
        ),
    }
    lag = GaugeMetricFamily(
        "duplexd_secondary_lag_bytes",
        "changes that the secondary has yet to take over",
        labels=("volume",),
    )
    for volume in volumes:
        name = volume["name"]
        for each in STATES:
            state.add_metric((name, each), volume["state"] == each)
        for key, gauge in gauges.items():
            gauge.add_metric((name,), volume.get(key) or 0)
        lag.add_metric((name,), (volume.get("secondary") or {}).get("lag_bytes") or 0)
    yield from (state, lag, *gauges.values())


def process_metrics(lag: LoopLag) -> Iterator[Metric]:
    info = GaugeMetricFamily("duplexd_info", "always 1", labels=("version",))
    info.add_metric((duplexd.__version__,), 1)
    yield info
    yield family(
        "duplexd_event_loop_lag_seconds", "how late the event loop was", ({}, lag.histogram)
    )


class EventFigures:
    """What the controller's events add up to. `note` is one of its listeners: a dict look-up or two, per event and not per request."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.hold_seconds = Histogram()
        self.cut_wait_seconds = Histogram()
        self.void = 0
        self.grades = {"consistent": 0, "broken": 0}
        self.graded_records = 0

    def note(self, event: dict[str, Any]) -> None:
        name = event["event"]
        self.events[name] = self.events.get(name, 0) + 1
        self.void += event.get("verdict") == "void"
        if "held_s" in event:
            self.hold_seconds.observe(event["held_s"])
        if event["event"] == "graded":
            self.grades["consistent" if event.get("consistent") else "broken"] += 1
            self.graded_records += event.get("records") or 0
        if isinstance(hold := event.get("hold"), dict):
            self.cut_wait_seconds.observe(hold.get("seconds_max") or 0.0)

    def metrics(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "duplexd_events_total", "events, which /v1/events tells of", labels=("event",)
        )
        for name, count in list(self.events.items()):
            events.add_metric((name,), count)
        yield events
        grades = CounterMetricFamily(
            "duplexd_canary_grades_total", "cuts that a canary graded", labels=("result",)
        )
        for result, count in self.grades.items():
            grades.add_metric((result,), count)
        yield grades
        yield CounterMetricFamily(
            "duplexd_canary_records_total", "records that canaries looked at", self.graded_records
        )
        yield CounterMetricFamily(
            "duplexd_void_total", "holds and cuts whose verdict was void", self.void
        )
        yield family("duplexd_hold_seconds", "how long holds lasted", ({}, self.hold_seconds))
        yield family(
            "duplexd_cut_wait_seconds",
            "the longest that a write waited for each cut",
            ({}, self.cut_wait_seconds),
        )


# Plain numbers that the controller or its parts keep: path of the attribute, name, text. What is not there is left out.
COUNTERS = (
    ("batches.begun", "duplexd_batches_total", "batches written to the journal"),
    (
        "batches.changes_by_threads",
        "duplexd_changes_by_threads_total",
        "changes done in worker threads, the others in the event loop",
    ),
    ("cuts.made", "duplexd_cuts_total", "cuts asked for"),
    ("holds.lost", "duplexd_holds_lost_total", "holds that ended before their owner ended them"),
    ("maintenance.checkpoints", "duplexd_checkpoints_total", "checkpoints"),
    ("jobs.copying.copied_bytes", "duplexd_copied_bytes_total", "bytes copied to secondaries"),
)


def counted_metrics(controller: object) -> Iterator[Metric]:
    """Counters that the controller keeps."""
    for path, name, text in COUNTERS:
        value = _at(controller, path)
        if value is not None:
            yield CounterMetricFamily(name, text, value)
    syncs, seconds = _at(controller, "flusher.syncs"), _at(controller, "flusher.sync_seconds")
    if syncs is not None and seconds is not None:
        yield SummaryMetricFamily(
            "duplexd_journal_fsync_duration_seconds", "syncs of the journal", syncs, seconds
        )


def _at(value: object, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


class _Collected:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class Scrape:
    """A scrape: `prepare` copies the figures (in the loop), what it returns formats them (in any thread)."""

    def __init__(self, controller: Any, lag: LoopLag, sources: Sequence[Source] = ()) -> None:
        self._controller = controller
        self._lag = lag
        self._sources = sources
        self.figures = EventFigures()

    def _collect(self) -> Iterator[Metric]:
        yield from process_metrics(self._lag)
        yield from controller_metrics(self._controller.status())
        yield from counted_metrics(self._controller)
        yield from self.figures.metrics()
        for source in self._sources:
            yield from source()

    def prepare(self) -> Callable[[], bytes]:
        registry = CollectorRegistry()
        registry.register(_Collected(list(self._collect())))
        return lambda: generate_latest(registry)


def nbd_metrics(server: Any) -> Source:
    """What the NBD server counts (`server/traffic.py`), as a source for Scrape."""

    def source() -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "duplexd_nbd_requests_total", "requests taken", labels=("volume", "op")
        )
        sizes = CounterMetricFamily(
            "duplexd_nbd_bytes_total", "bytes of those requests", labels=("volume", "op")
        )
        errors = CounterMetricFamily(
            "duplexd_nbd_errors_total",
            "requests answered with an error",
            labels=("volume", "cause"),
        )
        for volume, traffic in list(server.traffic.items()):
            for operation, (count, size) in traffic.by_operation().items():
                requests.add_metric((volume, operation), count)
                sizes.add_metric((volume, operation), size)
            errors.add_metric((volume, "request"), traffic.refused)
            errors.add_metric((volume, "storage"), traffic.failed)
        yield from (requests, sizes, errors)
        yield CounterMetricFamily(
            "duplexd_nbd_connections_refused_total",
            "connections beyond the limit",
            server.connections_refused,
        )

    return source
