"""Which daemon a command is for: the named one, or the only one that there is, never a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.core import ParameterSource

from duplexd.duplexctl.cli import run
from duplexd.duplexctl.settings import Settings
from duplexd.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control_plane import ControlPlane


def settings(directory: Path, *names: str) -> Settings:
    for name in names:
        (directory / name).mkdir()
        (directory / name / "control.sock").touch()
    found = Settings(run_directory=str(directory))
    found.socket = str(directory / "control.sock")
    return found


def test_the_only_daemon_of_this_machine_is_found(tmp_path: Path) -> None:
    found = settings(tmp_path, "alpha")
    found.find_daemon()
    assert found.socket == str(tmp_path / "alpha" / "control.sock")


def test_of_several_one_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"alpha, beta; name one with --controller NAME"):
        settings(tmp_path, "alpha", "beta").find_daemon()


def test_a_typing_error_of_a_group_is_one_though_there_are_several_daemons(tmp_path: Path) -> None:
    found, groups = settings(tmp_path, "alpha", "beta"), tmp_path / "groups.toml"
    groups.write_text('[groups.both]\nmembers = ["alpha:data", "beta:wal"]\n')
    found.groups, found.groups_source = str(groups), ParameterSource.ENVIRONMENT
    assert not found.of_groups(["bothh"])
    with pytest.raises(NotFoundError, match="has no group 'bothh'; did you mean 'both'"):
        found.find_daemon()


@pytest.mark.parametrize("how", ["it was named", "it has the place of the only one"])
def test_nothing_is_searched_for_where_it_is_known(tmp_path: Path, how: str) -> None:
    found = settings(tmp_path, "alpha", "beta")
    if how == "it was named":
        found.socket_source = ParameterSource.ENVIRONMENT
    else:
        (tmp_path / "control.sock").touch()
    found.find_daemon()
    assert found.socket == str(tmp_path / "control.sock")


def test_a_controller_is_named_by_its_directory(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--controller", "no-such-controller"]) == 7
    assert "/run/duplexd/no-such-controller/control.sock" in capfd.readouterr().err
    assert run(["status", "--controller", "../x"]) == 2


@pytest.mark.parametrize("where", ["before the command", "behind it"])
def test_a_daemon_that_is_named_is_not_the_one_of_the_environment(
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    where: str,
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    assert run(["status"]) == 0
    named = ["--controller", "no-such-controller"]
    words = [*named, "status"] if where == "before the command" else ["status", *named]
    assert run(words) == 7
    assert "/run/duplexd/no-such-controller/control.sock" in capfd.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["A", "B", "status"], ["B", "A", "status"], ["A", "status", "B"], ["B", "status", "A"]],
)
def test_a_daemon_is_named_by_one_option(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    options = {"A": ["--controller", "no-such-controller"], "B": ["--socket", str(plane.path)]}
    line = [part for word in words for part in options.get(word, [word])]
    assert run(line) == 2
    assert "--controller and --socket both name the daemon; give one" in capfd.readouterr().err


@pytest.mark.parametrize("where", ["before the command", "behind it"])
def test_no_groups_file_is_read_for_a_daemon_that_is_named(
    plane: ControlPlane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    where: str,
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    monkeypatch.setenv("DUPLEXD_GROUPS", str(tmp_path / "groups.toml"))  # there is none
    named = ["--controller", "no-such-controller"]
    words = [*named, "status"] if where == "before the command" else ["status", *named]
    assert run(words) == 7
    assert "groups.toml" not in capfd.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["status", "data"], ["events"], ["reload"]])
def test_a_groups_file_that_was_named_is_never_ignored(
    plane: ControlPlane, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    groups = tmp_path / "groups.toml"
    assert run([*command, "--socket", str(plane.path), "--groups", str(groups)]) == 2
    assert f"--groups {groups}" in capfd.readouterr().err


def test_quiet_leaves_the_exit_code(plane: ControlPlane, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--quiet", "--socket", str(plane.path)]) == 0
    assert capfd.readouterr().out == ""


def test_chosen_columns_of_a_status(plane: ControlPlane, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--output", "name,state", "--socket", str(plane.path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines
    assert all(line.count("\t") == 1 for line in lines)
