"""How long the slowest writes take while the daemon does all of its other work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from duplexd.units import MIB
from tests.bench.loads import VOLUME_BYTES, fill, fio
from tests.bench.parts import Bench, Part
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.bench.servers import Duplexd

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_MIN = 3.0
PAUSE_SECONDS = 0.2
TAIL = Row(
    "p99.9 by p50 of 4 KiB random writes, depth 32, beside suspends, resyncs and checkpoints",
    "x",
    (Goal(10),),
    limit=True,
)


class _Busy(Duplexd):
    journal_bytes = (
        128 * MIB
    )  # it goes round about once a second: that takes a checkpoint each time


def _measure(bench: Bench) -> dict[str, Measured]:
    with _Busy(bench.place("tail"), VOLUME_BYTES) as server:
        fill(server, server.journal_bytes)
        measures = []
        for _ in range(bench.rounds):
            measures.append(_round(server, max(bench.seconds, SECONDS_MIN)))
            bench.say(f"p99.9 is {measures[-1].value:.1f} x p50")
        return {TAIL.name: {OURS: measures}}


def _round(server: Duplexd, seconds: float) -> Measure:
    ended = threading.Event()
    raised: list[BaseException] = []

    def cut_on() -> None:
        try:
            while not ended.wait(PAUSE_SECONDS):
                server.command("/v1/suspend", {"targets": ["all"]})
                ended.wait(PAUSE_SECONDS)
                server.resync()
        except BaseException as error:  # noqa: BLE001  raised below
            raised.append(error)

    thread = threading.Thread(target=cut_on)
    thread.start()
    try:
        options = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--time_based"]
        options += [f"--runtime={seconds * 1e3:.0f}ms", "--percentile_list=50:99.9"]
        job = fio(server, options, 60 + seconds * 3)
    finally:
        ended.set()
        thread.join()
    if raised:
        raise raised[0]
    latencies = job["write"]["clat_ns"]["percentile"]
    return Measure(latencies["99.900000"] / latencies["50.000000"])


def parts() -> Iterator[Part]:
    yield Part("tail", [TAIL], _measure)
