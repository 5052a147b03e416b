"""duplexctl against a live control socket: every command, every exit code, --json everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from duplexd import errors
from duplexd.api.models import cut_model as cuts
from duplexd.api.models.base import Problem
from duplexd.api.models.line_model import Event, ResyncDone, ResyncStarted, Verified
from duplexd.api.models.status_model import Status
from duplexd.daemon import program as daemon
from duplexd.duplexctl.cli import cli, run
from duplexd.duplexctl.texts import suspended_text
from tests.support.control_plane import ControlPlane
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.client import Suspended

    Ctl = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[3]
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]
PATIENCE_SECONDS = 100.0


@pytest.fixture
def ctl(
    plane: ControlPlane, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ctl:
    """Runs a command line: (exit code, stdout, stderr)."""
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = run(list(arguments))
        except SystemExit as ended:  # click ends the process itself when it completes
            code = int(ended.code or 0)
        text = capfd.readouterr()
        return code, text.out, text.err

    return call


def test_status_in_text_and_json(ctl: Ctl) -> None:
    code, out, _ = ctl("status")
    assert code == 0
    assert re.search(r"^data +1\.0 MiB +DUPLEX", out, re.MULTILINE)
    code, out, _ = ctl("status", "db", "--json")
    assert [volume.name for volume in Status.model_validate_json(out).volumes] == ["data", "wal"]
    assert ctl("--json", "status", "db")[1] == out


def test_suspend_resync_and_verify(ctl: Ctl) -> None:
    code, out, _ = ctl("suspend", "db", "--tag", "nightly", "--json")
    assert (code, cuts.Suspended.model_validate_json(out).tag) == (0, "nightly")
    code, out, error = ctl("suspend", "db")
    assert (code, out, "suspended already: cut " in error) == (5, "", True)
    code, out, _ = ctl("suspend", "db", "--allow-existing")
    assert (code, out.startswith("already suspended db: consistent")) == (0, True)
    code, out, _ = ctl("resync", "db", "--json")
    assert (code, ResyncStarted.model_validate_json(out).volumes[0].how) == (0, "journal")
    code, out, _ = ctl("resync", "db", "--wait")
    assert (code, "data: DUPLEX, 0 B copied" in out) == (0, True)
    code, out, _ = ctl("resync", "db", "--wait", "--json")
    assert ResyncDone.model_validate_json(out.splitlines()[-1]).ok
    code, out, _ = ctl("verify", "db", "--json")
    assert (code, Verified.model_validate_json(out).equal) == (0, True)


def test_an_old_cut_is_no_new_one_though_the_daemon_says_so(
    ctl: Ctl, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of the version before does, which runs on after an upgrade."""
    ctl("suspend", "db", "--tag", "old")
    suspend = plane.controller.suspend

    async def allowing(names: list[str], *_given: object, **_named: object) -> Any:
        return await suspend(names, existing=True)

    monkeypatch.setattr(plane.controller, "suspend", allowing)
    code, out, err = ctl("suspend", "db", "--tag", "new")
    assert (code, out) == (5, "")
    assert "suspended already: cut " in err
    assert ctl("suspend", "db", "--allow-existing")[0] == 0


