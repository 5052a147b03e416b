"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.daemon import Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


TESTS = Path(__file__).parent
LONG_ROOMS = (
    ("vm", "system"),
    ("interop", "sim", "model", "packaging"),
)  # beginning with those that take longest

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # it may be busy, or hang for a while
settings.load_profile("any machine")

# Compiled modules are kept, even where the environment says otherwise: a test that starts a daemon
# would compile all of duplexd before, and thousands do.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, in a worker of pytest-xdist: else one of them is at
    the last such file when the others have nothing left to do.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    room = item.path.relative_to(TESTS).parts[0]
    return next((turn for turn, rooms in enumerate(LONG_ROOMS) if room in rooms), len(LONG_ROOMS))


@pytest.fixture(scope="session", autouse=True)
def interrupts_count() -> None:
    """Processes that tests start can be interrupted, even if these tests were started in the
    background of a shell, which ignores SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., DaemonFiles]:
    """Writes a configuration: `make_files(volumes={"data": "8MiB"}, groups={"db": ["data"]},
    mode=..., tcp_port=...)`.
    """

    def make(
        volumes: Mapping[str, str | int] | None = None, directory: Path | None = None, **fields: Any
    ) -> DaemonFiles:
        return DaemonFiles(
            directory or tmp_path, {"data": "8MiB"} if volumes is None else volumes, **fields
        ).write()

    return make


@pytest.fixture
def start_daemon(make_files: Callable[..., DaemonFiles]) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon on `files` (default: one 8 MiB pair called data) and returns when it is
    ready.
    """
    started: list[Daemon] = []

    def start(files: DaemonFiles | None = None, ready: bool = True, **fields: Any) -> Daemon:
        daemon = Daemon(files or make_files(), **fields)
        started.append(daemon)
        return daemon.start(ready)

    yield start
    for daemon in started:
        daemon.kill()
        print(f"--- {daemon.log_path}\n{daemon.log()[-8000:]}")  # shown when the test failed
    for daemon in started:
        assert "Traceback (most recent call last)" not in daemon.log(), (
            f"a daemon logged a traceback\n{daemon.log()[-8000:]}"
        )


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A ready daemon with one 8 MiB pair called data."""
    return start_daemon()
