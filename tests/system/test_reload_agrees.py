"""`check`, a reload and a start agree: states of a real daemon, times changes of its file.

The whole product is in `make test-long`; a sample of it, one cell for each kind of answer, here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.agreement import CHANGES, STATES, by_calls, cell
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import DaemonFiles

# state, change, exit codes of check, reload and run
SAMPLE = [
    ("DUPLEX", "another secondary", 0, 0, 0),
    ("DUPLEX", "mode", 0, 0, 0),
    ("DUPLEX", "journal_size", 5, 5, 0),
    ("in use", "volume removed", 5, 5, 0),
    ("PENDING", "no secondary", 5, 5, 0),
    ("swapped", "unknown key", 6, 6, 6),
]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles]) -> Iterator[Daemon]:
    volumes = {"data": "8MiB", "wal": "8MiB"}
    daemon = Daemon(make_files(volumes, groups={"db": ["data", "wal"]}, copy_rate="64KiB"))
    yield daemon
    daemon.kill()


@pytest.mark.parametrize(("state", "change", "check", "reload", "run"), SAMPLE)
def test_check_a_reload_and_a_start_agree(
    state: str, change: str, check: int, reload: int, run: int, daemon: Daemon
) -> None:
    row = cell(daemon, state, change)
    assert (row.check, row.reload, row.run) == (check, reload, run), row.said


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
def test_check_a_reload_and_a_start_agree_on_each_change_in_each_state(
    state: str, change: str, daemon: Daemon
) -> None:
    row = cell(daemon, state, change, by_calls)
    print(f"{state:20} {change:45} check {row.check} reload {row.reload} run {row.run}")
    assert row.agrees, row.said