def test_legs_that_differ_are_exit_code_1(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.differs = {"wal"}
    code, out, err = ctl("verify", "db")
    assert code == 1
    assert "data: the legs are equal" in out
    assert "wal: THE LEGS DIFFER, first at byte 7" in out
    assert "differ" in err


def test_legs_of_which_nothing_was_compared_are_no_success(
    ctl: Ctl, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = plane.controller.verify

    async def compare_one(*given: Any, **named: Any) -> Any:
        found = await compare(*given, **named)
        for row in found["volumes"]:
            if row["name"] == "wal":
                row |= {"equal": None, "compared_bytes": 0, "changed_bytes": 4096}
        return found | {"equal": None}

    monkeypatch.setattr(plane.controller, "verify", compare_one)
    code, out, err = ctl("verify", "db")
    assert code == 10
    assert "data: the legs are equal" in out
    assert "wal: NOTHING COMPARED" in out
    assert "nothing was compared of wal: " in err
    assert ctl("verify", "data")[0] == 0


def test_a_resync_that_fails_is_exit_code_1_and_named(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.broken = {"wal"}
    ctl("suspend", "db")
    code, out, err = ctl("resync", "db", "--wait")
    assert code == 1
    assert "wal: SUSPENDED (secondary error)" in out
    assert "wal" in err


def test_a_resync_of_a_pair_whose_legs_differ_is_exit_code_1_and_names_repair(
    ctl: Ctl, plane: ControlPlane
) -> None:
    ctl("suspend", "db")
    plane.controller.differs = {"wal"}
    code, out, err = ctl("resync", "db", "--wait")
    assert code == 1
    assert "wal: DUPLEX, 0 B copied, BUT THE LEGS DIFFER" in out
    assert "wal: the legs differ in 1 place" in err
    assert "run `duplexctl repair wal` with --from primary or secondary" in err
    code, out, _ = ctl("resync", "db", "--wait", "--json")
    assert (code, json.loads(out.splitlines()[-1])["ok"]) == (1, False)


def test_of_many_pairs_whose_legs_differ_none_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"v{number}" for number in range(8)]
    control = ControlPlane(tmp_path / "many.sock", FakeController(names, {"all": names}))
    try:
        assert run(["--socket", str(control.path), "suspend", "all"]) == 0
        control.controller.differs = set(names)
        assert run(["--socket", str(control.path), "--quiet", "resync", "all", "--wait"]) == 1
        assert set(re.findall(r"v\d", capfd.readouterr().err)) == set(names)
    finally:
        control.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_interrupted_suspend_says_that_it_may_be_done(
    ctl: Ctl,
    plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    number: signal.Signals,
) -> None:
    async def never(*_: object, **_named: object) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(plane.controller, "suspend", never)
    before = signal.getsignal(number)
    code, out, err = ctl("suspend", "data", "wal", *more)
    text = (
        f"interrupted by {number.name}; data wal may be suspended nevertheless:"
        " `duplexctl status data wal`"
    )
    assert (code, err) == (128 + number, f"duplexctl: {text}\n")
    assert (json.loads(out)["detail"] if more else out) == (text if more else "")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_interrupt_once_a_suspend_is_done_does_not_lose_the_answer(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, more: list[str], number: signal.Signals
) -> None:
    def text(found: Suspended) -> str:
        signal.raise_signal(number)
        return suspended_text(found)

    monkeypatch.setattr("duplexd.duplexctl.texts.suspended_text", text)
    code, out, err = ctl("suspend", "db", *more)
    assert (code, err) == (
        128 + number,
        f"duplexctl: interrupted by {number.name}; all was done before that\n",
    )
    if more:
        assert json.loads(out)["verdict"] == "consistent"
    else:
        assert out.startswith("suspended db: consistent")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_an_error_of_a_suspend_is_written_does_not_lose_it(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def explained(_: object, error: errors.DuplexdError) -> errors.DuplexdError:
        signal.raise_signal(number)
        return error

    monkeypatch.setattr("duplexd.duplexctl.settings.Settings.explained", explained)
    code, _, err = ctl("suspend", "none")
    assert (code, "'none'" in err) == (3, True)


def test_an_empty_lease_is_2_and_nothing_is_suspended(ctl: Ctl, plane: ControlPlane) -> None:
    code, _, err = ctl("suspend", "db", "--lease", "")
    assert (code, "$DUPLEXD_LEASE" in err) == (2, True)
    assert set(plane.controller.volumes.values()) == {"DUPLEX"}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "0", "1e300", "2e6", "x"])
@pytest.mark.parametrize(
    "arguments",
    [["status", "--timeout"], ["status", "--watch", "--interval"], ["quiesce", "db", "--hold"]],
)
def test_a_time_that_can_not_be_waited_is_2(ctl: Ctl, arguments: list[str], value: str) -> None:
    code, _, err = ctl(*arguments, value)
    assert (
        code,
        f"'{arguments[-1]}': '{value}' is not a valid time; expected a number of seconds" in err,
    ) == (
        2,
        True,
    )


def test_the_longest_time_can_be_waited(ctl: Ctl) -> None:
    assert ctl("--timeout", "1e6", "status")[0] == 0


def test_events_end_after_the_present_state(ctl: Ctl) -> None:
    code, out, _ = ctl("events", "--json")
    lines = [Event.model_validate_json(line) for line in out.splitlines()]
    assert (code, [line.event for line in lines]) == (0, ["state", "synced"])


def test_completion_scripts_and_names(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, plane: ControlPlane
) -> None:
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = ctl("completion", shell)
        assert (code, "_DUPLEXCTL_COMPLETE" in out) == (0, True)
    assert json.loads(ctl("completion", "zsh", "--json")[1])["shell"] == "zsh"
    monkeypatch.setenv("_DUPLEXCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "2")
    for word, names in (("d", ["db", "data"]), ("o", ["other"]), ("x", [])):
        monkeypatch.setenv("COMP_WORDS", f"duplexctl suspend {word}")
        assert ctl()[1].split() == [f"plain,{name}" for name in names]
    plane.stop()
    assert ctl()[1].split() == []


def test_not_found_is_3_and_json_has_the_problem(ctl: Ctl) -> None:
    for arguments in (
        ["status", "x"],
        ["suspend", "x"],
        ["quiesce", "x"],
        ["resync", "x"],
        ["resync", "--wait", "x"],
        ["verify", "x"],
        ["swap", "x"],
        ["adopt", "x"],
        ["release", "x"],
    ):
        code, out, err = ctl(*arguments, "--json")
        assert code == 3
        assert Problem.model_validate_json(out).exit_code == 3
        assert "'x'" in err


def test_wrong_state_is_5(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.volumes |= dict.fromkeys(("data", "wal"), "SIMPLEX")
    assert ctl("suspend", "db")[0] == 5
    assert ctl("resync", "db", "--wait")[0] == 5


@pytest.mark.parametrize("more", [[], ["--wait"]])
def test_a_resync_of_some_is_5_and_names_those_that_were_left_out(
    ctl: Ctl, plane: ControlPlane, more: list[str]
) -> None:
    ctl("suspend", "db")
    plane.controller.volumes["data"] = "SIMPLEX"
    code, out, err = ctl("resync", "db", *more)
    assert code == 5
    assert "wal" in out
    assert "not started for data: a SIMPLEX volume has no secondary" in err
    code, out, _ = ctl("resync", "db", *more, "--json")
    answer = json.loads(out.splitlines()[-1])
    assert (code, answer["ok"]) == (5, False)
    assert [row["name"] for row in answer["refused"]] == ["data"]


def test_a_resync_that_fails_for_some_and_is_refused_for_others_is_1(
    ctl: Ctl, plane: ControlPlane
) -> None:
    ctl("suspend", "db")
    plane.controller.volumes["data"] = "SIMPLEX"
    plane.controller.broken = {"wal"}
    code, _, err = ctl("resync", "db", "--wait")
    assert code == 1
    assert "not DUPLEX: wal" in err
    assert "not started for data" in err


def test_unreachable_is_7_and_says_what_to_do(ctl: Ctl, tmp_path: Path) -> None:
    code, _, err = ctl("--socket", str(tmp_path / "no.sock"), "status")
    assert (code, "duplexd run --config" in err) == (7, True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert ctl("status", "--socket", str(tmp_path / "dead.sock"))[0] == 7


@pytest.mark.parametrize("path", ["", "/tmp/" + 110 * "x", "x/" * 60])
@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["cuts"],
        ["canary", "db", "--overwrite"],
        ["suspend", "db", "--certificate", "c.json"],
    ],
)
def test_a_path_that_no_socket_can_have_is_2(ctl: Ctl, arguments: list[str], path: str) -> None:
    code, _, err = ctl("--socket", path, *arguments)
    assert (code, f"'{path}' is not a valid socket path" in err) == (2, True)


@pytest.mark.parametrize("command", ["status", "cuts"])
def test_a_socket_that_speaks_nbd_is_called_so(ctl: Ctl, tmp_path: Path, command: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "nbd.sock"))
        server.listen()

        def greet() -> None:
            with server.accept()[0] as client:
                client.sendall(b"NBDMAGICIHAVEOPT\x00\x03")
                client.recv(1)

        greeter = threading.Thread(target=greet)
        greeter.start()
        code, _, err = ctl("--socket", str(tmp_path / "nbd.sock"), command)
        greeter.join()
    assert (code, "nbd.sock is an NBD socket; " in err) == (7, True)


def test_a_daemon_that_is_silent_is_8(ctl: Ctl, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s.sock"))
        silent.listen()
        code, _, err = ctl("status", "--socket", str(tmp_path / "s.sock"), "--timeout", "0.2")
        assert (code, "--timeout" in err, "may still be done" in err) == (8, True, False)
        code, _, err = ctl(
            "suspend", "db", "--socket", str(tmp_path / "s.sock"), "--timeout", "0.2"
        )
        assert (code, "--timeout" in err, "may still be done" in err) == (8, True, True)


def test_a_void_verdict_and_a_lost_lease_are_9(ctl: Ctl, plane: ControlPlane) -> None:
    assert ctl("suspend", "db", "--lease", "L9")[0] == 9
    plane.controller.void = True
    code, out, err = ctl("suspend", "db")
    assert code == 9
    assert "void" in out
    assert "consistent" not in out
    assert "not a consistent point-in-time copy" in err


def test_a_verdict_that_is_void_because_legs_differ_names_repair(
    ctl: Ctl, plane: ControlPlane
) -> None:
    plane.controller.void, plane.controller.differs = True, {"wal"}
    code, _, err = ctl("suspend", "db")
    assert code == 9
    assert "duplexctl repair TARGET --from primary|secondary" in err


def test_with_json_a_bad_result_stands_alone(ctl: Ctl, plane: ControlPlane) -> None:
    plane.controller.void = True
    code, out, err = ctl("suspend", "db", "--json")
    assert (code, json.loads(out)["verdict"], "void" in err) == (9, "void", True)
    plane.controller.differs = {"wal"}
    code, out, err = ctl("verify", "db", "--json")
    assert (code, json.loads(out)["equal"], "differ" in err) == (1, False, True)
    plane.controller.broken = {"wal"}
    code, out, _ = ctl("resync", "db", "--wait", "--json")
    assert (code, json.loads(out.splitlines()[-1])["event"]) == (1, "done")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "nonsense"],
        ["suspend", "--json"],
        ["status", "--nonsense", "--json"],
        ["quiesce", "--json", "--"],
    ],
)
def test_with_json_a_usage_error_is_a_problem_on_stdout(ctl: Ctl, arguments: list[str]) -> None:
    code, out, err = ctl(*arguments)
    assert (code, Problem.model_validate_json(out).exit_code, "Usage:" in err) == (2, 2, True)
    assert ctl("quiesce", "--", "cat", "--json")[1] == ""


