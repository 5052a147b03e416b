"""What all that operators turn on costs the path of a request: a daemon that is watched beside one
that is left alone, in the same rounds.

The watched one has metrics that are scraped and health that is asked for every second, its page
open, a group with hooks, a scrub that never ends, and `tracked_cuts` with a cut behind it, so that
every write is noted. The other one has none of it. A ratio that is taken within a round says what
the difference costs; hooks and cuts themselves are no part of it.
"""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from duplexd.units import KIB, MIB
from tests.bench.loads import Load, fill
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import Goal, Row
from tests.bench.servers import Duplexd
from tests.support.daemon import UnixConnection, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.rows import Measured
    from tests.support.daemon import DaemonFiles

ALONE = "duplexd alone"
HOST = "127.0.0.1"
VOLUME_BYTES = 128 * MIB
JOURNAL_BYTES = 256 * MIB
ROUNDS_MIN = 9  # quartiles that mean something, of a difference this small
GOAL = (Goal(0.97, ALONE),)
SCRAPE_SECONDS = 1.0
PAGE_EVERY = 2  # seconds; a browser asks every ten, and there may be five
SECONDS_MAX = 60.0


def _row(name: str, load: Load) -> tuple[Row, Load]:
    return Row(f"{name}, watched", load.unit, GOAL), load


LOADS = (
    _row("4 KiB random write, depth 8", Load("randwrite", 4 * KIB, 8)),
    _row("4 KiB random write, depth 32", Load("randwrite", 4 * KIB, 32)),
    _row("1 MiB sequential write, depth 8", Load("write", MIB, 8)),
    _row("4 KiB random read, depth 32", Load("randread", 4 * KIB, 32)),
)


class Alone(Duplexd):
    """Nobody looks at it, and nothing runs in it but requests."""

    name = ALONE
    journal_bytes = JOURNAL_BYTES

    def files(self) -> DaemonFiles:
        files = super().files()
        files.controller = ["tracked_cuts = 0"]
        return files


class Watched(Duplexd):
    """See above."""

    journal_bytes = JOURNAL_BYTES

    def __init__(self, directory: Path, size: int) -> None:
        super().__init__(directory, size)
        self.port = free_port()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.looks = 0  # rounds of the watcher that were answered
        self.fault = ""  # why there are no more

    def files(self) -> DaemonFiles:
        files = super().files()
        files.extra = (
            f'before_suspend = ["/bin/true"]\nafter_suspend = ["/bin/true"]\n'
            f'[metrics]\nlisten = "tcp:{HOST}:{self.port}"\n'
            '[health]\nsuspended_max = "8h"\ncut_age_max = "26h"\n'
            '[scrub]\nevery = "1s"\n'
        )
        return files

    def start(self) -> None:
        super().start()
        self.command("/v1/suspend", {"targets": ["all"], "tag": "before"})
        self.resync()
        self._watcher.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        super().stop()

    def wait_for_scrub(self) -> None:
        """Until the first one has begun: a daemon looks for it now and then."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self._has_scrubbed():
            if time.monotonic() > deadline:
                raise RuntimeError("no scrub has begun")
            time.sleep(0.1)

    def _has_scrubbed(self) -> bool:
        (volume,) = self.daemon.request("GET", "/v1/status")[1]["volumes"]
        return bool(volume["scrub"]["began_time"] or volume["scrub"]["done_time"])

    def check(self, looks: int) -> None:
        """Raises RuntimeError if nobody looked since there were so many looks, or one failed."""
        if self.fault or self.looks == looks:
            raise RuntimeError(f"not watched all the time: {self.fault or 'nobody looked'}")

    def _watch(self) -> None:
        try:
            while not self._stopping.wait(SCRAPE_SECONDS):
                self._look()
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            self.fault = str(error)

    def _look(self) -> None:
        paths = ["/metrics", *(["/"] if self.looks % PAGE_EVERY == 0 else [])]
        for path in paths:
            self._get(http.client.HTTPConnection(HOST, self.port, timeout=SECONDS_MAX), path)
        self._get(UnixConnection(self.daemon.files.control_socket), "/v1/health")
        self.looks += 1

    def _get(self, connection: http.client.HTTPConnection, path: str) -> None:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != http.client.OK or not answer.read():
                raise RuntimeError(f"GET {path}: {answer.status}")
        finally:
            connection.close()


def measure(bench: Bench) -> dict[str, Measured]:
    """Both daemons run all the time, and are loaded in turns."""
    size = bench.sized(VOLUME_BYTES)
    with ExitStack() as stack:
        watched = stack.enter_context(Watched(bench.place("watched"), size))
        alone = stack.enter_context(Alone(bench.place("alone"), size))
        for server in (watched, alone):
            fill(server, bench.sized(JOURNAL_BYTES))
        works = {
            row.name: {
                server.name: partial(load.run, server, bench.seconds) for server in (watched, alone)
            }
            for row, load in LOADS
        }
        watched.wait_for_scrub()
        before = watched.looks
        found = in_turns(bench, works, max(bench.rounds, 0 if bench.small else ROUNDS_MIN))
        watched.check(before)
        return found


def parts() -> Iterator[Part]:
    yield Part("watched", [row for row, _ in LOADS], measure)
