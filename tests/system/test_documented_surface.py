"""docs/metrics.md and docs/json.md agree with a running daemon, in both directions.

A metric, a route or a field of the status that only a unit test assembles would be missing here:
the daemon serves clients, makes cuts, copies and holds, and is then asked for everything.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import ROOT, UnixConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from duplexd.json_object import Json
    from tests.support.daemon import Daemon, DaemonFiles

CUT = "0123456789abcdef"
COPIED_BYTES = 4 << 20  # at 64 KiB a second, longer than the test
JSON_PAGE = (ROOT / "docs" / "json.md").read_text()
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()

# Fields that are documented and not always there: only in some answers, or for some clients.
# of a cut alone; of a daemon that does not serve yet
NOT_IN_STATUS = {
    ("CutStatus", "images"),
    ("CutStatus", "proof"),
    ("ControllerStatus", "starting"),
}


class Metric(NamedTuple):
    """A row of docs/metrics.md, or what a scrape has."""

    name: str
    kind: str
    labels: frozenset[str]


def rows(page: str, columns: int) -> Iterator[list[str]]:
    """The rows of all tables with so many columns, without their heads."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == columns and cells[0].startswith("`"):
            yield cells


def fields(section: str) -> dict[str, str]:
    """The fields of an object of docs/json.md, with their types."""
    text = JSON_PAGE.partition(f"### {section}\n")[2].partition("\n### ")[0]
    found = {cells[0].strip("`"): cells[1] for cells in rows(text, 3)}
    assert found, f"docs/json.md has no table of {section}"
    return found


@pytest.fixture
async def busy(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> AsyncIterator[Daemon]:
    """A daemon with a pair in each state, a cut in doubt, a hold, and clients that were served."""
    files = make_files(
        volumes={"held": "1MiB", "cut": "1MiB", "alone": "1MiB", "new": COPIED_BYTES},
        groups={"db": ["held", "cut"]},
        copy_rate="64KiB",
    )
    files.primary("new").write_bytes(b"x" * COPIED_BYTES)
    daemon = start_daemon(files)
    async with connect(files.uri("held")) as client:
        await client.write(0, b"x" * 4096)
        await client.read(0, 4096)
        await client.flush()
        assert daemon.request("POST", "/v1/suspend", {"targets": ["alone"]})[0] == 200
        daemon.request("POST", f"/v1/cuts/{CUT}/grade", {"consistent": True, "records": 1})
        with hold(daemon, "cut", CUT) as lease:
            cut = {"lease": lease["id"], "fence": lease["fence"]}
            made = daemon.request("POST", f"/v1/cuts/{CUT}", cut | {"members": ["test", "other"]})
            assert made[0] == 200, made
            assert daemon.request("POST", f"/v1/cuts/{CUT}/open", cut)[0] == 200
        with hold(daemon, "held"):
            yield daemon


@contextlib.contextmanager
def hold(daemon: Daemon, volume: str, cut: str | None = None) -> Iterator[Json]:
    """The lease of a hold that lasts as long as the block."""
    connection = UnixConnection(daemon.files.control_socket)
    body = {"targets": [volume], "hold_s": 10.0} | ({"cut": cut} if cut else {})
    connection.request("POST", "/v1/quiesce", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as answer:
        line = json.loads(answer.readline())
        assert line["event"] == "held", line
        yield line["lease"]


# ------------------------------------------------------------------------------------- metrics


def documented_metrics() -> set[Metric]:
    return {
        Metric(name.strip("`"), kind, frozenset(filter(None, labels.split(", "))))
        for name, kind, labels, _unit, _meaning in rows(METRICS_PAGE, 5)
    }


def exported_metrics(text: str) -> set[Metric]:
    found = set()
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found.add(Metric(name, family.type, frozenset(labels)))
    return found


async def test_the_metrics_are_those_of_the_docs(busy: Daemon) -> None:
    exported = exported_metrics(busy.request("GET", "/metrics")[1])
    assert exported == documented_metrics()


async def test_each_volume_metric_has_a_sample_for_every_volume(busy: Daemon) -> None:
    for family in text_string_to_metric_families(busy.request("GET", "/metrics")[1]):
        volumes = {
            sample.labels["volume"] for sample in family.samples if "volume" in sample.labels
        }
        if family.name.startswith(("duplexd_volume", "duplexd_pair", "duplexd_secondary")):
            assert volumes == set(busy.files.volumes), family.name


async def test_nbd_requests_are_counted(busy: Daemon) -> None:
    text = busy.request("GET", "/metrics")[1]
    found = {
        (sample.name, sample.labels.get("volume"), sample.labels.get("op")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["duplexd_nbd_requests_total", "held", "write"] == 1
    assert found["duplexd_nbd_bytes_total", "held", "read"] == 4096
    assert found["duplexd_nbd_requests_total", "held", "flush"] == 1
    assert found["duplexd_cuts_total", None, None] >= 2


def test_the_unit_of_a_metric_is_in_its_name() -> None:
    for name, _kind, _labels, unit, _meaning in rows(METRICS_PAGE, 5):
        assert bool(unit) == bool(re.search(r"_(seconds|bytes)(_|`)", name)), name
        assert unit in name


# -------------------------------------------------------------------------------------- routes


def documented_routes() -> set[tuple[str, str]]:
    found = set()
    for route, *_ in rows(JSON_PAGE, 4):
        method, path = route.strip("`").split()
        found.add((method, path))
    return found


async def test_the_routes_are_those_of_the_docs(busy: Daemon) -> None:
    paths = busy.request("GET", "/openapi.json")[1]["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served == documented_routes()


def test_each_documented_route_is_answered(daemon: Daemon) -> None:
    for method, path in sorted(documented_routes()):
        asked = re.sub("{.*?}", "x", path) + ("?follow=false" if path == "/v1/events" else "")
        body = {"unknown": True} if path == "/v1/restart" else {}  # which would be done
        status, answer = daemon.request(method, asked, None if method == "GET" else body)
        assert status < 500, (method, path)
        assert status != 405, (method, path)
        if status == 404:  # of what the path names, not of the path
            assert "no such path" not in answer["detail"], (method, path)


# -------------------------------------------------------------------------------- the status


def compare(section: str, value: Json, seen: set[str], missing: set[tuple[str, str]]) -> None:
    """One object with its table, then the objects in it with theirs."""
    seen.add(section)
    table = fields(section)
    assert set(value) <= set(table), f"{section}: fields that docs/json.md does not have"
    missing |= {(section, name) for name in set(table) - set(value)}
    for name, found in value.items():
        inner = re.search(r"\[(\w+)\]\(#", table[name])
        for each in found if isinstance(found, list) else [found]:
            if inner and isinstance(each, dict):
                compare(inner[1], each, seen, missing)


async def test_the_status_has_exactly_the_documented_fields(busy: Daemon) -> None:
    status = busy.request("GET", "/v1/status")[1]
    states = {volume["name"]: volume["state"] for volume in status["volumes"]}
    expected = {"held": "DUPLEX", "cut": "SUSPENDED", "alone": "SUSPENDED", "new": "PENDING"}
    assert states == expected
    seen: set[str] = set()
    missing: set[tuple[str, str]] = set()
    compare("Status", status, seen, missing)
    assert missing == NOT_IN_STATUS
    assert {"Cut", "Copy", "CutStatus", "HoldFigures", "HoldPhases", "LeaseStatus"} <= seen
    assert {"Primary", "Secondary", "Rebuild"} <= seen


async def test_readiness_is_that_of_the_controller(busy: Daemon) -> None:
    assert busy.request("GET", "/readyz") == (200, {"status": "ready", "degraded": []})