def test_with_json_an_interrupted_command_is_a_problem_unless_it_only_watched(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("duplexd.duplexctl.watch.time.sleep", interrupt)
    code, out, _ = ctl("status", "--watch", "--json")
    assert (code, "volumes" in json.loads(out)) == (130, True)
    monkeypatch.setattr("duplexd.duplexctl.looking.run", interrupt)
    code, out, _ = ctl("status", "--json")
    problem = Problem.model_validate_json(out)
    assert (code, problem.exit_code, problem.title) == (130, 130, "interrupted")
    assert ctl("status")[1] == ""


@pytest.mark.parametrize("tag", ["x" * 201, "\udcff"], ids=["too long", "no UTF-8"])
def test_a_bad_tag_is_2_and_suspends_nothing(ctl: Ctl, plane: ControlPlane, tag: str) -> None:
    assert ctl("suspend", "db", "--tag", tag)[0] == 2
    assert set(plane.controller.volumes.values()) == {"DUPLEX"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["suspend"],
        ["status", "--nonsense"],
        ["quiesce", "db", "--hold", "0"],
        ["quiesce", "db", "--hold", "10.1"],
        ["suspend", "db", "--hold-max", "10.1"],
        ["quiesce", "db", "--"],
        ["quiesce", "--", "true"],
        ["completion", "csh"],
        ["status", "--timeout", "-1"],
    ],
)
def test_usage_is_2(ctl: Ctl, arguments: list[str]) -> None:
    code, _, err = ctl(*arguments)
    assert (code, "Usage:" in err) == (2, True)


