"""How many calls a request costs: of Python functions of duplexd, and of the system.

    python -m tests.bench.counts    writes counts.json anew; then say in the commit why it changed

Rates change with the machine; these figures do not, so the tests can hold them. A batch is of one
kind of request, and all of it is in the socket before the daemon looks. The figure is the one that
most of several batches have: timers, markers and a busy machine change that of single ones.

- Python calls are counted in this process by the profiler of the interpreter, in every thread.
- System calls are those of a daemon as users run it, under strace. It is stopped by a signal while
  a batch is sent. Calls that only wait are left out: how often threads wait for each other is up to
  the scheduler.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.architecture.serving import VOLUMES, serving
from tests.architecture.tracer import PACKAGE
from tests.bench.requests import (
    BEGIN_BYTES,
    DEPTHS,
    HELLO_BYTES,
    KINDS,
    batch,
    begin,
    reply_bytes,
)
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

KEPT = Path(__file__).with_name("counts.json")
BATCHES = 9
WARM_UP = 2  # the first write to a region marks it dirty, buffers grow
VOLUME_BYTES = 4 << 20
_WAITING = {"epoll_wait", "epoll_pwait", "futex", "clock_nanosleep", "restart_syscall"}
_CONTINUED = re.compile(r"^\d+ +--- SIGCONT ")
_STOPPED = re.compile(r"^\d+ +--- SIGSTOP ")
_THREAD_STOPPED = re.compile(r"^\d+ +--- stopped by SIGSTOP ---")
_CALL = re.compile(r"^\d+ +(\w+)\(")


class Count(NamedTuple):
    """Of one kind of request at one depth, by request; and which calls a batch made, for a reader
    who looks for the one that was added.
    """

    each: float
    batch: Counter[str]


Counts = dict[str, Count]


def key(kind: str, depth: int) -> str:
    return f"{kind}, depth {depth}"


def usual(batches: list[Counter[str]], depth: int) -> Count:
    """What most batches took: what else happens on the machine changes single ones."""
    totals = Counter(one.total() for one in batches)
    most = max(totals.values())
    total = min(total for total, times in totals.items() if times == most)
    found = next(one for one in batches if one.total() == total)
    return Count(round(total / depth, 2), found)


# ------------------------------------------------------------------------------- Python calls


class _Recorder:
    """Notes the functions of duplexd that are called, in any thread, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.called: list[str] = []
        self._package = str(PACKAGE)

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(self._package):
            self.called.append(frame.f_code.co_qualname)


@contextmanager
def _profiled() -> Iterator[_Recorder]:
    recorder, before = _Recorder(), sys.getprofile()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        yield recorder
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


async def python_calls(directory: Path) -> Counts:
    """By kind and depth."""
    found = {}
    with _profiled() as recorder:
        async with serving(directory):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await _connect(client, directory / "nbd.sock")
                for kind, depth in product(KINDS, DEPTHS):
                    batches = [
                        await _called(recorder, client, kind, depth)
                        for _ in range(WARM_UP + BATCHES)
                    ]
                    found[key(kind, depth)] = usual(batches[WARM_UP:], depth)
    return found


async def _connect(client: socket.socket, path: Path) -> None:
    await asyncio.get_running_loop().sock_connect(client, str(path))
    await _received(client, HELLO_BYTES)
    client.send(begin(VOLUMES[0]))
    await _received(client, BEGIN_BYTES)


async def _received(client: socket.socket, length: int) -> None:
    while length:
        length -= len(await asyncio.get_running_loop().sock_recv(client, length))


async def _called(
    recorder: _Recorder, client: socket.socket, kind: str, depth: int
) -> Counter[str]:
    requests = batch(kind, depth)
    recorder.called.clear()
    recorder.on = True
    # the server runs in this thread: it sees nothing before all of it is there
    assert client.send(requests) == len(requests), "the socket does not take a batch at once"
    await _received(client, reply_bytes(kind, depth))
    recorder.on = False
    return Counter(recorder.called)


# ------------------------------------------------------------------------------- system calls


