"""What ships with the code: the units, the container, the entry points, the documents."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import duplexd
from duplexd.attach.attaching import LOCKS
from duplexd.config import groups_file as groups
from duplexd.config import load as config
from duplexd.config.daemon_file import (
    ControlConfig,
    ControllerConfig,
    GroupConfig,
    HealthConfig,
    MetricsConfig,
    ScrubConfig,
    TlsConfig,
    VolumeConfig,
)
from duplexd.config.nbd_section import ListenerConfig, NbdConfig, NbdTlsConfig
from duplexd.duplexctl.cli import cli
from duplexd.errors import (
    ConfigurationError,
    ForbiddenError,
    TimedOutError,
    UnreachableError,
    UsageError,
    WrongStateError,
)
from duplexd.limits import DaemonLimits

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "duplexd@.service"
UNITS = sorted((ROOT / "systemd").glob("*.service"))
SOCKETS = sorted((ROOT / "systemd").glob("*.socket"))
TIMERS = sorted((ROOT / "systemd").glob("*.timer"))
TARGETS = sorted((ROOT / "systemd").glob("*.target"))
FSTAB_GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: install systemd"
    return subprocess.run(
        [program, "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "path", [*UNITS, *SOCKETS, *TIMERS, *TARGETS], ids=lambda path: str(path.name)
)
def test_systemd_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    for each in (*UNITS, *SOCKETS, *TIMERS, *TARGETS):  # those that a socket names, too
        (tmp_path / each.name).write_text(
            re.sub(
                "^(ExecStart|ExecReload)=(duplexd|duplexctl)\\b",
                rf"\1={sys.executable}",
                each.read_text(),
                flags=re.MULTILINE,
            )
        )
    unit = tmp_path / path.name
    result = systemd_analyze("verify", "--man=no", str(unit))
    assert result.returncode == 0, result.stderr
    assert str(unit) not in result.stderr, result.stderr


# The check of a drill is the user's, and mounts file systems: no sandbox fits all of them.
HARDENED = [path for path in UNITS if path.name != "duplexd-drill@.service"]


@pytest.mark.parametrize("path", HARDENED, ids=lambda path: str(path.name))
def test_the_unit_is_hardened(path: Path) -> None:
    result = systemd_analyze("security", "--offline=true", "--threshold=20", str(path))
    assert result.returncode == 0, result.stdout
    assert "OK" in result.stdout.splitlines()[-1]


def settings(unit: Path = UNIT) -> dict[str, str]:
    return dict(
        line.split("=", 1)
        for line in unit.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )


def test_the_unit_does_not_restart_after_errors_that_need_an_operator() -> None:
    codes = {UsageError.exit_code, ForbiddenError.exit_code, ConfigurationError.exit_code}
    assert {int(code) for code in settings()["RestartPreventExitStatus"].split()} == codes
    assert (settings()["Type"], settings()["Restart"]) == ("notify", "on-failure")


def test_a_reload_of_the_unit_fails_if_the_daemon_refuses_it() -> None:
    """A signal would succeed whatever comes of it."""
    assert settings()["ExecReload"] == "duplexctl --socket /run/duplexd/%i/control.sock reload"


def test_the_unit_waits_for_a_stop_longer_than_the_daemon_does() -> None:
    seconds = settings()["TimeoutStopSec"]
    assert int(seconds.removesuffix("s")) > DaemonLimits().stop_seconds_max


def test_what_a_start_waits_for_does_not_use_up_the_starts_of_the_unit() -> None:
    """Else systemd gives up while the address is still to come."""
    unit, own = settings(), DaemonLimits()
    interval_s = int(unit["StartLimitIntervalSec"].removesuffix("min")) * 60
    assert WrongStateError.exit_code not in map(int, unit["RestartPreventExitStatus"].split())
    assert int(unit["StartLimitBurst"]) * own.passing_seconds_max > interval_s


def test_the_unit_needs_the_mount_of_the_state_and_of_no_image() -> None:
    unit = settings()
    state_dir = f"/var/lib/{unit['StateDirectory']}"
    assert unit["RequiresMountsFor"].split() == [state_dir, "/etc/duplexd"]
    assert "network-online.target" in unit["After"].split()


def test_the_canary_unit_restarts_only_after_transient_errors() -> None:
    unit = settings(ROOT / "systemd" / "duplexd-canary@.service")
    again = {1, UnreachableError.exit_code, TimedOutError.exit_code}
    assert {int(code) for code in unit["RestartPreventExitStatus"].split()} == set(
        range(1, 10)
    ) - again
    command = unit["ExecStart"].split()
    assert command[0] == "duplexctl"
    assert cli.get_command(click.Context(cli), "canary") is not None
    assert command[1:] == ["--json", "canary", "%i"]


def test_the_mark_unit_marks_until_it_is_stopped_and_goes_on_after_what_passes() -> None:
    unit = settings(ROOT / "systemd" / "duplexd-mark@.service")
    never = {int(code) for code in unit["RestartPreventExitStatus"].split()}
    assert never == {2, 3, 4, 6}
    assert unit["SuccessExitStatus"] == str(128 + signal.SIGTERM)
    assert unit["Environment"] == "EVERY=60"
    command = unit["ExecStart"].split()
    assert command == ["duplexctl", "--quiet", "mark", "%i", "--every", "${EVERY}"]
    cli.make_context(
        "duplexctl", [*command[1:3], "db", *command[4:5], "60"], resilient_parsing=True
    )


def test_the_backup_unit_fails_without_its_configuration() -> None:
    """One that was skipped would look like one that was made."""
    unit = settings(ROOT / "systemd" / "duplexd-backup@.service")
    assert unit["EnvironmentFile"] == "/etc/duplexd/backup/%i.conf"
    assert not [key for key in unit if key.startswith("Condition")]
    assert unit["ExecStart"].split() == ["duplexctl", "backup", "$OPTIONS", "%i", "${DEST}"]


def test_the_drill_unit_makes_a_cut_of_its_own_and_runs_the_check_of_its_name() -> None:
    unit = settings(ROOT / "systemd" / "duplexd-drill@.service")
    assert not [key for key in unit if key.startswith("Condition")]
    command = ["duplexctl", "drill", "%i", "--suspend", "--", "/etc/duplexd/drill/%i"]
    assert unit["ExecStart"].split() == command


def test_the_attach_unit_takes_a_device_over_and_gives_up_only_for_an_operator() -> None:
    unit = settings(ROOT / "systemd" / "duplexd-attach@.service")
    codes = {UsageError.exit_code, ForbiddenError.exit_code, WrongStateError.exit_code}
    assert {int(code) for code in unit["RestartPreventExitStatus"].split()} == codes
    assert unit["RuntimeDirectory"] == Path(LOCKS).name
    assert unit["ExecStart"].split() == [
        *("duplexd", "attach", "--wait", "90", "$OPTIONS", "${VOLUME}", "/dev/%i"),
    ]
    daemon_first = "duplexd-volumes.target"
    assert (daemon_first in unit["After"].split(), settings()["Before"]) == (True, daemon_first)


def test_the_mount_of_attach_md_waits_for_a_late_device_and_nothing_waits_for_it(
    tmp_path: Path,
) -> None:
    """As systemd reads the line of /etc/fstab."""
    page = (ROOT / "docs" / "attach.md").read_text()
    (line,) = re.findall("^    (/dev/nbd0 .*)$", page, re.MULTILINE)
    assert line in (ROOT / "systemd" / "duplexd-attach@.service").read_text()
    (tmp_path / "fstab").write_text(f"{line}\n")
    units = tmp_path / "units"
    units.mkdir()
    subprocess.run(
        [FSTAB_GENERATOR, units, units, units],
        env={"SYSTEMD_FSTAB": str(tmp_path / "fstab")},
        capture_output=True,
        timeout=60,
        check=True,
    )
    mount = settings(units / "srv-db.mount")
    assert "duplexd-attach@nbd0.service" in (units / "srv-db.mount").read_text()
    assert (mount["What"], mount["Type"]) == ("/dev/nbd0", "ext4")
    assert settings(units / "dev-nbd0.device.d" / "50-device-timeout.conf") == {
        "JobRunningTimeoutSec": "0"  # for ever
    }
    assert (units / "remote-fs.target.wants" / "srv-db.mount").is_symlink()
    assert not (units / "remote-fs.target.requires").exists()


def test_the_unit_leaves_the_boot_id_readable() -> None:
    assert "ProcSubset" not in settings()  # the journal notes on which boot a daemon was started


def test_the_unit_lets_the_daemon_identify_peers_and_set_the_group_of_its_socket() -> None:
    assert (
        "PrivateUsers" not in settings()
    )  # the kernel would give every user's number as that of nobody
    filters = [
        line.partition("=")[2]
        for line in UNIT.read_text().splitlines()
        if line.startswith("SystemCallFilter=")
    ]
    assert "@chown" in filters[-1].split()  # the last word, after what @privileged takes away


@pytest.mark.parametrize(("script", "target"), sorted(PROJECT["scripts"].items()))
def test_the_programs_exist_and_print_their_version(script: str, target: str) -> None:
    module, _, function = target.partition(":")
    assert callable(getattr(import_module(module), function))
    call = (
        f"import sys; sys.argv[0] = {script!r}; "
        f"from {module} import {function}; sys.exit({function}())"
    )
    result = subprocess.run(
        [sys.executable, "-c", call, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert script in result.stdout
    assert duplexd.__version__ in result.stdout


def test_every_imported_package_is_a_declared_dependency() -> None:
    declared = {
        re.split(r"[<>=]", requirement)[0].replace("-", "_").lower()
        for requirement in PROJECT["dependencies"]
    }
    imported: set[str] = set()
    for path in (ROOT / "duplexd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    third_party = {
        name
        for name in imported
        if name not in sys.stdlib_module_names and name not in {"duplexd", "pydantic_core"}
    }
    assert third_party == declared


def test_the_container_is_not_root_and_gets_signals() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0"}
    for word in ("ENTRYPOINT", "CMD"):
        assert [
            json.loads(line.removeprefix(word)) for line in lines if line.startswith(f"{word} ")
        ]
    health = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert json.loads(health[0].partition("CMD ")[2]) == ["duplexctl", "health", "--service"]
    copied = [
        part
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for part in line.split()[1:-1]
    ]
    assert all((ROOT / part).exists() for part in copied)
    assert {f"!{part}" for part in copied} <= set((ROOT / ".dockerignore").read_text().splitlines())


@pytest.mark.parametrize(
    "document",
    sorted(
        path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    ),
)
def test_links_in_the_documents_resolve(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_key_of_the_configuration_is_documented_in_its_section() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    documented = {
        f"{section}.{key}"
        for section, body in re.findall(
            r"^## \[+([^]]+)\]+\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL
        )
        for key in re.findall(r"^\| `([^`]+)` \|", body, re.MULTILINE)
    }
    sections: dict[str, type[BaseModel]] = {
        "controller": ControllerConfig,
        "nbd": NbdConfig,
        "nbd.tls": NbdTlsConfig,
        "nbd.listeners": ListenerConfig,
        "control": ControlConfig,
        "control.tls": TlsConfig,
        "health": HealthConfig,
        "metrics": MetricsConfig,
        "scrub": ScrubConfig,
        "volumes.NAME": VolumeConfig,
        "groups.NAME": GroupConfig,
    }
    keys = {f"{section}.{key}" for section, model in sections.items() for key in model.model_fields}
    assert documented == keys


def test_the_changelog_has_this_version() -> None:
    assert f"## [{duplexd.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_help_lists_what_the_readme_names() -> None:
    listed = subprocess.run(
        ["make", "-s", "help"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    ).stdout
    targets = set(re.findall(r"^ {2}make ([a-z-]+)", listed, re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)`?(?: {2,}#|`)", (ROOT / "README.md").read_text()))
    assert {"demo", "run", "test", "help"} <= named
    assert named <= targets


def test_the_groups_file_of_the_readme_fits_make_run(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"^ +(printf .*) > var/groups.toml$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    (tmp_path / "var").mkdir()
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs/duplexd.toml", tmp_path / "configs")
    daemon = config.load(tmp_path / "configs/duplexd.toml")
    subprocess.run(["sh", "-c", f"{line} > var/groups.toml"], cwd=tmp_path, check=True, timeout=60)
    found = groups.load(tmp_path / "var/groups.toml")
    assert {name: entry.socket for name, entry in found.controllers.items()} == {
        daemon.controller.name: daemon.control.socket
    }
    assert found.resolve(["all"]).members == {daemon.controller.name: tuple(daemon.volumes)}


def test_make_run_prints_the_next_step_on_a_terminal() -> None:
    printed = subprocess.run(
        ["make", "-n", "run"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    ).stdout
    (hint,) = [line for line in printed.splitlines() if "another terminal" in line]
    socket = tomllib.loads((ROOT / "configs/duplexd.toml").read_text())["control"][
        "socket"
    ].removeprefix("../")
    assert f"duplexctl --socket {socket} status" in hint
    assert (
        subprocess.run(["sh", "-c", hint], capture_output=True, timeout=60, check=True).stderr
        == b""
    )
