"""A real Prometheus that scrapes real daemons and evaluates our alerts, every second.

The rules are those of configs/prometheus-alerts.yml, but for one thing: an alert that has to last
five minutes has to last a second here, and one that has to last a minute, of a daemon that does not
answer, five seconds: a scrape may fail on a busy machine. The process has its data in a directory
of the test, listens on 127.0.0.1 only, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from tests.support.alerts import RULES
from tests.support.daemon import PATIENCE_SECONDS, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INTERVAL = "1s"
_FIRING = 'ALERTS{alertstate="firing"}'
_FIRED = "count by (instance, alertname, kind) (count_over_time(" + _FIRING + "[10m]))"
_LASTS = re.compile(r"^( +for:) (1m|5m)$", re.MULTILINE)
_SHORTER = {"1m": "5s", "5m": "1s"}
# A disk that is slow because the machine is busy does this to any daemon.
_SLOW_DISK = {("DuplexdServiceNotWell", "journal-silent"), ("DuplexdNotWell", "disk-silent")}


class Prometheus:
    """A context manager. `targets` are ports of 127.0.0.1 by the name that alerts give them."""

    def __init__(self, directory: Path, targets: Mapping[str, int]) -> None:
        self._directory = directory
        self._targets = targets
        self._port = free_port()
        self._log = directory / "prometheus.log"

    def __enter__(self) -> Self:
        rules = self._directory / "alerts.yml"
        rules.write_text(
            _LASTS.sub(lambda match: f"{match[1]} {_SHORTER[match[2]]}", RULES.read_text())
        )
        config = self._directory / "prometheus.yml"
        config.write_text(json.dumps(self._config(rules)))  # YAML is a superset of JSON
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self._directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _config(self, rules: Path) -> dict[str, Any]:
        scraped = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
            for name, port in self._targets.items()
        ]
        return {
            "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "duplexd", "static_configs": scraped}],
        }

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample, now."""
        asked = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{asked}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            found = json.load(answer)["data"]["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    async def until(self, expression: str, targets: set[str]) -> None:
        """Wait until it has a sample for each of them."""
        deadline, found = time.monotonic() + PATIENCE_SECONDS, set[str]()
        while not targets <= found:
            assert time.monotonic() < deadline, f"{expression}: {found}\n{self._log.read_text()}"
            assert self._process.poll() is None, self._log.read_text()
            await asyncio.sleep(0.1)
            with contextlib.suppress(urllib.error.URLError, ConnectionError):  # it starts
                samples = await asyncio.to_thread(self.query, expression)
                found = {labels["instance"] for labels, _ in samples}

    async def until_firing(self, instance: str, alerts: set[str]) -> None:
        """Wait until exactly these fire there."""
        deadline, firing = time.monotonic() + PATIENCE_SECONDS, {""}
        while firing != alerts:
            assert time.monotonic() < deadline, f"{instance}: {firing}, not {alerts}"
            await asyncio.sleep(0.1)
            samples = await asyncio.to_thread(self.query, _FIRING)
            firing = {each["alertname"] for each, _ in samples if each["instance"] == instance}

    def fired(self) -> dict[str, set[str]]:
        """What has ever fired, by target, but for what a slow disk does."""
        found = {name: set[str]() for name in self._targets}
        for labels, _ in self.query(_FIRED):
            if (labels["alertname"], labels.get("kind")) not in _SLOW_DISK:
                found[labels["instance"]].add(labels["alertname"])
        return found
