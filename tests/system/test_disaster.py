"""docs/disaster.md: each drill of the page, on a daemon that is started as users start it.

A test breaks something, then follows the page: its commands are run as they are written there, and
what they print is compared with what it shows (see tests/support/runbook.py). Then the data is
read, because a page may be true to the letter and lose a write. Each test is named by its drill.
"""

from __future__ import annotations

import errno
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT, Daemon
from tests.support.fuse import faulty_disk
from tests.support.runbook import Runbook, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = Runbook(ROOT / "docs" / "disaster.md")
FOLLOWED: set[str] = set()  # titles that a test names
MIB = 1 << 20


class Drill:
    """One set with its daemon, and what an operator does to it."""

    def __init__(self, site: Site, daemon: Daemon) -> None:
        self.site = site
        self.daemon = daemon

    def run(self, command: str) -> str:
        """A command of the page. The service manager's are done by the test."""
        program, _, rest = command.partition(" ")
        if program != "systemctl":
            return self.site.run(command)
        getattr(self, rest.split()[0])()
        return ""

    def start(self) -> None:
        self.daemon.start()

    def stop(self) -> None:
        assert self.daemon.stop() == 0

    def restart(self) -> None:
        self.stop()
        self.start()

    def follow(self, title: str) -> None:
        """Do what the page says, from its first command to its last."""
        PAGE.follow(title, self.run)

    def image(self, path: str) -> Path:
        return self.site.here(path)

    def _client(self, volume: str, *commands: str) -> subprocess.CompletedProcess[str]:
        options = [word for command in commands for word in ("-c", command)]
        return subprocess.run(
            ["qemu-io", "-f", "raw", *options, self.site.uri(volume)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def write(self, volume: str, pattern: int, offset: int = 0) -> None:
        """A client writes 1 MiB, and flushes."""
        done = self._client(volume, f"write -P {pattern} {offset} 1M", "flush")
        assert (done.returncode, done.stderr) == (0, ""), done

    def reads(self, volume: str, pattern: int, offset: int = 0) -> None:
        """A client reads that 1 MiB."""
        done = self._client(volume, f"read -P {pattern} {offset} 1M")
        assert (done.returncode, done.stderr, "failed" in done.stdout) == (0, "", False), done

    def fails(self, volume: str, what: str) -> None:
        """A client gets an error, and not wrong data."""
        done = self._client(volume, f"{what} 0 1M")
        text = done.stdout + done.stderr
        assert any(word in text for word in ("Input/output error", "No space left")), done

    def equal(self) -> None:
        """Both legs of all pairs hold the same."""
        printed = self.run("duplexctl verify database")
        assert printed.count("the legs are equal") == 2, printed


@pytest.fixture
def drill(tmp_path: Path, start_daemon: Callable[..., Daemon]) -> Drill:
    site = Site(tmp_path, {}, configuration=PAGE.configuration).write()
    made = Drill(site, start_daemon(site))
    made.write("tables", 1)
    made.write("wal", 1)
    return made


def of(title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Names the drill of the page that a test follows."""
    FOLLOWED.add(title)

    def same(test: Callable[..., None]) -> Callable[..., None]:
        return test

    return same


def test_every_drill_of_the_page_is_a_test() -> None:
    assert set(PAGE.drills) == FOLLOWED
