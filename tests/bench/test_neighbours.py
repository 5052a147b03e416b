"""What `make neighbours` says of its measures, and that its flood is one."""

from __future__ import annotations

import subprocess
import sys
from time import sleep
from typing import TYPE_CHECKING

import pytest

from tests.bench.neighbours import (
    FLOODED,
    PIECES,
    QUIET,
    VOLUME_BYTES,
    Figures,
    TimedDuplexd,
    flooded,
    hundredth,
    measure,
    punch,
)
from tests.bench.servers import VOLUME, Nbdkit
from tests.bench.timed_turns import SharedSpans, Spans
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def figures(*, alone: float, beside: float) -> Figures:
    return Figures([alone] * 3, [beside] * 3, [0.1] * 3, [Spans(0.004, 0, 0.002, 0)] * 3, [9.0] * 3)


@pytest.mark.parametrize(("beside", "says"), [(9.9, "holds"), (10.1, "too long")])
def test_five_times_as_long_as_alone_and_5_ms_more_is_allowed(beside: float, says: str) -> None:
    assert says in str(figures(alone=1.0, beside=beside))


def test_the_median_of_the_rounds_counts() -> None:
    one_bad = Figures([1.0] * 3, [2.0, 90.0, 2.0], [0.1] * 3, [], [9.0] * 3)
    assert "holds" in str(one_bad)


def test_the_99th_of_100() -> None:
    assert hundredth([0.001] * 99 + [0.5], 99) == 500.0
    assert hundredth([0.001] * 100 + [0.5], 50) == 1.0


def test_two_processes_share_what_was_noted(tmp_path: Path) -> None:
    noting, reading = SharedSpans(tmp_path / "turns"), SharedSpans(tmp_path / "turns")
    for seconds, cpu_seconds in ((0.001, 0.001), (0.030, 0.002), (0.006, 0.0055)):
        noting.note(seconds, cpu_seconds)
    assert reading.read() == Spans(0.030, 2, 0.0055, 1)
    reading.reset()
    assert noting.read() == Spans()


def test_both_clients_are_served_and_the_flood_leaves_nothing(tmp_path: Path) -> None:
    with Nbdkit(tmp_path / "server", 32 * MIB, (FLOODED, QUIET)) as server:
        found = Figures()
        measure(server, "read", 0.1, found)
        assert len(found.alone) == len(found.beside) == 1
        with flooded(server, "write"):
            pass
        assert server.running


def test_the_turns_of_the_daemons_loop_are_measured(tmp_path: Path) -> None:
    with TimedDuplexd(tmp_path / "server", 32 * MIB, (FLOODED, QUIET)) as server:
        found = Figures()
        measure(server, "read", 0.1, found)
    assert found.spans[0].longest_cpu > 0


def test_a_flood_that_ends_is_an_error(tmp_path: Path) -> None:
    with Nbdkit(tmp_path / "server", MIB, (VOLUME,)) as server:
        command = [sys.executable, "-m", "tests.bench.flood", str(server.socket), "none", "read"]
        ended = subprocess.run(
            [*command, "1", "1", "4096"], cwd=ROOT, check=False, timeout=60, capture_output=True
        )
    assert ended.returncode != 0


def test_a_flood_of_block_status_counts_whole_replies(tmp_path: Path) -> None:
    with TimedDuplexd(tmp_path / "server", VOLUME_BYTES, (FLOODED, QUIET, PIECES)) as server:
        punch(server)
        with flooded(server, "status") as rates:
            sleep(1.5)  # it prints a figure each second
    assert rates
    assert rates[0] > 0
