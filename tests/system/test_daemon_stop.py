"""A stop on a bad day: it ends, whatever hangs, and its exit code says what happened.

A disk that hangs or fails is a call of `os` that does, in a daemon of its own process: from the
moment on at which the file `hang` or `fail` lies beside its configuration. Files with the names of
limits make these short, for stops that are to be given up: other stops take as long as they take.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import DaemonFiles

PROGRAM = """
import errno, os, pathlib, sys, threading
from dataclasses import replace
from duplexd import limits
from duplexd.daemon import process
from duplexd.daemon.program import main

sync, here = os.fdatasync, pathlib.Path(sys.argv[-1]).parent

def fdatasync(descriptor):
    if (here / "fail").exists():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if (here / "hang").exists():
        threading.Event().wait()
    sync(descriptor)

os.fdatasync = fdatasync
names = ("stop_seconds_max", "stop_journal_seconds_max")
short = {name: 0.5 for name in names if (here / name).exists()}
of_daemon = replace(limits.DaemonLimits(), **short)
process.Limits = lambda: replace(limits.Limits(), daemon=of_daemon)
main()
"""


class Breakable(Daemon):
    """A daemon whose disk can be made to hang or to fail."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", PROGRAM, "run", "--config", str(self.files.config)]

    def breaks(self, how: str) -> None:
        (self.files.directory / how).touch()

    def start_impatient(self, limit: str) -> None:
        """Start with half a second for a stop."""
        self.breaks(limit)
        self.start()

    def is_repaired(self) -> None:
        """Its disk answers, and its next start has the limits of every daemon."""
        for name in ("hang", "stop_seconds_max"):
            (self.files.directory / name).unlink()


@pytest.fixture
def breakable(make_files: Callable[..., DaemonFiles]) -> Iterator[Breakable]:
    daemon = Breakable(make_files())
    yield daemon
    daemon.kill()


def test_a_stop_that_hangs_at_a_disk_ends_and_says_what_is_not_synced(
    breakable: Breakable,
) -> None:
    breakable.start_impatient("stop_seconds_max")
    breakable.breaks("hang")
    assert breakable.stop() == 1
    line = breakable.wait_log("the stop takes too long and is given up; the next start recovers")
    assert '"level": "error"' in line
    assert "known to be synced only up to" in line


def test_a_stop_ends_early_when_the_journal_hangs(breakable: Breakable) -> None:
    breakable.start_impatient("stop_journal_seconds_max")
    breakable.breaks("hang")
    assert breakable.stop() == 1
    line = breakable.wait_log("the journal does not answer, and the stop is given up")
    assert "known to be synced only up to" in line


def test_the_next_start_recovers_from_it(breakable: Breakable) -> None:
    breakable.start_impatient("stop_seconds_max")
    breakable.breaks("hang")
    breakable.stop()
    breakable.is_repaired()
    breakable.start()
    assert breakable.request("GET", "/v1/status")[1]["volumes"][0]["state"] == "DUPLEX"
    assert breakable.stop() == 0


def test_a_controller_that_had_failed_is_no_success(breakable: Breakable) -> None:
    breakable.start()
    breakable.breaks("fail")
    assert breakable.request("POST", "/v1/suspend", {"targets": ["data"]})[0] != 200
    breakable.wait_log('"event": "controller-failed"')
    assert breakable.request("GET", "/readyz")[0] == 503
    assert breakable.stop() == 1
    last = breakable.lines()[-1]
    assert last.startswith("duplexd: stopped after the controller had failed: ")
    assert last.endswith("; the next start recovers")


# ------------------------------------------------------------------------------------ signals


def test_a_signal_that_the_kernel_gives_to_another_thread_ends_the_daemon(daemon: Daemon) -> None:
    """As it does when the main thread still has another signal to handle."""
    threads = {int(name) for name in os.listdir(f"/proc/{daemon.pid}/task")} - {daemon.pid}
    assert ctypes.CDLL(None).tgkill(daemon.pid, max(threads), signal.SIGTERM) == 0
    assert daemon.wait() == 0
