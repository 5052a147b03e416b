"""A scrape: figures are copied in the event loop, and formatted in a thread.

A thousand volumes are some 15,000 lines of text: tens of milliseconds of formatting, for which no
write may wait. The copy is a list of families, which nothing changes afterwards.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric

from duplexd.api import metrics, pair_metrics
from duplexd.api.loop_lag import WrittenBy
from duplexd.core.pair_states import BY_ERROR
from duplexd.runtime.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from duplexd.api.durations import Later
    from duplexd.api.health import HealthOf
    from duplexd.api.loop_lag import LoopLag
    from duplexd.api.protocols import Controller
    from duplexd.json_object import Json

    Source = Callable[[], Iterable[Metric | Later]]


class EventFigures:
    """What the controller's events add up to. `note` is called per event, not per request."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.hold_seconds = Histogram()
        self.cut_wait_seconds = Histogram()
        self.void = 0
        self.grades = {"consistent": 0, "broken": 0}
        self.graded_records = 0
        self.leg_errors: dict[tuple[str, str], int] = {}  # by volume and role

    def note(self, event: Json) -> None:
        """Count an event."""
        name = event["event"]
        self.events[name] = self.events.get(name, 0) + 1
        self.void += event.get("verdict") == "void"
        if (leg := _failed_leg(event)) is not None:
            self.leg_errors[leg] = self.leg_errors.get(leg, 0) + 1
        if "held_s" in event:
            self.hold_seconds.observe(event["held_s"])
        if name == "graded":
            self.grades["consistent" if event.get("consistent") else "broken"] += 1
            self.graded_records += event.get("records") or 0
        if isinstance(hold := event.get("hold"), dict):
            self.cut_wait_seconds.observe(hold.get("seconds_max") or 0.0)

    def metrics(self) -> Iterator[Metric]:
        """The sums, as families."""
        yield counter_by("duplexd_events_total", "events sent to /v1/events", "event", self.events)
        yield counter_by(
            "duplexd_canary_grades_total", "cuts that a canary graded", "result", self.grades
        )
        for name, text, value in (
            ("duplexd_canary_records_total", "records checked by canaries", self.graded_records),
            ("duplexd_void_total", "holds and cuts whose verdict was void", self.void),
        ):
            yield CounterMetricFamily(name, text, value)
        for name, text, histogram in (
            ("duplexd_hold_seconds", "how long holds lasted", self.hold_seconds),
            (
                "duplexd_cut_wait_seconds",
                "the longest that a write waited, for each cut",
                self.cut_wait_seconds,
            ),
        ):
            yield metrics.histogram_family(name, text, histogram)


def _failed_leg(event: Json) -> tuple[str, str] | None:
    """Volume and role of the image that an event says has failed."""
    if event["event"] in {"primary-error", "primary-failed"}:
        return event["volume"], "primary"
    if event["event"] == "suspended" and event.get("reason") == BY_ERROR and event.get("failed"):
        return event["failed"], "secondary"
    return None


def counter_by(name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    """A counter with one label."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


class Collected:
    """Families that were collected, as a collector of prometheus_client."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Scrape:
    """`prepare` copies the figures, in the loop; what it returns formats them, in any thread."""

    def __init__(
        self,
        controller: Controller,
        lag: LoopLag,
        health: HealthOf,
        sources: Sequence[Source] = (),
    ) -> None:
        self._controller = controller
        self._lag = lag
        self._health = health
        self._sources = sources
        self.written = WrittenBy()
        self.figures = EventFigures()

    def _collect(self) -> Iterator[Metric | Later]:
        controller, health = self._controller, self._health
        status, now = controller.status(), time.time()
        volumes = status["volumes"]
        yield from metrics.process_metrics(self._lag)
        yield from metrics.status_metrics(status, controller.failed)
        yield from pair_metrics.volume_metrics(volumes, lambda volume: self._behind(volume, now))
        yield from pair_metrics.leg_metrics(volumes, health.around(), self.figures.leg_errors)
        yield from pair_metrics.finding_metrics(health.findings(status))
        yield from metrics.counter_metrics(controller.counters())
        yield from self.figures.metrics()
        for source in self._sources:
            yield from source()

    def _behind(self, volume: Json, now: float) -> float:
        return pair_metrics.lag_of(
            volume, now, lambda applied: self.written.lag_seconds(applied, time.monotonic())
        )

    def prepare(self) -> Callable[[], bytes]:
        """The text in the Prometheus exposition format, once it is called."""
        registry = CollectorRegistry()
        found = list(self._collect())
        registry.register(Collected([each for each in found if isinstance(each, Metric)]))
        texts = [each for each in found if not isinstance(each, Metric)]
        ProcessCollector(registry=registry)
        return lambda: generate_latest(registry) + "".join(text() for text in texts).encode()
