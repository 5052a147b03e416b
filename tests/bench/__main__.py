"""`make bench`: the table of docs/performance.md, measured.

    make bench                              everything that docs/performance.md asks for: 12 minutes
    make bench ARGS="--only requests tail"  some parts of it (--list names them)
    make bench ARGS=--publish               and write docs/performance.md, its picture, the history

The figures are kept in a file, part by part. The next run of the same commit on the same machine
measures only the parts that are missing there.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.units import GIB
from tests.bench import (
    backups,
    catching_up,
    controllers,
    copies,
    filesystem,
    footprint,
    grid,
    loads,
    marks,
    publish,
    tail,
    watched,
)
from tests.bench.parts import Bench, Part
from tests.bench.rows import described, summarize
from tests.bench.run_file import Run, load_average
from tests.bench.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Sequence

FREE_BYTES_MIN = 16 * GIB
SMALL_SECONDS, SMALL_ROUNDS = 0.2, 2
MODULES = (
    loads,
    copies,
    catching_up,
    footprint,
    tail,
    grid,
    filesystem,
    controllers,
    watched,
    backups,
    marks,
)
PARTS = {part.name: part for module in MODULES for part in module.parts()}
GRID = PARTS["grid"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is wanted and not known yet; print it, keep it."""
    options = _options(arguments)
    # so that what was started is ended and removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="duplexd-bench-", dir=options.directory))
    try:
        if shutil.disk_usage(directory).free < FREE_BYTES_MIN:
            raise SystemExit(
                f"{directory}: needs {FREE_BYTES_MIN // GIB} GiB free; choose another place with "
                "--directory"
            )
        bench = Bench(
            directory, options.rounds, options.seconds, tuple(options.servers), options.small
        )
        run = Run.open(Path(options.file), bench, again=options.again)
        for part in _wanted(options):
            if part.name in run.parts and not options.again:
                print(f"{part.name}: measured already, kept in {options.file}", flush=True)
            else:
                _measure(bench, part, run)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("", *(described(result) for result in run.results()), sep="\n")
    print(f"\nkept in {options.file}")
    if options.publish:
        rows = [row for part in PARTS.values() if part is not GRID for row in part.rows]
        publish.publish(run, rows, GRID.rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts")
    parser.add_argument("--all", action="store_true", help="extra parts, too: half an hour more")
    parser.add_argument("--list", action="store_true", help="list the parts and their rows")
    parser.add_argument("--rounds", type=int, default=5, help="of each load (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a load (default: 0.8)")
    parser.add_argument(
        "--small",
        action="store_true",
        help="short and small: to see that it works, not for figures",
    )
    parser.add_argument("--file", default="bench.json", help="of the figures (default: bench.json)")
    parser.add_argument("--again", action="store_true", help="measure what is in the file, too")
    parser.add_argument("--directory", help="of the images (default: the temporary directory)")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument(
        "--publish", action="store_true", help="write docs/performance.md and the history"
    )
    options = parser.parse_args(arguments)
    if options.list:
        for part in PARTS.values():
            print(f"{part.name}{' (extra)' if part.extra else ''}")
            print(*(f"    {row.name}: {row.to_reach}" for row in part.rows), sep="\n")
        raise SystemExit(0)
    if options.small:
        options.rounds, options.seconds = SMALL_ROUNDS, SMALL_SECONDS
    return options


def _wanted(options: argparse.Namespace) -> list[Part]:
    if options.only:
        return [PARTS[name] for name in options.only]
    return [part for part in PARTS.values() if options.all or not part.extra]


def _measure(bench: Bench, part: Part, run: Run) -> None:
    print(f"{part.name}:", flush=True)
    began, load = time.monotonic(), load_average()
    measured = part.measure(bench)
    results = [summarize(row, measured[row.name]) for row in part.rows if measured.get(row.name)]
    run.keep(part.name, results, load)
    for result in results:
        print(f"  {described(result)}")
    print(f"  took {time.monotonic() - began:.0f} s", flush=True)
    for place in bench.directory.iterdir():
        with suppress(NotADirectoryError):
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
