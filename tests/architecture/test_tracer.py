"""How far a reader has to go to follow one WRITE, and the step of one SUSPEND, through the files.

Both include what a worker does meanwhile, as if it were called directly. The limits are what the
present shape of the engine needs. A forwarding method, or one more object
that is asked before each batch, makes these tests fail with the path they followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.architecture.serving import VOLUMES, serving
from tests.architecture.tracer import Trail, following

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITE_ROOT = "nbd_server/nbd_connection.py", "Connection.buffer_updated"
# What runs a call between two batches; a SUSPEND asks for it more than once, first to make its cut.
STEP_ROOT = "engine/timeline.py", "Timeline.at_rest"

WRITE_FILES_MAX = 11
WRITE_MOVES_MAX = 32
WRITE_ENTERED_MAX = 3
SUSPEND_MOVES_MAX = 50

FILE = "runtime/realfile.py"


@pytest.fixture
async def write(tmp_path: Path) -> Trail:
    """A WRITE of 4 KiB where the journal and the dirty-region log are warm already."""
    async with serving(tmp_path) as (_controller, client):
        await client.write(0, bytes(4096))  # marks the region dirty, which takes a sync in a thread
        with following(*WRITE_ROOT) as trails:
            await client.write(4096, b"x" * 4096)
    assert len(trails) == 1, f"{WRITE_ROOT} was called {len(trails)} times; correct WRITE_ROOT"
    (trail,) = trails
    files = [file for _depth, file, _function in trail.calls]
    assert files.count(FILE) >= 3, f"journal and both legs are not written on this path:\n{trail}"
    return trail


async def test_a_write_touches_few_files(write: Trail) -> None:
    assert len(write.files) <= WRITE_FILES_MAX, f"files touched by one WRITE:\n{write}"


async def test_a_write_moves_between_files_rarely(write: Trail) -> None:
    assert write.moves <= WRITE_MOVES_MAX, f"moves of one WRITE:\n{write}"


async def test_a_write_enters_no_module_again_and_again(write: Trail) -> None:
    often = {file: count for file, count in write.entered.items() if count > WRITE_ENTERED_MAX}
    assert not often, f"modules entered too often by one WRITE:\n{write}"


@pytest.mark.parametrize("lease", [False, True], ids=["alone", "under a lease"])
async def test_the_step_of_a_suspend_moves_between_files_rarely(
    tmp_path: Path, lease: bool
) -> None:
    async with serving(tmp_path) as (controller, _client):
        lease_id = (await controller.quiesce(VOLUMES, 5, "test")).id if lease else None
        with following(*STEP_ROOT) as trails:
            await controller.suspend(VOLUMES, lease_id=lease_id)
    assert trails, f"{STEP_ROOT} was not called; correct STEP_ROOT"
    cut = trails[0]
    assert FILE in cut.files, f"this step writes no marker:\n{cut}"
    assert cut.moves <= SUSPEND_MOVES_MAX, f"moves of the step of one SUSPEND:\n{cut}"


# The tracer itself, on a package of two files


def follow(package: Path, call: str, a: str, b: str) -> list[Trail]:
    """The trails of `root` in a.py while `call` runs; a.py and b.py see each other's functions."""
    functions: dict[str, Callable[[], object]] = {}
    for name, source in (("a.py", a), ("b.py", b)):
        exec(compile(source, str(package / name), "exec"), functions)  # noqa: S102
    with following("a.py", "root", package) as trails:
        functions[call]()
    return trails


def test_a_call_that_returns_is_two_moves_and_one_entering(tmp_path: Path) -> None:
    a = "def root(): leaf(); leaf(); own()\ndef own(): pass"
    (trail,) = follow(tmp_path, "root", a, "def leaf(): pass")
    assert trail.files == {"a.py", "b.py"}
    assert trail.moves == 4
    assert trail.entered == {"a.py": 1, "b.py": 2}
    assert [function for _depth, _file, function in trail.calls] == ["root", "leaf", "leaf", "own"]


def test_what_runs_outside_of_the_root_is_not_followed(tmp_path: Path) -> None:
    b = "def leaf(): root(); other()\ndef other(): pass"
    (trail,) = follow(tmp_path, "leaf", "def root(): pass", b)
    assert trail.moves == 0
    assert trail.files == {"a.py"}


def test_functions_outside_of_the_package_are_passed_through(tmp_path: Path) -> None:
    a = "import functools\ndef root(): functools.partial(leaf)(); sorted([1], key=leaf)"
    (trail,) = follow(tmp_path, "root", a, "def leaf(number=1): return number")
    assert trail.moves == 4


def test_leaving_by_an_exception_is_a_move(tmp_path: Path) -> None:
    a = "def root():\n try: leaf()\n except KeyError: own()\ndef own(): pass"
    (trail,) = follow(tmp_path, "root", a, "def leaf(): raise KeyError")
    assert trail.moves == 2


def test_each_call_of_the_root_is_a_trail(tmp_path: Path) -> None:
    a = "def root(): leaf()\ndef twice(): root(); root()"
    trails = follow(tmp_path, "twice", a, "def leaf(): pass")
    assert [trail.moves for trail in trails] == [2, 2]


def test_a_failure_shows_the_path(tmp_path: Path) -> None:
    (trail,) = follow(tmp_path, "root", "def root(): leaf()", "def leaf(): pass")
    assert str(trail).splitlines() == [
        "2 files, 2 moves, 2 calls",
        "entered: a.py 1, b.py 1",
        "a.py:root",
        "  b.py:leaf",
    ]
