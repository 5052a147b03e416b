"""Where duplexctl looks for a target, and what it shows of groups."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from click.core import ParameterSource
from rich.console import Console

from duplexd.client import Client, Cut, Cuts, HoldFigures, Resynced, Status, Suspended
from duplexd.duplexctl import settings as settings_of
from duplexd.duplexctl import texts, views
from duplexd.duplexctl.cli import run
from duplexd.errors import ConfigurationError, UsageError
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

FILE = (
    '[controllers.alpha]\nsocket = "c.sock"\n[groups.db]\nmembers = ["alpha:data"]\n'
    '[groups.all]\nmembers = ["alpha:wal"]\n'
)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The groups file at its default place."""
    path = tmp_path / "groups.toml"
    path.write_text(FILE)
    monkeypatch.setattr(settings_of, "DEFAULT_GROUPS", str(path))
    return path


def settings(**sources: object) -> settings_of.Settings:
    found = settings_of.Settings()
    for name, value in sources.items():
        setattr(found, name, value)
    found.groups = settings_of.DEFAULT_GROUPS
    return found


COMMAND_LINE, ENVIRONMENT = ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT


@pytest.mark.parametrize(
    ("sources", "targets", "of_groups"),
    [
        ({}, ["db"], True),
        ({}, ["alpha:data"], True),
        ({}, ["data"], False),
        ({}, [], True),
        ({"socket_source": ENVIRONMENT}, [], False),
        ({"socket_source": ENVIRONMENT}, ["db"], True),
        ({"socket_source": COMMAND_LINE}, ["db"], False),
        ({"socket_source": COMMAND_LINE}, [], False),
        ({"groups_source": ENVIRONMENT}, ["data"], False),
        ({"groups_source": COMMAND_LINE}, ["data"], True),
    ],
)
def test_where_a_target_is_looked_for(
    groups: Path, sources: dict[str, object], targets: list[str], of_groups: bool
) -> None:
    assert settings(**sources).of_groups(targets) is of_groups


def test_without_a_groups_file_all_is_local(groups: Path) -> None:
    groups.unlink()
    assert not settings().of_groups(["alpha:data"])
    assert not settings().of_groups([])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        settings(groups_source=ENVIRONMENT).of_groups(["data"])


def test_targets_of_both_are_refused(groups: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"db: of the groups file, but data is not; name volumes there as controller:volume",
    ):
        settings().of_groups(["db", "data"])


