"""A part of the benchmark: rows that are measured together, on the same servers.

Parts are what a run can be divided into: each is kept as soon as it is measured, so that a run that
was ended early, or that goes through a quiet machine's time in pieces, goes on with the next one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.bench.rows import Measure, Measured, Row


@dataclass(frozen=True)
class Bench:
    """How a run measures."""

    directory: Path
    rounds: int
    seconds: float  # that one load takes
    servers: Sequence[str]
    small: bool = False  # a try of the benchmark itself, not of the servers

    def sized(self, size: int) -> int:
        """How large to make an image that is to have `size` bytes."""
        return size // 8 if self.small else size

    def place(self, name: str) -> Path:
        """A directory that does not exist."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)


@dataclass(frozen=True)
class Part:
    """`extra`: measured only when it is asked for."""

    name: str
    rows: Sequence[Row]
    measure: Callable[[Bench], Mapping[str, Measured]]  # by name of the row
    extra: bool = False


def in_turns(
    bench: Bench,
    works: Mapping[str, Mapping[str, Callable[[], Measure]]],
    rounds: int = 0,
) -> dict[str, Measured]:
    """Do the work of each row on each server, round by round. The server that is first changes from
    round to round.
    """
    measured: dict[str, Measured] = {
        row: {server: [] for server in servers} for row, servers in works.items()
    }
    count = rounds or bench.rounds
    for number in range(count):
        for row, servers in works.items():
            order = list(servers)
            first = number % len(order)
            for server in order[first:] + order[:first]:
                measured[row][server].append(servers[server]())
            latest = ", ".join(
                f"{server} {measures[-1].value:,.0f}" for server, measures in measured[row].items()
            )
            bench.say(f"{number + 1}/{count} {row}: {latest}")
    return measured
