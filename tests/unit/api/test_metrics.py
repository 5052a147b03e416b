"""/metrics: each sample is what was counted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duplexd.api.health import HealthOf, Outlook
from duplexd.api.loop_lag import LoopLag
from duplexd.api.metrics import nbd_metrics
from duplexd.api.scrape import Scrape
from duplexd.nbd import constants as c
from duplexd.nbd_server.traffic import Traffic
from duplexd.runtime.histogram import Histogram
from tests.support.fake_controller import NO_COUNTS, FakeController

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.api.scrape import Source
    from tests.support.control_plane import ControlPlane

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Counted:
    """What an NBD server has counted, for one volume."""

    def __init__(self) -> None:
        traffic = Traffic()
        traffic.requests[1], traffic.byte_counts[1], traffic.failed = 5, 4096, 1
        self.traffic = {"data": traffic}
        self.connections_refused = 2


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }


def scrape_of(controller: FakeController, sources: Sequence[Source] = ()) -> Scrape:
    return Scrape(controller, LoopLag(), HealthOf(controller.status, {}, Outlook()), sources)


def scraped(scrape: Scrape) -> Samples:
    return samples(scrape.prepare()().decode())


def test_the_socket_serves_what_prometheus_can_read(plane: ControlPlane) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    with plane.open("GET", "/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        found = samples(answer.read().decode())
    assert found["duplexd_pair_state", (("state", "SUSPENDED"), ("volume", "data"))] == 1
    assert found["duplexd_pair_state", (("state", "DUPLEX"), ("volume", "data"))] == 0
    assert found["duplexd_pair_state", (("state", "DUPLEX"), ("volume", "wal"))] == 1
    assert found["duplexd_journal_size_bytes", ()] == 1 << 24
    assert found["duplexd_event_loop_lag_seconds_count", ()] >= 0


def test_a_histogram_counts_by_upper_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 1, 1], 7.65)


async def test_counters_of_the_controller_are_exported() -> None:
    controller = FakeController(["data"], {})
    syncs = Histogram()
    for seconds in (0.1, 0.4):
        syncs.observe(seconds)
    controller.counted = NO_COUNTS._replace(cuts=3, journal_syncs=syncs, journal_pinned_bytes=4096)
    found = scraped(scrape_of(controller))
    assert found["duplexd_cuts_total", ()] == 3
    assert found["duplexd_journal_pinned_bytes", ()] == 4096
    assert found["duplexd_journal_fsync_duration_seconds_count", ()] == 2
    assert found["duplexd_journal_fsync_duration_seconds_sum", ()] == 0.5


async def test_counters_of_the_nbd_server_are_exported() -> None:
    scrape = scrape_of(FakeController(["data"], {}), [lambda: nbd_metrics(Counted())])
    found = scraped(scrape)
    assert found["duplexd_nbd_requests_total", (("op", "write"), ("volume", "data"))] == 5
    assert found["duplexd_nbd_bytes_total", (("op", "write"), ("volume", "data"))] == 4096
    assert found["duplexd_nbd_errors_total", (("cause", "storage"), ("volume", "data"))] == 1
    assert found["duplexd_nbd_connections_refused_total", ()] == 2


@pytest.mark.parametrize("name", ["data", 'a"b', "a\\b", "a b"])
async def test_the_time_of_requests_is_exported_for_operations_that_there_were(name: str) -> None:
    counted = Counted()
    counted.traffic = {name: counted.traffic["data"]}
    for seconds in (0.00002, 0.002, 0.002, 99.0):
        counted.traffic[name].seconds[c.CMD_READ].observe(seconds)
    scrape = scrape_of(FakeController(["data"], {}), [lambda: nbd_metrics(counted)])
    family = "duplexd_nbd_request_duration_seconds"
    found = {key: value for key, value in scraped(scrape).items() if key[0].startswith(family)}
    labels = (("op", "read"), ("volume", name))
    assert {dict(key[1])["op"] for key in found} == {"read"}
    assert found[f"{family}_count", labels] == 4
    assert found[f"{family}_sum", labels] == pytest.approx(99.00402)
    for bound, count in (("1e-05", 0), ("2.5e-05", 1), ("0.0025", 3), ("30.0", 3), ("+Inf", 4)):
        assert found[f"{family}_bucket", (("le", bound), *labels)] == count


async def test_a_failed_controller_shows() -> None:
    controller = FakeController(["data"], {})
    assert scraped(scrape_of(controller))["duplexd_failed", ()] == 0
    controller.failed = "the journal could not be synced"
    assert scraped(scrape_of(controller))["duplexd_failed", ()] == 1


async def test_a_controller_that_refuses_changes_shows_whether_for_good_or_for_now() -> None:
    controller = FakeController(["data"], {})
    seen = []
    for controller.failed, controller.refusal in (("", ""), ("", "no room"), ("no sync", "")):
        seen.append(scraped(scrape_of(controller))["duplexd_refusing", ()])
    assert seen == [0, 1, 1]


async def test_a_journal_that_does_not_answer_shows() -> None:
    controller = FakeController(["data"], {})
    controller.journal_waits_s = 4.5
    found = scraped(scrape_of(controller))
    assert found["duplexd_journal_waiting_seconds", ()] == 4.5


async def test_a_volume_shows_whether_it_is_served_swapped_and_whole() -> None:
    controller = FakeController(["data", "wal"], {})
    controller.refused["data"] = "/a/data.img: no such file"
    controller.leg_errors["data", "primary"] = "no such file"
    controller.swapped.add("wal")
    found = scraped(scrape_of(controller))
    for name, label, expected in (
        ("duplexd_volume_served", (), (0, 1)),
        ("duplexd_volume_swapped", (), (0, 1)),
        ("duplexd_leg_failed", (("role", "primary"),), (1, 0)),
        ("duplexd_leg_failed", (("role", "secondary"),), (0, 0)),
    ):
        values = [found[name, (*label, ("volume", volume))] for volume in ("data", "wal")]
        assert tuple(values) == expected, name


async def test_events_add_up() -> None:
    scrape = scrape_of(FakeController(["data"], {}))
    waited = {"seconds_max": 0.002, "writes_held": 1}
    scrape.figures.note({"event": "released", "held_s": 0.3, "verdict": "void"})
    scrape.figures.note({"event": "suspended", "hold": waited, "verdict": "consistent"})
    scrape.figures.note({"event": "suspended", "hold": waited})
    found = scraped(scrape)
    assert found["duplexd_events_total", (("event", "suspended"),)] == 2
    assert found["duplexd_void_total", ()] == 1
    bounds = ("0.25", "0.5")
    assert [found["duplexd_hold_seconds_bucket", (("le", bound),)] for bound in bounds] == [0, 1]
    assert found["duplexd_cut_wait_seconds_count", ()] == 2


async def test_grades_of_canaries_add_up() -> None:
    scrape = scrape_of(FakeController(["data"], {}))
    scrape.figures.note({"event": "graded", "consistent": True, "records": 7})
    scrape.figures.note({"event": "graded", "consistent": False, "records": 2})
    found = scraped(scrape)
    assert found["duplexd_canary_grades_total", (("result", "consistent"),)] == 1
    assert found["duplexd_canary_grades_total", (("result", "broken"),)] == 1
    assert found["duplexd_canary_records_total", ()] == 9


async def test_a_loop_that_was_blocked_shows_in_the_lag() -> None:
    lag = LoopLag(interval_seconds=0.02)
    lag.start()
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is to be blocked
    await asyncio.sleep(0.01)
    lag.stop()
    assert lag.last_seconds > 0.1 or max(i for i, n in enumerate(lag.histogram.counts) if n) >= 9
