"""`check`, a reload and a start agree: states of a real daemon, times changes of its file.

The whole product is in `make test-long`; a sample of it, one cell for each kind of answer, here.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import BaseModel

from duplexd.config.daemon_file import Config
from tests.support.agreement import CHANGES, STATES, by_calls, cell
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import DaemonFiles

VOLUMES, GROUPS = {"data": "8MiB", "wal": "8MiB"}, {"db": ["data", "wal"]}

# state, change, exit codes of check, reload and run
SAMPLE = [
    ("DUPLEX", "another secondary", 0, 0, 0),
    ("DUPLEX", "mode", 0, 0, 0),
    ("DUPLEX", "journal_size", 5, 5, 0),
    ("DUPLEX", "controller.state_dir", 5, 5, 0),
    ("DUPLEX", "hooks", 0, 0, 0),
    ("SUSPENDED at a cut", "no tracked cuts", 0, 0, 0),
    ("in use", "volume removed", 5, 5, 0),
    ("PENDING", "no secondary", 5, 5, 0),
    ("swapped", "unknown key", 6, 6, 6),
]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles]) -> Iterator[Daemon]:
    daemon = Daemon(make_files(VOLUMES, groups=GROUPS, copy_rate="64KiB"))
    yield daemon
    daemon.kill()


@pytest.mark.parametrize(("state", "change", "check", "reload", "run"), SAMPLE)
def test_check_a_reload_and_a_start_agree(
    state: str, change: str, check: int, reload: int, run: int, daemon: Daemon
) -> None:
    row = cell(daemon, state, change)
    assert (row.check, row.reload, row.run) == (check, reload, run), row.said


def options(model: type[BaseModel], within: str = "") -> Iterator[str]:
    """All keys that a file can have, such as `nbd.tls.key`; of volumes and groups without name."""
    for name, field in model.model_fields.items():
        tables = [each for each in _types(field.annotation) if issubclass(each, BaseModel)]
        for table in tables:
            yield from options(table, f"{within}{name}.")
        if not tables and name != "source":
            yield f"{within}{name}"


def _types(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for each in get_args(annotation):
        yield from _types(each)


def keys(table: object, within: str = "") -> dict[str, object]:
    """The keys of a file that is read, in the same words, and their values."""
    if isinstance(table, list) and table and isinstance(table[0], dict):
        return {key: found for each in table for key, found in keys(each, within).items()}
    if not isinstance(table, dict):
        return {within: table}
    named = within in {"volumes", "groups"}
    return {
        (f"{within}.{name}.{key}" if named else key): found
        for name, each in table.items()
        for key, found in keys(each, "" if named else f"{within}.{name}".strip(".")).items()
    }


def changed(files: DaemonFiles, change: str) -> set[str]:
    """The options that a change of the table changes."""
    try:
        texts = files.text(), CHANGES[change](files, files.text())
        before, after = (keys(tomllib.loads(text)) for text in texts)
    except tomllib.TOMLDecodeError:
        return set()
    both = before.keys() | after.keys()
    differ = (each for each in both if before.get(each) != after.get(each))
    return {_nameless(each) for each in differ}


def _nameless(key: str) -> str:
    first, *rest = key.split(".")
    return ".".join([first, *(rest[1:] if first in {"volumes", "groups"} else rest)])


def test_every_option_of_the_file_has_a_change_in_the_table(
    make_files: Callable[..., DaemonFiles],
) -> None:
    files = make_files(VOLUMES, groups=GROUPS, copy_rate="64KiB")
    covered = {option for change in CHANGES for option in changed(files, change)}
    missing = set(options(Config)) - covered
    assert not missing, "add a row to tests/support/agreement.py"


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
def test_check_a_reload_and_a_start_agree_on_each_change_in_each_state(
    state: str, change: str, daemon: Daemon
) -> None:
    row = cell(daemon, state, change, by_calls)
    print(f"{state:20} {change:45} check {row.check} reload {row.reload} run {row.run}")
    assert row.agrees, row.said