class TracedDaemon(Daemon):
    """A daemon under strace. Its pid is the one in the trace, not strace's."""

    def __init__(self, files: DaemonFiles) -> None:
        self.trace = files.directory / "trace"
        super().__init__(files, prefix=["strace", "-f", "-qq", "-o", str(self.trace)])

    @property
    def pid(self) -> int:
        return int(self.trace.read_text().split(maxsplit=1)[0])

    def stopped(self) -> None:
        """Stop all threads; return when they are."""
        self._quiet()
        seen = self.trace.stat().st_size
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._threads() <= self._stopped_since(seen):
            assert time.monotonic() < deadline, "not all threads stopped"
            time.sleep(0.001)

    def _quiet(self) -> None:
        """Until every thread waits for something: what the last batch brought about is over, and
        the stop interrupts the same calls each time.
        """
        while any(state != "S" for state in self._states()):
            time.sleep(0.001)

    def _states(self) -> list[str]:
        states = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that ended meanwhile
                states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        return states

    def _threads(self) -> set[str]:
        return {task.name for task in Path(f"/proc/{self.pid}/task").iterdir()}

    def _stopped_since(self, seen: int) -> set[str]:
        with self.trace.open() as trace:
            trace.seek(seen)
            return {line.split()[0] for line in trace if _THREAD_STOPPED.match(line)}

    def batches(self) -> list[Counter[str]]:
        """The calls that were begun between each continuation and the stop after it. One that the
        stop interrupted is begun again by the kernel, which is no doing of the daemon.
        """
        found: list[Counter[str]] = []
        interrupted: set[str] = set()  # threads
        on = False
        for line in self.trace.read_text().splitlines():
            thread = line.split(maxsplit=1)[0]
            if " = ? ERESTART" in line:
                interrupted.add(thread)
            elif thread in interrupted and _CALL.match(line):
                interrupted.remove(thread)
            elif _CONTINUED.match(line):
                found.append(Counter())
                on = True
            elif _STOPPED.match(line):
                on = False
            elif on and (call := _CALL.match(line)) and call[1] not in _WAITING:
                found[-1][call[1]] += 1
        return found


def system_calls(directory: Path) -> Counts:
    """By kind and depth."""
    files = DaemonFiles(directory, {VOLUMES[0]: VOLUME_BYTES})
    daemon = TracedDaemon(files.write())
    runs = list(product(KINDS, DEPTHS))
    try:
        daemon.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect(str(files.nbd_socket))
            _receive(client, HELLO_BYTES)
            client.sendall(begin(VOLUMES[0]))
            _receive(client, BEGIN_BYTES)
            for kind, depth in runs:
                for _ in range(WARM_UP + BATCHES):
                    _exchange(daemon, client, kind, depth)
        daemon.stop()
    finally:
        if daemon.running:
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
    batches = iter(daemon.batches())
    each = [[next(batches) for _ in range(WARM_UP + BATCHES)] for _ in runs]
    return {
        key(kind, depth): usual(counted[WARM_UP:], depth)
        for (kind, depth), counted in zip(runs, each, strict=True)
    }


def _exchange(daemon: TracedDaemon, client: socket.socket, kind: str, depth: int) -> None:
    daemon.stopped()
    client.sendall(batch(kind, depth))
    daemon.signal(signal.SIGCONT)
    _receive(client, reply_bytes(kind, depth))


def _receive(client: socket.socket, length: int) -> None:
    while length:
        data = client.recv(length)
        assert data, "the daemon hung up"
        length -= len(data)


# ------------------------------------------------------------------------------ what is kept


def kept() -> dict[str, dict[str, float]]:
    """The figures of the repository: "python" and "system", each by kind and depth."""
    found: dict[str, dict[str, float]] = json.loads(KEPT.read_text())
    return found


def keep() -> None:
    """Write them anew."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        counts = {
            "python": asyncio.run(python_calls(Path(one))),
            "system": system_calls(Path(other)),
        }
    figures = {
        what: {name: count.each for name, count in counted.items()}
        for what, counted in counts.items()
    }
    KEPT.write_text(json.dumps(figures, indent=1) + "\n")
    print(KEPT.read_text())


if __name__ == "__main__":
    keep()
