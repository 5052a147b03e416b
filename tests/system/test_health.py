"""Health of a real daemon: what nothing reports by itself is a finding, too, and what dashboards
and alerts ask for is exported. docs/health.md is compared; for failing disks see
test_reliability.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duplexd.core.findings import KINDS
from duplexd.nbd_aio.connecting import connect
from tests.support.alerts import RULES
from tests.support.daemon import ROOT, free_port, run_duplexctl
from tests.support.reliability.cases import CASES
from tests.support.reliability.page import HEALTH_PAGE, documented_health
from tests.support.reliability.unwell import OTHER, WAYS, Way, measure_way

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

DASHBOARD = ROOT / "configs" / "grafana-dashboard.json"
NOT_HERE = "tcp:192.0.2.1:10809"  # an address of documentation, which no machine has
_METRIC = re.compile(r"\b(?:duplexd|process)_[a-z_]+")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
async def test_the_page_says_what_each_interface_says(way: Way, tmp_path: Path) -> None:
    measured = await measure_way(way, tmp_path)
    print(" | ".join(measured))
    row = documented_health(HEALTH_PAGE.read_text()).get((OTHER, way.fault))
    assert row == measured, (
        "run `python -m tests.support.reliability.page`, and read the difference"
    )


def test_the_page_has_no_other_rows_and_none_is_green() -> None:
    rows = documented_health(HEALTH_PAGE.read_text())
    cases = [(case.part, case.fault) for case in CASES]
    assert list(rows) == [*cases, *((OTHER, way.fault) for way in WAYS)]
    for row in rows.values():
        assert row.health.startswith("1: `") or (row.health, row.ready) == ("7", "no answer"), row
        assert row.alerts, row


def test_the_page_has_every_kind_with_its_severity() -> None:
    row = re.compile(r"^\| `([a-z-]+)` \| (error|warning) \|", re.MULTILINE)
    kinds = row.findall(HEALTH_PAGE.read_text())
    assert dict(kinds) == KINDS


def test_while_a_daemon_starts_it_is_alive_and_neither_ready_nor_well(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": "1MiB"}, listen=[NOT_HERE])
    daemon = start_daemon(files, ready=False)
    daemon.wait_log("not possible yet")
    assert daemon.request("GET", "/healthz")[1]["status"] == "starting"
    assert daemon.request("GET", "/readyz")[0] == 503
    done = run_duplexctl(files, "health")
    assert (done.returncode, "waiting" in done.stderr) == (7, True), done.stderr


# --------------------------------------------------------------------------- alerts, dashboard


def scraped(port: int) -> str:
    """As Prometheus does it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


async def test_the_listener_exports_every_metric_of_the_alerts_and_the_dashboard(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    port = free_port()
    extra = f'[metrics]\nlisten = "tcp:127.0.0.1:{port}"\n'
    files = make_files(volumes={"data": "1MiB"}, extra=extra)
    start_daemon(files)
    async with connect(files.uri("data")) as client:
        await client.read(0, 512)  # an operation that was never seen has no histogram
        text = await asyncio.to_thread(scraped, port)
    families = text_string_to_metric_families(text)
    exported = {sample.name for family in families for sample in family.samples}
    asked = set(_METRIC.findall(RULES.read_text())) | set(_METRIC.findall(DASHBOARD.read_text()))
    assert asked - exported == set()
    assert len(asked) > 20


def test_prometheus_accepts_the_alerts() -> None:
    command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_can_be_parsed_by_prometheus(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