def test_every_exit_code_of_a_problem_becomes_that_error() -> None:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.DuplexdError):
            assert (
                errors.error_of({"exit_code": value.exit_code, "detail": "x"}).exit_code
                == value.exit_code
            )


def commands() -> dict[str, click.Command]:
    """All, by name, those of other modules too."""
    assert isinstance(cli, click.Group)
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_every_command_has_json_and_a_help_text() -> None:
    wanted = {
        "status",
        "quiesce",
        "suspend",
        "release",
        "resync",
        "events",
        "verify",
        "settle",
        "cuts",
        "swap",
        "adopt",
        "completion",
    }
    assert wanted <= set(commands())
    for name, command in commands().items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--socket", "--groups", "--timeout"} <= options, name
        assert command.help, name


def test_the_manual_names_every_command_option_and_exit_code() -> None:
    manual = (ROOT / "docs" / "cli.md").read_text()
    for name, command in commands().items():
        section = manual.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert section, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts[0] not in {
                "--json",
                "--socket",
                "--controller",
                "--quiet",
                "--groups",
                "--timeout",
            }:
                assert f"`{parameter.opts[0]}" in section, (name, parameter.opts)
    for value in vars(errors).values():
        if (
            isinstance(value, type)
            and issubclass(value, errors.DuplexdError)
            and value.exit_code > 1
        ):
            assert f"| {value.exit_code} | {value.title} |" in manual


