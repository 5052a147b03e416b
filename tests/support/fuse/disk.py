"""The test's side: starts the file system, says what goes wrong, ends it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.fuse.faults import Fault
from tests.support.fuse.mounting import NoFuseError, unmount

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class ActiveFault:
    """A fault in force."""

    disk: FaultyDisk
    number: int

    def lift(self, error: int = 0) -> int:
        """End it. What hangs is carried out now, or fails with `error`; how many requests."""
        return self.disk.lift(self.number, error)

    def met(self) -> int:
        """How often an operation met it."""
        return self.disk.ask(do="met", number=self.number)["met"]

    def hanging(self) -> int:
        """How many requests hang of it now."""
        return self.disk.ask(do="met", number=self.number)["hanging"]

    def wait_met(self, times: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
        """Return when it was met so often."""
        deadline = time.monotonic() + seconds
        while self.met() < times:
            assert time.monotonic() < deadline, f"the fault was met {self.met()} times of {times}"
            time.sleep(0.005)


class FaultyDisk:
    """A mount at `path` of what is in `below`. Methods may be called from any thread."""

    def __init__(self, path: Path, cached: bool = False, volatile: bool = False) -> None:
        self.path = path
        self.below = path.with_name(path.name + ".disk")
        for directory in (self.path, self.below):
            directory.mkdir(exist_ok=True)
        flags = [*(["--cached"] if cached else []), *(["--volatile"] if volatile else [])]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.fuse.server",
                str(self.path),
                str(self.below),
                *flags,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # signals to the group of the tests are not for it
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._answer()

    @property
    def pid(self) -> int:
        """The process of the file system."""
        return self._process.pid

    def ask(self, **command: object) -> dict[str, int]:
        """One command of the server."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the file system ended; see what it wrote to standard error"
        answer = json.loads(line)
        if "error" in answer:
            raise NoFuseError(answer["error"])
        numbers: dict[str, int] = answer
        return numbers

    def add(self, fault: Fault) -> ActiveFault:
        return ActiveFault(self, self.ask(do="add", fault=asdict(fault))["number"])

    def fail(
        self,
        operation: str = "",
        pattern: str = "*",
        error: int = errno.EIO,
        *,
        start: int = 0,
        end: int | None = None,
        times: int | None = None,
        skip: int = 0,
        until_written: bool = False,
    ) -> ActiveFault:
        """Operations, all if none is named, fail on files whose path in the disk matches."""
        names = tuple(operation.split())
        return self.add(
            Fault(
                names,
                pattern,
                error,
                start,
                end,
                times=times,
                skip=skip,
                until_written=until_written,
            )
        )

    def hang(
        self,
        operation: str = "",
        pattern: str = "*",
        *,
        times: int | None = None,
        skip: int = 0,
        killable: bool = True,
    ) -> ActiveFault:
        """Operations get no answer until the fault is lifted."""
        names = tuple(operation.split())
        return self.add(Fault(names, pattern, None, times=times, skip=skip, killable=killable))

    def read_only(self) -> ActiveFault:
        """EROFS for all that would change something."""
        return self.add(Fault(error=errno.EROFS, only_changes=True))

    def fill(self, room_bytes: int | None = 0) -> None:
        """ENOSPC once so many bytes more have been given to files; None lifts the limit."""
        self.ask(do="limit", bytes=room_bytes)

    def forget(self, seed: int | None = None) -> int:
        """Take back what was not synced: all of it, or by `seed` each change with even chance.
        Needs `volatile=True`. How many changes were lost.
        """
        return self.ask(do="forget", seed=seed)["lost"]

    def lift(self, number: int | None = None, error: int = 0) -> int:
        """End one fault, or all. How many requests hung."""
        return self.ask(do="lift", number=number, error=error)["ended"]

    def close(self) -> None:
        """Unmount; what hangs gets ENOTCONN."""
        self._process.kill()
        self._process.communicate()
        unmount(str(self.path))


@contextmanager
def faulty_disk(path: Path, cached: bool = False, volatile: bool = False) -> Iterator[FaultyDisk]:
    """A disk for the time of a `with`."""
    disk = FaultyDisk(path, cached, volatile)
    try:
        yield disk
    finally:
        disk.close()
