"""`make bench-quick REV=...`: this working tree beside another revision of it.

    make bench-quick REV=main               under three minutes
    make bench-quick REV=main ARGS="--only 'depth 1'"

Both daemons run at the same time on volumes that are prepared alike, and are loaded in turns. The
figures are ratios within a round: rate of this tree by rate of the revision, CPU time likewise.

| verdict | when |
|---|---|
| ok | the median of the rates' ratios is within the bound |
| unclear | it is not, but the rounds do not agree: this may be the machine |
| SLOWER | it is not, and this tree was behind in nearly all rounds (8 of 9: by chance 1 in 50) |

A row that is not ok makes the exit status 1. On a shared machine look at CPU time first: other work
takes turns away, but adds little to what a request costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.units import KIB, MIB
from tests.bench.loads import Load, fill
from tests.bench.rows import Measure, Spread, ratios
from tests.bench.run_file import load_average
from tests.bench.servers import Duplexd
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VOLUME_BYTES = 128 * MIB
JOURNAL_BYTES = 256 * MIB
ROUNDS_MIN = 5
AGREED_MIN = 0.85  # of the rounds
SECONDS_MAX = 150.0  # fewer rounds on a slow machine
WITHIN, WITHIN_DEPTH_1 = 0.03, 0.15  # how much slower a change to the write path may make it


class Compared(NamedTuple):
    load: Load
    within: float


LOADS = {
    "4 KiB random write, depth 1": Compared(Load("randwrite", 4 * KIB), WITHIN_DEPTH_1),
    "4 KiB random write, depth 8": Compared(Load("randwrite", 4 * KIB, 8), WITHIN),
    "4 KiB random write, depth 32": Compared(Load("randwrite", 4 * KIB, 32), WITHIN),
    "4 KiB random read, depth 32": Compared(Load("randread", 4 * KIB, 32), WITHIN),
    "4 KiB write + flush, depth 1": Compared(Load("write", 4 * KIB, flush=True), WITHIN_DEPTH_1),
    "1 MiB sequential write, depth 8": Compared(Load("write", MIB, 8), WITHIN),
}


@dataclass(frozen=True)
class Comparison:
    """This tree by the revision."""

    rate: Spread
    cpu: Spread
    within: float
    rounds: int
    behind: int  # in how many of the rounds this tree had the lower rate

    @property
    def verdict(self) -> str:
        least = 1 - self.within
        if self.rate["median"] >= least:
            return "ok"
        agreed = self.rounds >= ROUNDS_MIN and self.behind >= AGREED_MIN * self.rounds
        return "SLOWER" if agreed else "unclear"


class _Revision(Duplexd):
    journal_bytes = JOURNAL_BYTES

    def __init__(self, directory: Path, root: Path) -> None:
        super().__init__(directory, VOLUME_BYTES)
        self.root = root


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench-quick",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revision", help="a commit, branch or tag")
    parser.add_argument("--rounds", type=int, default=9, help="at most (default: 9)")
    parser.add_argument("--seconds", type=float, default=0.6, help="of a load (default: 0.6)")
    parser.add_argument("--only", default="", metavar="TEXT", help="loads with TEXT in their name")
    parser.add_argument("--directory", help="of the images (default: the temporary directory)")
    options = parser.parse_args(arguments)
    # so that what was started is ended and removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    loads = {name: one for name, one in LOADS.items() if options.only in name}
    if not loads:
        parser.error(f"--only {options.only!r} is in none of: {', '.join(LOADS)}")
    directory = Path(tempfile.mkdtemp(prefix="duplexd-bench-", dir=options.directory))
    try:
        with checked_out(options.revision, directory / "revision") as other:
            found = compare(directory, other, loads, options.rounds, options.seconds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(*shown(found, options.revision), sep="\n")
    return int(any(one.verdict != "ok" for one in found.values()))


@contextmanager
def checked_out(revision: str, place: Path) -> Iterator[Path]:
    """A worktree of the revision. Both run in this tree's virtual environment."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
    try:
        if (place / "pyproject.toml").read_bytes() != (ROOT / "pyproject.toml").read_bytes():
            print("pyproject.toml differs: both run with the libraries of this tree", flush=True)
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def compare(
    directory: Path, other: Path, loads: Mapping[str, Compared], rounds: int, seconds: float
) -> dict[str, Comparison]:
    """By load; `other` is the checkout of the revision."""
    measured: dict[str, tuple[list[Measure], list[Measure]]] = {name: ([], []) for name in loads}
    began = time.monotonic()
    with (
        _Revision(directory / "ours", ROOT) as ours,
        _Revision(directory / "other", other) as theirs,
    ):
        for server in (ours, theirs):
            fill(server, JOURNAL_BYTES)
        for number in range(rounds):
            for name, (load, _within) in loads.items():
                pairs = list(zip((ours, theirs), measured[name], strict=True))
                for server, measures in pairs[:: 1 if number % 2 else -1]:
                    measures.append(load.run(server, seconds))
            elapsed_s = time.monotonic() - began
            print(f"round {number + 1}/{rounds}, {elapsed_s:.0f} s", flush=True)
            if number + 1 >= ROUNDS_MIN and elapsed_s > SECONDS_MAX:
                break
    return {name: compared(*both, loads[name].within) for name, both in measured.items()}


def compared(mine: Sequence[Measure], its: Sequence[Measure], within: float) -> Comparison:
    """Of one load, by the measures of each round."""
    rates = [one.value for one in mine], [one.value for one in its]
    cpu = ratios([one.cpu_us for one in mine], [one.cpu_us for one in its])
    behind = sum(one < other for one, other in zip(*rates, strict=True))
    return Comparison(ratios(*rates), cpu, within, len(mine), behind)


def shown(found: Mapping[str, Comparison], revision: str) -> Iterator[str]:
    """Lines of a table."""
    yield ""
    yield (
        f"this tree by {revision}, median (quartiles); load average {load_average()} "
        f"on {os.cpu_count()} cores"
    )
    yield f"{'':34}{'rate':>20}{'CPU a request':>20}   at least"
    for name, one in found.items():
        least = f"{1 - one.within:.2f}"
        yield f"{name:34}{_spread(one.rate):>20}{_spread(one.cpu):>20}   {least}  {one.verdict}"


def _spread(values: Spread) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f}-{values['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