def test_completion_knows_the_groups(
    groups: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    monkeypatch.setenv("_DUPLEXCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "2")
    for word, names in (("d", ["db", "data"]), ("a", ["all"])):
        monkeypatch.setenv("COMP_WORDS", f"duplexctl suspend {word}")
        with pytest.raises(SystemExit):
            run([])
        assert capfd.readouterr().out.split() == [f"plain,{name}" for name in names]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("duplexctl suspend alpha:d", ["alpha:db", "alpha:data"]),
        ("duplexctl suspend beta:d", []),
        ("duplexctl canary d", ["db"]),
        ("duplexctl canary x", []),
    ],
)
def test_completion_knows_what_a_controller_has_and_that_a_canary_is_of_a_group(
    groups: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: str,
    names: list[str],
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", "/none")
    monkeypatch.setenv("_DUPLEXCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("COMP_WORDS", line)
    with pytest.raises(SystemExit):
        run([])
    assert capfd.readouterr().out.split() == [f"plain,{name}" for name in names]


def test_completion_in_bash_takes_a_controllers_volume_for_one_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["completion", "bash"]) == 0
    script = capfd.readouterr().out
    shell = ["bash", "-c", 'COMP_WORDBREAKS=" :="; ' + script + '\necho "[$COMP_WORDBREAKS]"']
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == "[ =]\n"


def test_a_name_that_neither_the_daemon_nor_the_groups_file_has(
    groups: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    assert run(["suspend", "bd", "bd"]) == 3
    assert (
        capfd.readouterr()
        .err.rstrip()
        .endswith(f"{groups} has no group 'bd' either; did you mean 'db'?")
    )
    assert run(["suspend", "xyz", "--socket", str(plane.path)]) == 3
    assert "groups.toml" not in capfd.readouterr().err
    assert run(["suspend", "xyz"]) == 3
    assert capfd.readouterr().err.rstrip().endswith(f"{groups} has no group 'xyz' either")


@pytest.mark.parametrize(
    "command", ["status", "quiesce", "suspend", "resync", "verify", "settle", "canary"]
)
def test_a_group_that_the_named_file_does_not_have_is_3_where_no_daemon_is(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.delenv("DUPLEXD_SOCKET", raising=False)
    monkeypatch.setattr(settings_of, "DEFAULT_SOCKET", str(groups.parent / "none.sock"))
    monkeypatch.setenv("DUPLEXD_GROUPS", str(groups))
    assert run([command, "bd"]) == 3
    said = capfd.readouterr().err
    assert said.count("no group 'bd'") == 1
    assert "did you mean 'db'?" in said


@pytest.mark.parametrize(
    "how", ["no groups file was named", "a daemon was named", "a daemon was there"]
)
def test_a_daemon_that_may_have_that_name_and_does_not_answer_is_7(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    path = groups.parent / "none.sock"
    monkeypatch.delenv("DUPLEXD_SOCKET", raising=False)
    monkeypatch.setattr(settings_of, "DEFAULT_SOCKET", str(path))
    if how == "a daemon was named":
        monkeypatch.setenv("DUPLEXD_SOCKET", str(path))
    if how == "a daemon was there":
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
    if how != "no groups file was named":
        monkeypatch.setenv("DUPLEXD_GROUPS", str(groups))
    assert run(["suspend", "bd"]) == 7
    assert "has no group 'bd' either; did you mean 'db'?" in capfd.readouterr().err


def test_a_name_mistyped_in_a_file_named_on_the_command_line_is_3_for_a_canary_too(
    groups: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--groups", str(groups), "canary", "bd"]) == 3
    assert "did you mean 'db'?" in capfd.readouterr().err


def result(**fields: Any) -> Suspended:
    hold = HoldFigures(
        seconds_max=0.0068,
        writes_held=41,
        p50_s=0.0034,
        p99_s=0.0067,
        hold_max_s=2.0,
        within_limit=True,
    )
    base: dict[str, Any] = {
        "verdict": "consistent",
        "cut": "c7",
        "tag": "nightly",
        "group": "db",
        "controllers": {"alpha": 418, "beta": 77},
        "volumes": ["alpha:data", "beta:wal"],
        "hold": hold,
    }
    return Suspended(**base | fields)


def test_a_suspend_in_words() -> None:
    assert texts.suspended_text(result()).splitlines() == [
        "suspended db: consistent, cut c7, tag 'nightly': alpha:data beta:wal",
        "  alpha at 418",
        "  beta at 77",
        "  writes waited max 6.8 ms, p50 3.4 ms, p99 6.7 ms; 41 were held; within the limit of 2 s",
    ]
    assert "already suspended db: consistent" in texts.suspended_text(result(already=True))
    assert "beta did not get the verdict yet: `duplexctl settle db`" in texts.suspended_text(
        result(untold=["beta"])
    )
    over = HoldFigures(seconds_max=3.0, hold_max_s=2.0, within_limit=False)
    assert "OVER the limit of 2 s" in texts.suspended_text(result(hold=over))


def test_a_suspend_of_one_daemon_in_words() -> None:
    one = result(controllers={"alpha": 7}, volumes=["data", "wal"], tag="")
    assert texts.suspended_text(one).splitlines()[:2] == [
        "suspended db: consistent, cut c7: data wal",
        "  alpha at 7",
    ]


def test_what_was_suspended_already_kept_nobody_waiting() -> None:
    assert "writes waited" not in texts.suspended_text(result(already=True))


def test_a_void_cut_is_never_called_consistent() -> None:
    text = texts.suspended_text(result(verdict="void", why="beta: gone"))
    assert "void" in text
    assert "consistent" not in text


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ({"state": "DUPLEX", "cut": None, "verdict": None}, "group db: DUPLEX: alpha:data"),
        (
            {"state": "SUSPENDED", "cut": "c7", "verdict": "consistent"},
            "group db: SUSPENDED: consistent, cut c7: alpha:data",
        ),
        (
            {"state": "SUSPENDED", "cut": "c7", "verdict": "void"},
            "group db: SUSPENDED: VOID, cut c7: alpha:data",
        ),
        (
            {"state": "SUSPENDED", "cut": "c7", "verdict": None},
            "group db: SUSPENDED: undecided, cut c7: alpha:data",
        ),
        (
            {"state": "MIXED", "cut": None, "verdict": "void"},
            "group db: MIXED: VOID, not at one cut: alpha:data",
        ),
    ],
)
def test_a_group_in_one_line(group: dict[str, Any], text: str) -> None:
    assert texts.group_text({"name": "db", "members": ["alpha:data"]} | group) == text


def test_a_long_tag_does_not_make_the_history_unreadable() -> None:
    text = texts.cuts_text(
        Cuts([Cut("c1", "consistent", "x" * 200, "db", 0.0, {"alpha": 5}, {}, ["alpha"])])
    )
    assert " " + "x" * 21 + "... " in text


def test_the_history_is_a_table_in_which_void_is_void() -> None:
    cuts = [
        Cut(
            "c1", "consistent", "nightly", "db", 0.0, {"alpha": 5, "beta": 7}, {}, ["alpha", "beta"]
        ),
        Cut("c2", "void", "\x1b[31m", "db", 1.0, {"alpha": 9}, {}, ["alpha", "beta"]),
        Cut("c3", None, "", "", 2.0, {"alpha": 9}, {}, ["alpha", "beta"]),
    ]
    assert texts.cuts_text(Cuts(cuts)).splitlines() == [
        "TIME                  CUT  VERDICT     GROUP  TAG       CANARY  CONTROLLERS",
        "1970-01-01T00:00:00Z  c1   consistent  db     nightly   -       alpha@5 beta@7",
        r"1970-01-01T00:00:01Z  c2   VOID        db     \x1b[31m  -       alpha@9",
        "1970-01-01T00:00:02Z  c3   undecided   -      -         -       alpha@9",
    ]
    assert texts.cuts_text(Cuts([])) == "no cuts"


def test_a_settled_cut_says_what_each_member_knows() -> None:
    cut = Cut(
        "c1",
        "void",
        "",
        "db",
        0.0,
        {},
        {"alpha": "void", "beta": "", "gamma": None},
        ["alpha", "beta", "gamma"],
    )
    assert texts.settled_text(cut) == "cut c1: VOID (alpha: void, beta: not cut, gamma: not known)"
    assert cut.untold == ["beta", "gamma"]


def test_the_status_of_several_controllers_in_text_and_colour() -> None:
    status = {
        "controllers": {"alpha": FakeController().status(), "gamma": FakeController().status()},
        "unreachable": {
            "beta": "beta: no daemon answers",
            "delta": "delta: it needs the role observe",
        },
        "exit_codes": {"beta": 7, "delta": 4},
        "groups": [
            {
                "name": "db",
                "members": ["alpha:data", "beta:wal"],
                "state": "UNKNOWN",
                "cut": None,
                "verdict": None,
            }
        ],
    }
    view = views.StatusView(status, 40, of_groups=True)
    text = view.text()
    assert text.count("controller fake") == 2
    assert text.splitlines()[-3:] == [
        "controller beta: NOT REACHABLE: no daemon answers",
        "controller delta: NO PERMISSION: it needs the role observe",
        "group db: UNKNOWN: alpha:data beta:wal",
    ]
    out = io.StringIO()
    Console(file=out, width=160).print(view.renderable())
    assert out.getvalue().split() == text.split()


def test_a_certificate_of_one_controller_needs_no_groups_file(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert (
        run(
            [
                "--socket",
                str(plane.path),
                "suspend",
                "nope",
                "--certificate",
                str(tmp_path / "c.json"),
                "--json",
            ]
        )
        == 3
    )
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["exit_code"] == 3
    assert not (tmp_path / "c.json").exists()
    assert run(["--socket", str(plane.path), "suspend", "db", "--hold-max", "1"]) == 2


def answers(monkeypatch: pytest.MonkeyPatch, command: str, found: object) -> None:
    """What the coordinator answers to `command`."""

    async def answer(*_: object, **__: object) -> object:
        return found

    monkeypatch.setattr(Client, command, answer)


def test_a_cut_that_a_resync_gave_up_is_warned_of(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(
        monkeypatch,
        "resync",
        Resynced([{"name": "alpha:data", "how": "journal"}], False, True, ["cut c1 was given up"]),
    )
    assert run(["--groups", str(groups), "resync", "db"]) == 0
    assert capsys.readouterr().err == "duplexctl: warning: cut c1 was given up\n"


def test_a_suspend_whose_secondaries_moved_on_fails(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "suspend", result(left=["beta:wal"], why="beta:wal left it"))
    assert run(["--groups", str(groups), "suspend", "db"]) == 9
    out, err = capsys.readouterr()
    assert "  NO LONGER AT THE CUT: beta:wal\n" in out
    assert (
        "the cut was consistent, but not all secondaries are still at it (beta:wal left it); resync"
    ) in err
    answers(monkeypatch, "suspend", result())
    assert run(["--groups", str(groups), "suspend", "db"]) == 0


@pytest.mark.parametrize("where", ["", "none/cut.json", "groups.toml/cut.json"])
@pytest.mark.parametrize("target", ["fake:db", "db"])
def test_a_certificate_that_could_not_be_written_is_2_before_anything_is_suspended(
    tmp_path: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    where: str,
    target: str,
) -> None:
    (tmp_path / "groups.toml").write_text('[controllers.fake]\nsocket = "c.sock"\n')
    monkeypatch.setattr(settings_of, "DEFAULT_GROUPS", str(tmp_path / "groups.toml"))
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    assert run(["suspend", target, "--certificate", str(tmp_path / where)]) == 2
    assert "certificate" in capfd.readouterr().err
    assert set(plane.controller.volumes.values()) == {"DUPLEX"}


def test_of_what_is_suspended_already_no_certificate_is_written(
    tmp_path: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    assert run(["suspend", "db"]) == 0
    capfd.readouterr()
    certificate = ["--certificate", str(tmp_path / "cut.json")]
    assert run(["suspend", "db", *certificate, "--json", "--allow-existing"]) == 5
    said = capfd.readouterr()
    assert json.loads(said.out)["already"]
    assert (
        "already suspended: a certificate is written only by the suspend that makes the cut"
        in said.err
    )
    assert not (tmp_path / "cut.json").exists()


def test_a_cut_that_no_controller_made_is_void_and_not_a_wrong_use(
    tmp_path: Path,
    groups: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(
        monkeypatch,
        "suspend",
        result(verdict="void", why="alpha: the lease ended before", controllers={}, members=[]),
    )
    assert (
        run(["--groups", str(groups), "suspend", "db", "--certificate", str(tmp_path / "cut.json")])
        == 9
    )
    assert "the verdict is void" in capsys.readouterr().err
    assert not (tmp_path / "cut.json").exists()


@pytest.mark.parametrize(
    "data", [b"[groups.db]\nmembers = ['\xff']", b"[groups.db", b"a = " + 100_000 * b"["]
)
def test_a_groups_file_that_can_not_be_read_is_reported_alike_by_every_command(
    groups: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    groups.write_bytes(data)
    said = set()
    for command in (["status"], ["status", "db"], ["suspend", "db"], ["canary", "db"]):
        assert run(["--groups", str(groups), *command]) == 6
        said.add(capsys.readouterr().err)
    assert len(said) == 1
    assert next(iter(said)).startswith(f"duplexctl: {groups}: ")
    assert ": not " in next(iter(said))


def test_a_status_with_a_member_that_is_not_there_is_3(
    tmp_path: Path,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "groups.toml").write_text(
        '[controllers.fake]\nsocket = "c.sock"\n[groups.db]\nmembers = ["fake:data", "fake:nix"]\n'
    )
    assert run(["--groups", str(tmp_path / "groups.toml"), "status"]) == 3
    said = capfd.readouterr()
    assert (
        said.out.splitlines()[-1] == "group db: UNKNOWN: fake:data fake:nix (not there: fake:nix)"
    )
    assert "fake:nix (of db): no such volume" in said.err


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        ({"beta": 4}, 4),
        ({"beta": 6}, 6),
        ({"beta": 7}, 7),
        ({"beta": 6, "delta": 7}, 7),
        ({"beta": 4, "delta": 6}, 4),
    ],
)
@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
def test_a_status_without_some_controllers_shows_the_others_and_says_why(
    groups: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: dict[str, int],
    exit_code: int,
    json_too: list[str],
) -> None:
    why = {name: f"{name}: because" for name in codes}
    answers(
        monkeypatch,
        "status",
        Status(None, [], [], [], [], {"alpha": FakeController().status()}, why, codes),
    )
    assert run(["--groups", str(groups), *json_too, "status"]) == exit_code
    said = capsys.readouterr()
    assert said.err == f"duplexctl: {'; '.join(why.values())}\n"
    if json_too:
        assert json.loads(said.out)["unreachable"] == why
    else:
        assert said.out.startswith("controller fake")
        assert said.out.count(": because") == len(codes)


def test_out_of_time_it_says_who_has_not_answered(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def suspend(client: Client, *_: str, **__: object) -> None:
        monkeypatch.setattr(type(client), "silent", ["alpha", "beta"])
        await asyncio.sleep(3600)

    monkeypatch.setattr(Client, "suspend", suspend)
    assert run(["--groups", str(groups), "--timeout", "0.01", "suspend", "db"]) == 8
    said = "duplexctl: not done within 0.01 s, no answer from alpha, beta; no write is held; "
    assert capsys.readouterr().err.startswith(said)
