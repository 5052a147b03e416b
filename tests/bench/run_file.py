"""The file that keeps a run's figures, part by part, with what they were measured on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tests.bench.servers import qemu_aio
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from tests.bench.parts import Bench
    from tests.bench.rows import RowResult

MEASURED_FILES = ("duplexd", "pyproject.toml")  # a change of others changes no figure


class PartResult(TypedDict):
    time: str
    load_average: float  # before it: other work on the machine
    rows: list[RowResult]


Basis = dict[
    str, str | int | float | bool
]  # what has to be the same for figures to belong together


@dataclass
class Run:
    path: Path
    basis: Basis
    parts: dict[str, PartResult] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, bench: Bench, *, again: bool = False) -> Self:
        """What the file has, if that was measured on the same; else an empty run."""
        run = cls(path, basis(bench))
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["basis"] == run.basis:
                run.parts = kept["parts"]
            elif not again:
                was = kept["basis"]
                other = [name for name, value in run.basis.items() if was.get(name) != value]
                raise SystemExit(
                    f"{path} is of a run with another {', '.join(other)}; remove it, "
                    "name another file with --file, or replace it with --again"
                )
        return run

    def keep(self, part: str, rows: list[RowResult], load: float) -> None:
        """In the file, too."""
        self.parts[part] = {"time": now(), "load_average": load, "rows": rows}
        text = json.dumps({"basis": self.basis, "parts": self.parts}, indent=1)
        self.path.write_text(text + "\n")

    def results(self) -> Iterator[RowResult]:
        for part in self.parts.values():
            yield from part["rows"]

    def load_average(self) -> float:
        """The highest."""
        return max((part["load_average"] for part in self.parts.values()), default=0.0)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def basis(bench: Bench) -> Basis:
    return {
        "commit": commit(),
        "kernel": os.uname().release,
        "file system": _said("df", "--output=fstype", str(bench.directory)).split()[-1],
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "small": bench.small,
        **_versions(),
        "qemu_aio": qemu_aio(),
    }


def commit() -> str:
    """The last that changed what is measured; with a digest of changes that are not committed."""
    head = _said("git", "log", "-1", "--abbrev=10", "--format=%h", "--", *MEASURED_FILES)
    changes = _said("git", "diff", "HEAD", "--", *MEASURED_FILES)
    return f"{head}+{hashlib.sha256(changes.encode()).hexdigest()[:6]}" if changes else head


def _versions() -> dict[str, str]:
    commands: dict[str, Sequence[str]] = {
        "python": ("python3", "--version"),
        "nbdkit": ("nbdkit", "--version"),
        "qemu": ("qemu-storage-daemon", "--version"),
        "fio": ("fio", "--version"),
    }
    return {name: _said(*command).splitlines()[0] for name, command in commands.items()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def _said(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
