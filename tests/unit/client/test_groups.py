"""groups.toml: what it means, and one clear line for each mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config import groups_file as groups
from duplexd.errors import ConfigurationError, NotFoundError, UsageError
from duplexd.limits import MEMBERS_MAX

if TYPE_CHECKING:
    from pathlib import Path

HEAD = (
    '[controllers.alpha]\nsocket = "alpha/control.sock"\n[controllers.beta]\nurl ='
    ' "https://beta.example:10810"\ncertificate = "c.pem"\n'
)
GROUP = HEAD + '[groups.db]\nmembers = ["alpha:data", "beta:wal", "alpha:log"]\n'


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        groups.parse(text, "/etc/duplexd/groups.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("/etc/duplexd/groups.toml: ") for line in lines)
    return [line.removeprefix("/etc/duplexd/groups.toml: ") for line in lines]


def test_a_group_is_targets_by_controller(tmp_path: Path) -> None:
    (tmp_path / "groups.toml").write_text(
        GROUP + 'canary = ["alpha:bird", "beta:bird"]\nhold_max = 5\n'
    )
    found = groups.load(tmp_path / "groups.toml")
    assert found.controllers["alpha"].socket == tmp_path / "alpha" / "control.sock"
    assert found.controllers["beta"].certificate == tmp_path / "c.pem"
    group = found.resolve(["db"])
    assert group.members == {"alpha": ("data", "log", "bird"), "beta": ("wal", "bird")}
    assert (group.name, group.hold_max, group.canary) == ("db", 5.0, ("alpha:bird", "beta:bird"))


def test_several_targets_stand_for_all_of_them() -> None:
    found = groups.parse(GROUP + "hold_max = 1.5\n[groups.more]\nmembers = ['beta:x']\n", "/g")
    group = found.resolve(["db", "more", "beta:wal", "beta:y"])
    assert group.members == {"alpha": ("data", "log"), "beta": ("wal", "x", "y")}
    assert (group.name, group.hold_max) == ("db more beta:wal beta:y", 1.5)
    assert found.resolve(["alpha:data"]).hold_max == 2.0
    assert [found.has(target) for target in ("db", "alpha:x", "alpha", "gamma:x", "data")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("targets", "kind", "text"),
    [
        ([], UsageError, "at least one"),
        (["dbs"], NotFoundError, "no group 'dbs' in the groups file; did you mean 'db'?"),
        (
            ["db", "alfa:x"],
            NotFoundError,
            "alfa:x: no controller 'alfa' in the groups file; did you mean 'alpha'?",
        ),
        (["alpha:"], NotFoundError, "no group 'alpha:'"),
    ],
)
def test_what_is_not_there(targets: list[str], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        groups.parse(GROUP, "/g").resolve(targets)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "controllers: is missing; write a table [controllers]"),
        ("[controllers]", "controllers: is empty; write a table [controllers]"),
        (
            "[controllers.a]",
            (
                "controllers.a: needs one of the two; write socket ="
                ' "/run/duplexd/NAME/control.sock" or url = "https://HOST:10810"'
            ),
        ),
        (
            '[controllers.a]\nsocket = "x"\nurl = "http://localhost:1"',
            "controllers.a: needs one of the two",
        ),
        (
            '[controllers.a]\nsockt = "x"\nsocket = "x"',
            "controllers.a.sockt: unknown key; did you mean 'socket'?",
        ),
        ('[controllers.a]\nurl = "https://b:1"', "controllers.a: https needs a client certificate"),
        (
            '[controllers.a]\nurl = "http://localhost:1"\nca = "x"',
            "controllers.a: certificate, key and ca are for https",
        ),
        (
            '[controllers.a]\nurl = "http://b.example:1"',
            "controllers.a.url: 'http://b.example:1' goes to another machine without encryption",
        ),
        (
            '[controllers.a]\nurl = "ftp://b:1"',
            "controllers.a.url: 'ftp://b:1' is not the URL of a controller",
        ),
        ('[controllers.a]\nurl = "https://b"', "controllers.a.url: 'https://b' is not the URL"),
        (
            '[controllers.a]\nurl = "https://b:1/x"',
            "controllers.a.url: 'https://b:1/x' is not the URL",
        ),
        (
            '[controllers.a]\nurl = "https://u@b:1"',
            "controllers.a.url: 'https://u@b:1' is not the URL",
        ),
        (
            '[controllers.a]\nurl = "https://b:99999"',
            "controllers.a.url: 'https://b:99999' is not the URL",
        ),
        (
            '[controllers.a]\nurl = "https://bücher:1"',
            "controllers.a.url: 'https://bücher:1' is not the URL",
        ),
        (
            '[controllers.a]\nurl = "https://b c:1"',
            "controllers.a.url: 'https://b c:1' is not the URL",
        ),
        ("[controllers.a]\nurl = 7", "controllers.a.url: 7 is not the URL"),
        ('[controllers."a:b"]\nsocket = "x"', "controllers.a:b: 'a:b' is not a name"),
        (
            '[controllers.a]\nsocket = "x"\nnbd = "x"',
            "controllers.a.nbd: 'x' is not a listen address",
        ),
        (
            HEAD + '[controllers.c]\nsocket = "alpha/control.sock"',
            "controllers.c: is the same controller as 'alpha'",
        ),
        (
            HEAD + "[groups.db]",
            'groups.db.members: is missing; write for example members = ["alpha:data", "beta:wal"]',
        ),
        (HEAD + "[groups.db]\nmembers = []", "groups.db.members: is empty"),
        (
            HEAD + '[groups.db]\nmembers = "alpha:data"',
            "groups.db.members: 'alpha:data' is not a list",
        ),
        (
            HEAD + '[groups.db]\nmembers = ["data"]',
            "groups.db.members[0]: 'data' is not a member; write \"controller:volume\"",
        ),
        (
            HEAD + '[groups.db]\nmembers = ["alpha:"]',
            "groups.db.members[0]: 'alpha:' is not a member",
        ),
        (
            HEAD + '[groups.db]\nmembers = ["alfa:x"]',
            "groups.db.members[0]: there is no controller 'alfa'; did you mean 'alpha'?",
        ),
        (
            HEAD + '[groups.db]\nmembers = ["alpha:x", "beta:x", "alpha:x"]',
            "groups.db.members[2]: 'alpha:x' is listed twice; remove one",
        ),
        (GROUP + 'canary = ["gamma:x"]', "groups.db.canary[0]: there is no controller 'gamma'"),
        (GROUP + "hold_max = 11", "groups.db.hold_max: invalid hold_max: 11; expected seconds"),
        (GROUP + "hold_max = 0", "groups.db.hold_max: invalid hold_max: 0; expected seconds"),
        (GROUP + "hold_max = true", "groups.db.hold_max: invalid hold_max: true; expected seconds"),
        (GROUP + "holdmax = 1", "groups.db.holdmax: unknown key; did you mean 'hold_max'?"),
        (HEAD + '[group.db]\nmembers = ["alpha:x"]', "group: unknown key; did you mean 'groups'?"),
        ("[controllers", "not TOML: "),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what(text: str, line: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(line), found


def test_each_mistake_has_its_line() -> None:
    assert len(mistakes(HEAD + '[groups.db]\nmembers = ["x", "alpha:y", "alpha:y", "no:z"]')) == 3


def test_too_many_controllers() -> None:
    names = [f"c{number}" for number in range(MEMBERS_MAX + 1)]
    text = "".join(f'[controllers.{name}]\nsocket = "{name}"\n' for name in names)
    (found,) = mistakes(text + f"[groups.db]\nmembers = {[f'{name}:v' for name in names]}")
    assert found.startswith(
        f"groups.db.members: {MEMBERS_MAX + 1} controllers are too many for one cut"
    ), found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, text in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            groups.load(path)
    (tmp_path / "latin").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        groups.load(tmp_path / "latin")
    with pytest.raises(ConfigurationError, match="not a file name"):
        groups.load("a\0b")


def test_a_target_named_twice_counts_once() -> None:
    assert groups.parse(GROUP, "/g").resolve(["db", "db"]).name == "db"
