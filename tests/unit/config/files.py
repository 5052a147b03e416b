"""A good configuration file, and what is wrong with one that was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config.load import parse
from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
[controller]
name = "alpha"
state_dir = "state"
journal_size = "64MiB"
[nbd]
listen = ["unix:nbd.sock", "tcp:127.0.0.1:10809"]
insecure = true
[control]
socket = "ctl.sock"
[volumes.data]
size = "8MiB"
primary = "a.img"
secondary = "/elsewhere/b.img"
mode = "async"
[volumes.wal]
size = 4096
primary = "wal.img"
[groups.db]
volumes = ["data", "wal"]
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def mistakes(text: str, directory: Path) -> list[str]:
    """The lines of the error, each without the file's name, which it must begin with."""
    path = directory / "duplexd.toml"
    with pytest.raises(ConfigurationError) as caught:
        parse(text, path)
    assert caught.value.exit_code == 6
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def check_mistake(old: str, new: str, expected: str, directory: Path) -> None:
    """With `new` instead of `old` there is one line, which contains `expected`."""
    lines = mistakes(changed(old, new), directory)
    assert any(expected in line for line in lines), lines
    # a volume whose table is broken is also missing from its group or the like: never more than one
    # such line
    assert len(lines) == 1 or all(
        line.startswith("groups.db.volumes[") for line in lines if expected not in line
    ), lines
