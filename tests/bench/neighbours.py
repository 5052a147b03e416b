"""A client beside one that floods another volume: `make neighbours`.

    make neighbours                                  three rounds of all floods: 5 minutes
    make neighbours ARGS="--only flush --rounds 1"   some of them

For each flood the servers take turns, round by round. A client writes 4 KiB at a time, first alone,
then beside the flood, so each figure is compared with one of the same minute. What is to hold is
p99 <= 5 x p99 alone + 5 ms. Of duplexd it is also said how long its event loop did not look for
events, at the longest, and how often for more than 5 ms (`timed_turns.py`).

Figures are medians of the rounds, but of the longest turn, which is the longest of all. They are
those of servers only on a machine that has nothing else to do: with two cores, and one busy client
of each kind, the scheduler's turns are in all of them.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from duplexd.units import KIB, MIB
from tests.bench.flood import REPLY_BYTES, connect, request
from tests.bench.loads import fill
from tests.bench.run_file import load_average
from tests.bench.servers import Duplexd, Nbdkit, Server
from tests.bench.timed_turns import SharedSpans
from tests.support.daemon import ROOT, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.timed_turns import Spans

FLOODED, QUIET = "data", "wal"
PIECES = "pieces"  # is flooded by those who ask what is data: every second block of it is a hole
VOLUME_BYTES = 64 * MIB
WARMING_SECONDS = 0.5
ANSWER_SECONDS_MAX = 60.0
# kind, connections, requests in flight of each, bytes of each
FLOODS = {
    "read-large": ("read", 8, 8, 32 * MIB),
    "read": ("read", 4, 16, MIB),
    "write": ("write", 4, 64, MIB),
    "write-small": ("write", 1, 64, 4 * KIB),
    "write-many": ("write", 1, 16384, 4 * KIB),
    "trim": ("trim", 1, 16384, 4 * KIB),
    "flush": ("flush", 4, 16384, 0),
    "status": ("status", 4, 16, VOLUME_BYTES),
}


class _TimedDaemon(Daemon):
    def command(self) -> list[str]:
        _python, _m, _duplexd, *rest = super().command()
        return [sys.executable, "-m", "tests.bench.timed_turns", *rest]


class TimedDuplexd(Duplexd):
    """With the clock on its loop."""

    journal_bytes = 256 * MIB

    def start(self) -> None:
        path = self.directory / "turns"
        self.spans = SharedSpans(path)
        files = self.files()
        self.daemon = _TimedDaemon(files.write(), env={"PYTHONPATH": str(ROOT), "TURNS": str(path)})
        self.daemon.start()


@dataclass
class Figures:
    """Of one server beside one flood: a value for each round, waits in ms."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    beside_median: list[float] = field(default_factory=list)
    spans: list[Spans] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # of the flood, replies a second

    @property
    def allowed(self) -> float:
        """What p99 may be, by the p99 alone."""
        return 5 * median(self.alone) + 5

    def __str__(self) -> str:
        holds = "holds" if median(self.beside) <= self.allowed else "too long"
        beside = f"{median(self.beside_median):7.2f} {median(self.beside):7.2f}"
        rest = f"{holds:8} {_turns(self.spans)} {median(self.rates):9,.0f}"
        return f"{median(self.alone):7.2f} {beside} {self.allowed:7.1f} {rest}"


HEAD = (
    f"{'flood':12} {'server':8} {'p99':>7} {'p50':>7} {'p99':>7} {'at most':>7} {'':8}"
    f" {'longest turn':>12} {'CPU':>6} {'> 5 ms':>6} {'flood':>9}\n"
    f"{'':21} {'alone':>7} {'beside':>7} {'beside':>7} {'':>7} {'':8} {'':>12} {'':>6} {'':>6}"
    f" {'1/s':>9}"
)


def _turns(spans: Sequence[Spans]) -> str:
    if not spans:
        return f"{'-':>12} {'-':>6} {'-':>6}"
    longest, cpu = max(each.longest for each in spans), max(each.longest_cpu for each in spans)
    return f"{longest * 1e3:12.1f} {cpu * 1e3:6.1f} {sum(each.long for each in spans):6}"


