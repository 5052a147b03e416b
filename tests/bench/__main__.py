"""`python -m tests.bench [--rounds N] [--quick] [--json FILE]`: the benchmark; `make bench` runs
it.

All servers run at the same time on one file system, one is loaded at a time, in turns: a ratio
compares measures that are seconds apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duplexd.units import GIB, KIB, MIB
from tests.bench.controllers import SHAPES, measure_pause
from tests.bench.loads import LOADS, Load, fill
from tests.bench.memory import LARGE_VOLUMES, measure_large
from tests.bench.report import Results, describe_pause, summarize, table
from tests.bench.servers import SERVERS, Server, peak_rss_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

VOLUME_BYTES = 256 * MIB
FREE_BYTES_MIN = 8 * GIB


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it all; print the tables, write the JSON."""
    options = _options(arguments)
    # so that what was started is ended and removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seconds = 0.5 if options.quick else options.seconds
    rounds = 1 if options.quick else options.rounds
    directory = Path(tempfile.mkdtemp(prefix="duplexd-bench-", dir=options.directory))
    try:
        if shutil.disk_usage(directory).free < FREE_BYTES_MIN:
            raise SystemExit(
                f"{directory}: needs {FREE_BYTES_MIN // GIB} GiB free; choose another place with "
                "--directory"
            )
        results = _measure(directory, options, rounds, seconds)
        if "duplexd" in options.servers and not options.loads:
            results |= _measure_groups(directory, options.quick)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {options.json}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each load runs on each server (default: 5)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one run (default: 2)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round: to see that it works, not for figures",
    )
    parser.add_argument(
        "--json",
        default="bench.json",
        metavar="FILE",
        help="where to write the figures (default: bench.json)",
    )
    parser.add_argument(
        "--directory", default=None, help="where the images lie (default: the temporary directory)"
    )
    parser.add_argument(
        "--servers", nargs="+", default=list(SERVERS), choices=SERVERS, help="which servers to run"
    )
    parser.add_argument(
        "--loads",
        default="",
        metavar="TEXT",
        help="only the loads whose name contains TEXT, and no group cuts",
    )
    return parser.parse_args(arguments)


def _measure(
    directory: Path, options: argparse.Namespace, rounds: int, seconds: float
) -> dict[str, Any]:
    results: Results = {}
    rss = dict.fromkeys(options.servers, 0)
    for filled in (4 * KIB, MIB):
        loads = [load for load in LOADS if options.loads in load.name and load.filled == filled]
        if not loads:
            continue
        with contextlib.ExitStack() as stack:
            place = directory / f"filled-{filled}"
            servers: list[Server] = [
                stack.enter_context(SERVERS[name](place / name, VOLUME_BYTES))
                for name in options.servers
            ]
            for server in servers:
                fill(server, filled)
            results |= _run(servers, loads, rounds, seconds)
            rss = {
                server.name: max(rss[server.name], peak_rss_bytes(server.pid)) for server in servers
            }
        shutil.rmtree(place)
    summary = summarize(results)
    print(
        f"\nmedians of {rounds} rounds of {seconds} s; x: duplexd's figure by the other's\n",
        *table(summary, options.servers),
        sep="\n",
    )
    print(
        "peak RSS: " + ", ".join(f"{name} {value / MIB:.0f} MiB" for name, value in rss.items()),
        flush=True,
    )
    return {
        **_machine(),
        "rounds": rounds,
        "seconds": seconds,
        "loads": summary,
        "peak_rss_bytes": rss,
    }


def _run(servers: list[Server], loads: list[Load], rounds: int, seconds: float) -> Results:
    measures: Results = {load.name: {server.name: [] for server in servers} for load in loads}
    for number in range(rounds):
        for load in loads:
            for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                measures[load.name][server.name].append(load.run(server, seconds))
            print(
                f"round {number + 1}/{rounds}: {load.name}: " + _last(measures[load.name]),
                flush=True,
            )
    return measures


def _last(servers: dict[str, list[Any]]) -> str:
    return ", ".join(
        f"{name} {measures[-1].per_second:,.0f}/s" for name, measures in servers.items()
    )


def _measure_groups(directory: Path, quick: bool) -> dict[str, Any]:
    pauses = []
    for shape in SHAPES:
        place = directory / f"pause-{shape.controllers}-{shape.volumes}"
        pauses.append(measure_pause(place, shape._replace(suspends=2) if quick else shape))
        print(*describe_pause(pauses[-1]), sep="\n", flush=True)
        shutil.rmtree(place)
    large = measure_large(directory / "large")
    print(f"peak RSS with {LARGE_VOLUMES} volumes of 1 TiB: {large / MIB:.0f} MiB", flush=True)
    return {"pauses": pauses, "peak_rss_bytes_64_volumes_of_1_tib": large}


def _machine() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
