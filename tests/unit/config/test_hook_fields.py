"""Hooks of groups in both files: commands without a shell, bounded in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config import groups_file
from duplexd.config.differences import differences
from duplexd.config.load import parse
from duplexd.errors import ConfigurationError
from duplexd.runtime.hooks import GroupHooks
from tests.unit.config.files import GOOD

if TYPE_CHECKING:
    from pathlib import Path

BOTH = 'before_suspend = ["/bin/freeze", "db"]\nafter_suspend = ["/bin/thaw"]\n'
GROUPS = '[controllers.alpha]\nsocket = "a.sock"\n[groups.{}]\nmembers = ["alpha:data"]\n'


def test_of_a_daemons_group(tmp_path: Path) -> None:
    config = parse(f'{GOOD}{BOTH}hook_timeout = "1.5m"\n', tmp_path / "duplexd.toml")
    assert config.groups["db"].hooks("db") == GroupHooks(
        "db", ("/bin/freeze", "db"), ("/bin/thaw",), 90.0
    )


def test_a_group_without_hooks_has_none(tmp_path: Path) -> None:
    assert parse(GOOD, tmp_path / "duplexd.toml").groups["db"].hooks("db") is None


def test_of_the_groups_file_only_groups_that_are_named_have_hooks(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(GROUPS.format("db") + BOTH + '[groups.other]\nmembers = ["alpha:wal"]\n')
    groups = groups_file.load(path)
    found = groups.resolve(["other", "db"])
    assert [each.group for each in found.hooks] == ["db"]
    assert found.hooks_file == str(path)
    assert groups.resolve(["alpha:data"]).hooks == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('before_suspend = "/bin/freeze db"', "is not a command; expected a list"),
        ("before_suspend = []", "is not a command"),
        ('before_suspend = ["/bin/freeze", 1]', "is not a command"),
        ('before_suspend = ["freeze"]', "'freeze' is not an absolute path"),
        ('after_suspend = ["../freeze"]', "is not an absolute path"),
        ('after_suspend = ["/bin/x", "a\\u0000b"]', "a command cannot contain NUL"),
        (f"after_suspend = {['/bin/x'] * 65}", "65 arguments are too many; expected at most 64"),
        ('hook_timeout = "11m"', "'11m' is not between 0.1 s and 600 s"),
        ("hook_timeout = 0", "0 is not between 0.1 s and 600 s"),
        ('hook_timeout = "soon"', "'soon' is not a time"),
    ],
)
def test_mistakes_name_the_key_and_what_was_expected(tmp_path: Path, line: str, said: str) -> None:
    key = line.partition(" ")[0]
    for read, text, name in (
        (parse, f"{GOOD}{line}\n", "duplexd.toml"),
        (groups_file.parse, f"{GROUPS.format('db')}{line}\n", "groups.toml"),
    ):
        with pytest.raises(ConfigurationError) as error:
            read(text, tmp_path / name)
        assert f"groups.db.{key}" in str(error.value)
        assert said in str(error.value)


def test_a_difference_is_written_as_in_the_file(tmp_path: Path) -> None:
    old = parse(GOOD, tmp_path / "duplexd.toml")
    new = parse(f'{GOOD}{BOTH}hook_timeout = "1m"\n', tmp_path / "duplexd.toml")
    assert differences(old, new) == [
        "groups.db.before_suspend: was not set, is ['/bin/freeze', 'db']",
        "groups.db.after_suspend: was not set, is ['/bin/thaw']",
        "groups.db.hook_timeout: was '10s', is '1m'",
    ]