def hundredth(waits_s: Sequence[float], number: int) -> float:
    """That many of a hundred took no longer, in ms."""
    return sorted(waits_s)[len(waits_s) * number // 100] * 1000


def write_one_by_one(client: socket.socket, seconds: float) -> list[float]:
    """How long each write took, in seconds."""
    waits_s: list[float] = []
    places = cycle([request("write", 4 * KIB, at * 4 * KIB) for at in range(256)])
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        client.sendall(next(places))
        reply = client.recv(REPLY_BYTES, socket.MSG_WAITALL)
        assert reply[4:8] == bytes(4), reply
        waits_s.append(time.monotonic() - began)
    return waits_s


def volume_of(name: str) -> str:
    """Which one the flood is of."""
    return PIECES if FLOODS[name][0] == "status" else FLOODED


def punch(server: Server) -> None:
    """Every second block of a volume becomes a hole."""
    with connect(str(server.socket), PIECES) as client:
        client.settimeout(ANSWER_SECONDS_MAX)
        for first in range(0, VOLUME_BYTES, 64 * 8 * KIB):
            places = range(first, first + 64 * 8 * KIB, 8 * KIB)
            client.sendall(b"".join(request("trim", 4 * KIB, place) for place in places))
            replies = client.recv(REPLY_BYTES * len(places), socket.MSG_WAITALL)
            assert not any(any(replies[at + 4 : at + 8]) for at in range(0, len(replies), 16))
        client.sendall(request("goodbye", 0))
    server.sync()


@contextmanager
def flooded(server: Server, name: str) -> Iterator[list[float]]:
    """The flood runs within; then the list has what it was answered, in each second."""
    words = [volume_of(name), *map(str, FLOODS[name])]
    command = [sys.executable, "-m", "tests.bench.flood", str(server.socket), *words]
    rates: list[float] = []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(WARMING_SECONDS)
        assert process.poll() is None, f"the flood {name} ended"
        yield rates
    finally:
        process.terminate()
        out, _ = process.communicate()
        rates += map(float, out.split())


def measure(server: Server, name: str, seconds: float, into: Figures) -> None:
    """One round of one server."""
    with connect(str(server.socket), QUIET) as client:
        client.settimeout(ANSWER_SECONDS_MAX)
        write_one_by_one(client, seconds / 4)
        into.alone.append(hundredth(write_one_by_one(client, seconds), 99))
        with flooded(server, name) as rates:
            if isinstance(server, TimedDuplexd):
                server.spans.reset()
            waits_s = write_one_by_one(client, seconds)
            if isinstance(server, TimedDuplexd):
                into.spans.append(server.spans.read())
        into.beside.append(hundredth(waits_s, 99))
        into.beside_median.append(hundredth(waits_s, 50))
        into.rates.append(median(rates or [0]))


def run(directory: Path, names: Sequence[str], rounds: int, seconds: float) -> bool:
    """Print a table; whether the bound holds for duplexd everywhere."""
    holds = True
    print(f"load of the machine: {load_average():.1f}", HEAD, sep="\n", flush=True)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(made(directory / made.name, VOLUME_BYTES, (FLOODED, QUIET, PIECES)))
            for made in (TimedDuplexd, Nbdkit)
        ]
        for server in servers:
            fill(server, VOLUME_BYTES)
            punch(server)
        for name in names:
            figures = {server.name: Figures() for server in servers}
            for number in range(rounds):
                for server in servers if number % 2 else servers[::-1]:
                    measure(server, name, seconds, figures[server.name])
            for server in servers:
                print(f"{name:12} {server.name:8} {figures[server.name]}", flush=True)
            ours = figures[TimedDuplexd.name]
            holds = holds and median(ours.beside) <= ours.allowed
    print(f"load of the machine: {load_average():.1f}")
    return holds


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="make neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=FLOODS, default=list(FLOODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each part of a round")
    options = parser.parse_args(words)
    directory = Path(tempfile.mkdtemp(prefix="duplexd-neighbours-"))
    try:
        return 0 if run(directory, options.only, options.rounds, options.seconds) else 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