def test_it_starts_without_the_daemons_libraries() -> None:
    code = (
        "import sys; import duplexd.duplexctl.cli; print([m for m in ('pydantic',"
        " 'prometheus_client', 'structlog', 'rich', 'asyncio') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def test_a_reader_that_has_seen_enough_is_not_an_error(plane: ControlPlane) -> None:
    command = [*MAIN, "--socket", str(plane.path), "events", "--json", "--follow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "state"
    process.stdout.close()
    process.stdout = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (
        process.poll() is None and time.monotonic() < deadline
    ):  # it notices as it writes the next one
        plane.call(lambda: plane.controller.emit("noise"))
        time.sleep(0.02)
    process.kill()
    assert process.communicate()[1] == b""
    assert process.returncode == 1


def _pty_run(
    arguments: list[str], expected: str = "", then: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Run duplexctl on a terminal; call `then` once it has written what is expected."""
    parent, child = pty.openpty()
    process = subprocess.Popen([*MAIN, *arguments], stdout=child, stderr=child, cwd=ROOT)
    os.close(child)
    data, waiting = b"", True
    with contextlib.suppress(OSError):  # that is how a terminal ends
        while more := os.read(parent, 4096):
            data += more
            if waiting and expected.encode() in data:
                waiting = False
                then()
    os.close(parent)
    return process.wait(PATIENCE_SECONDS), data.decode()


def test_on_a_terminal_there_are_tables_and_bars(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = _pty_run(["--socket", str(plane.path), "status"])
    assert code == 0
    assert "\x1b[" in text
    assert "DUPLEX" in text
    assert plane.ask("POST", "/v1/suspend", {"targets": ["db"]})[0] == 200
    copied, resync_wait = asyncio.Event(), plane.controller.resync_wait

    async def copying(names: list[str]) -> Any:
        await copied.wait()
        return await resync_wait(names)

    monkeypatch.setattr(plane.controller, "resync_wait", copying)
    code, text = _pty_run(
        ["--socket", str(plane.path), "resync", "db", "--wait"], "━", lambda: plane.call(copied.set)
    )
    assert code == 0
    assert "━" in text


@pytest.mark.parametrize("program", [cli, daemon.cli])
def test_help_says_what_each_command_does_to_the_end(program: click.Group) -> None:
    lines = (
        CliRunner()
        .invoke(program, ["--help"], terminal_width=80)
        .output.partition("Commands:\n")[2]
        .partition("\n\n")[0]
        .splitlines()
    )
    context = click.Context(program)
    commands = [program.get_command(context, name) for name in program.list_commands(context)]
    assert len(lines) == len([command for command in commands if command and not command.hidden])
    assert not [line for line in lines if line.endswith("...")]
