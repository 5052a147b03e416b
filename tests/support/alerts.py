"""Which alerts of configs/prometheus-alerts.yml fire for what a daemon exports, says Prometheus.

`promtool test rules` evaluates the rules over series that it is given: what was scraped before a
fault, for three minutes, then what was scraped after it, for ten. So an alert that has to last is
decided in no time. What fires is read from how promtool says that it expected nothing to fire.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = ROOT / "configs" / "prometheus-alerts.yml"
_BEFORE, _AFTER = 3, 10  # minutes
_LOOKS = ("4m", "8m", "12m")  # soon after, and once it has lasted
_FIRING = 'ALERTS{alertstate="firing"}'
_LABEL = re.compile(r'(\w+)=\\?"(.*?)\\?"')


def firing(before: str, after: str, directory: Path) -> set[str]:
    """The alerts that fire now and did not before; those of findings with the kind."""
    old = _fires(before, before, directory)
    return _fires(before, after, directory) - old


def _fires(before: str, after: str, directory: Path) -> set[str]:
    expected = [{"expr": _FIRING, "eval_time": when, "exp_samples": []} for when in _LOOKS]
    test = {"interval": "1m", "input_series": list(_series(before, after))}
    file = directory / "alerts.test.yml"
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "tests": [{**test, "promql_expr_test": expected}]})
    )
    command = ["promtool", "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in output, output
    return {_named(dict(_LABEL.findall(found))) for found in re.findall(r"\{__name__.*?\}", output)}


def _named(labels: dict[str, str]) -> str:
    return labels["alertname"] + (f" ({labels['kind']})" if "kind" in labels else "")


def _series(before: str, after: str) -> Iterator[dict[str, str]]:
    old, new = _samples(before), _samples(after)
    for name in old.keys() | new.keys():
        values = [old.get(name, "_")] * _BEFORE + [new.get(name, "_")] * _AFTER
        yield {"series": name, "values": " ".join(values)}
    yield {"series": 'up{job="duplexd"}', "values": "1 " * (_BEFORE + _AFTER)}


def _samples(text: str) -> dict[str, str]:
    """Each series of a scrape as Prometheus names it, without histograms: no alert uses one."""
    found = {}
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            continue
        for sample in family.samples:
            labels = {**sample.labels, "job": "duplexd", "instance": "alpha"}
            shown = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
            found[f"{sample.name}{{{shown}}}"] = (
                "NaN" if sample.value != sample.value else repr(float(sample.value))
            )
    return found
