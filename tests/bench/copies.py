"""Whole volumes copied in and out by the tools that people use for it.

The file that is copied from lies in the page cache, as a backup tool's target does. A copy counts
until the tool has ended; what the server wrote is brought to the disk between copies.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from duplexd.units import GIB, MIB
from tests.bench.loads import fill
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import NBDKIT, OURS, Goal, Measure, Measured, Row
from tests.bench.servers import SERVERS, cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.bench.servers import Server

BYTES = 512 * MIB
SPARSE_BYTES = 16 * GIB
SPARSE_DATA_BYTES = 128 * MIB
SECONDS_MAX = 300.0

COPY_IN = Row("nbdcopy in, 4 connections", "MiB/s", (Goal(0.6, NBDKIT),))
CONVERT_IN = Row("qemu-img convert in", "MiB/s", (Goal(0.8, NBDKIT),))
CONVERT_OUT = Row("qemu-img convert out", "MiB/s", (Goal(0.9, NBDKIT),))
# of the whole size, holes included
SPARSE_OUT = Row("nbdcopy out of a sparse volume", "MiB/s", (Goal(0.9, NBDKIT),))


def commands(source: Path, target: Path, uri: str) -> dict[str, list[str]]:
    """How each row copies, and where to."""
    convert = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"]
    return {
        COPY_IN.name: ["nbdcopy", "--connections=4", str(source), uri],
        CONVERT_IN.name: [*convert, str(source), uri],
        CONVERT_OUT.name: [*convert, uri, str(target)],
    }


def copied(server: Server, command: list[str], size: int) -> Measure:
    """The rate of one copy."""
    server.sync()
    before, began = cpu_s(server.pid), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS_MAX)
    elapsed_s = time.perf_counter() - began
    mebibytes = size / MIB
    return Measure(mebibytes / elapsed_s, (cpu_s(server.pid) - before) / mebibytes * 1e6)


def random_file(path: Path, size: int) -> Path:
    """Data without holes, which no copier finds to be zeroes."""
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
        os.fdatasync(file.fileno())
    return path


def _measure(bench: Bench) -> dict[str, Measured]:
    size = bench.sized(BYTES)
    source = random_file(bench.directory / "source.img", size)
    target = bench.directory / "target.img"
    target.write_bytes(source.read_bytes())
    works: dict[str, dict[str, Callable[[], Measure]]] = {}
    with ExitStack() as stack:
        for name in (OURS, NBDKIT):
            if name not in bench.servers:
                continue
            server = stack.enter_context(SERVERS[name](bench.place(name), size))
            fill(server)
            for row, command in commands(source, target, server.uri()).items():
                works.setdefault(row, {})[name] = partial(copied, server, command, size)
            sparse = stack.enter_context(SERVERS[name](bench.place(f"{name}-sparse"), SPARSE_BYTES))
            _scatter(sparse)
            out = ["nbdcopy", sparse.uri(), "null:"]
            works.setdefault(SPARSE_OUT.name, {})[name] = partial(copied, sparse, out, SPARSE_BYTES)
        found = in_turns(bench, works)
    source.unlink()
    target.unlink()
    return found


def _scatter(server: Server) -> None:
    """Data in every hundredth or so MiB of the volume; the rest are holes."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri()}", "--thread"]
    command += [f"--size={server.size}", f"--io_size={SPARSE_DATA_BYTES}", "--bs=1m"]
    skip = server.size // SPARSE_DATA_BYTES - 1
    command += [f"--rw=write:{skip}m", "--iodepth=8"]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS_MAX)
    server.sync()


def parts() -> Iterator[Part]:
    yield Part("copies", [COPY_IN, CONVERT_IN, CONVERT_OUT, SPARSE_OUT], _measure)
