"""Hooks of groups, as users have them: of a daemon's configuration, and of the groups file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.cluster import Cluster
from tests.support.daemon import (
    PATIENCE_SECONDS,
    ROOT,
    Daemon,
    DaemonFiles,
    environment,
    run_duplexctl,
)
from tests.support.fuse.mounting import unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


class Scripts(NamedTuple):
    """Hooks that note in a log when they ran, and with what."""

    directory: Path

    def write(self, name: str, body: str = "") -> Path:
        path = self.directory / name
        note = '"$(date +%s.%N) $DUPLEXD_HOOK $DUPLEXD_CUT,$DUPLEXD_VERDICT,$DUPLEXD_EXIT"'
        path.write_text(f"#!/bin/bash\necho {note} >> {self.directory}/{name}.log\n{body}\n")
        path.chmod(0o755)
        return path

    def lines(self, name: str) -> list[tuple[float, str]]:
        path = self.directory / f"{name}.log"
        found = path.read_text().splitlines() if path.exists() else []
        return [(float(time), said) for time, _, said in (line.partition(" ") for line in found)]

    def ran(self, name: str) -> list[str]:
        return [said for _, said in self.lines(name)]

    def wait(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.lines(name):
            assert time.monotonic() < deadline, f"{name} was not run"
            time.sleep(0.02)

    def group(self, name: str, before: str = "", after: str = "", timeout: str = "10m") -> str:
        """The keys of a group, in both files."""
        scripts = [self.write(f"{name}-before", before), self.write(f"{name}-after", after)]
        return (
            f'before_suspend = ["{scripts[0]}", "x y"]\nafter_suspend = ["{scripts[1]}"]\n'
            f'hook_timeout = "{timeout}"\n'
        )


BIG = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end"
GROUPS = {  # of one volume each: before, after, and the time-out
    "good": ("", "", "10m"),
    "refused": ("echo no lock; exit 75", "", "10m"),
    "slow": ("sleep 600", "", "0.5s"),
    "frozen": ("", "echo not thawed; exit 1", "10m"),
    "big": (BIG, "", "10m"),
    "left": ("sleep 600", "", "10m"),
    "listed": ("", "", "10m"),
    "again": ("", "", "10m"),
}


class Hooked(NamedTuple):
    """A daemon with groups of one volume each."""

    daemon: Daemon
    scripts: Scripts

    def ctl(self, *arguments: str, code: int = 0) -> str:
        done = run_duplexctl(self.daemon.files, *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code and "--json" not in arguments else done.stdout

    def state(self, group: str) -> str:
        _, status = self.daemon.request("GET", f"/v1/status?target={group}")
        return str(status["volumes"][0]["state"])


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooked]:
    directory = tmp_path_factory.mktemp("hooked")
    scripts = Scripts(directory)
    files = DaemonFiles(directory, {f"v-{group}": "1MiB" for group in GROUPS})
    files.extra = "\n".join(
        f'[groups.{group}]\nvolumes = ["v-{group}"]\n{scripts.group(group, *how)}'
        for group, how in GROUPS.items()
    )
    daemon = Daemon(files.write()).start()
    yield Hooked(daemon, scripts)
    daemon.kill()
    assert "Traceback" not in daemon.log(), daemon.log()[-4000:]


def test_hooks_run_before_and_after_the_cut(hooked: Hooked) -> None:
    result = json.loads(hooked.ctl("--json", "suspend", "good", "--tag", "nightly"))
    ((began, said),) = hooked.scripts.lines("good-before")
    ((ended, cut),) = hooked.scripts.lines("good-after")
    assert began < result["time"] < ended
    assert said == "before_suspend ,,"
    # what is run at once knows no verdict
    assert cut == f"after_suspend {result['cut']},,"
    assert [(run["hook"], run["group"], run["status"]) for run in result["hooks"]] == [
        ("before_suspend", "good", "ok"),
        ("after_suspend", "good", "ok"),
    ]
    assert {run["controller"] for run in result["hooks"]} == {"test"}
    hooked.daemon.wait_log("hook-ended", "after_suspend", '"group": "good"')


def test_a_failed_before_suspend_suspends_nothing(hooked: Hooked) -> None:
    error = hooked.ctl("suspend", "refused", code=1)
    assert "before_suspend of group 'refused' failed (exit code 75: no lock)" in error
    assert "nothing was suspended" in error
    assert hooked.scripts.ran("refused-after") == ["after_suspend ,,1"]
    assert hooked.state("refused") == "DUPLEX"


def test_a_before_suspend_that_hangs_is_killed(hooked: Hooked) -> None:
    error = hooked.ctl("suspend", "slow", code=1)
    assert "(it was killed after 0.5 s (hook_timeout))" in error
    assert hooked.state("slow") == "DUPLEX"


def test_a_failed_after_suspend_is_an_error_though_the_cut_is_good(hooked: Hooked) -> None:
    done = run_duplexctl(hooked.daemon.files, "suspend", "frozen")
    assert done.returncode == 1
    assert "suspended frozen: consistent" in done.stdout
    assert "after_suspend of group 'frozen' failed (exit code 1: not thawed)" in done.stderr
    assert hooked.state("frozen") == "SUSPENDED"


def test_of_a_big_output_the_last_is_shown(hooked: Hooked) -> None:
    result = json.loads(hooked.ctl("--json", "suspend", "big"))
    output = result["hooks"][0]["output"]
    assert len(output) == 4096
    assert output.endswith("x\nthe end\n")


def test_volumes_that_are_named_one_by_one_and_leases_run_no_hooks(hooked: Hooked) -> None:
    command = [*MAIN, "--socket", str(hooked.daemon.files.control_socket), "suspend"]
    shell = " ".join(["exec", *(f"'{part}'" for part in command), "listed --lease $DUPLEXD_LEASE"])
    error = hooked.ctl("quiesce", "listed", "--hold", "10", "--", "sh", "-c", shell, code=2)
    assert "group 'listed' has hooks" in error
    result = json.loads(hooked.ctl("--json", "suspend", "v-listed"))
    assert result["hooks"] == []
    assert hooked.scripts.ran("listed-before") == []


def test_a_cut_that_is_refused_is_followed_by_after_suspend(hooked: Hooked) -> None:
    hooked.ctl("suspend", "v-again")
    hooked.ctl("suspend", "again", code=5)
    assert hooked.scripts.ran("again-after") == ["after_suspend ,,5"]


def test_a_client_that_goes_away_during_before_suspend_suspends_nothing(hooked: Hooked) -> None:
    command = [*MAIN, "--socket", str(hooked.daemon.files.control_socket), "suspend", "left"]
    with subprocess.Popen(command, env=environment(), cwd=ROOT) as client:
        hooked.scripts.wait("left-before")
        client.kill()
    hooked.scripts.wait("left-after")
    assert hooked.state("left") == "DUPLEX"


def test_a_daemon_that_is_stopped_runs_after_suspend(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
) -> None:
    scripts = Scripts(tmp_path)
    hooks = scripts.group("db", before="sleep 600", after="sleep 0.3; touch thawed")
    scripts.write("db-after", f"sleep 0.3; touch {tmp_path}/thawed")
    extra = f'[groups.db]\nvolumes = ["data"]\n{hooks}'
    daemon = start_daemon(make_files(extra=extra))
    command = [*MAIN, "--socket", str(daemon.files.control_socket), "suspend", "db"]
    with subprocess.Popen(
        command, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as client:
        scripts.wait("db-before")
        assert daemon.stop() == 0
        assert (tmp_path / "thawed").exists()
        _, error = client.communicate(timeout=PATIENCE_SECONDS)
    assert client.returncode == 1, error
    assert "it was killed because the suspend was given up" in error
    assert daemon.start().request("GET", "/v1/status")[1]["volumes"][0]["state"] == "DUPLEX"


def test_a_reload_takes_other_hooks(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
) -> None:
    scripts = Scripts(tmp_path)
    daemon = start_daemon(make_files(extra='[groups.db]\nvolumes = ["data"]\n'))
    daemon.files.extra += scripts.group("db")
    daemon.files.write()
    done = run_duplexctl(daemon.files, "reload")
    assert "groups.db.before_suspend: was not set, is ['" in done.stdout, done.stderr
    assert "groups.db.hook_timeout: was '10s', is '10m'" in done.stdout
    assert run_duplexctl(daemon.files, "suspend", "db").returncode == 0
    assert len(scripts.ran("db-after")) == 1


class Grouped(NamedTuple):
    """Two daemons, and a groups file with hooks; `daemons` have some of their own."""

    cluster: Cluster
    scripts: Scripts
    groups: Path

    def command(self, *arguments: str) -> list[str]:
        return [*MAIN, "--groups", str(self.groups), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=environment(),
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def resync(self, group: str) -> None:
        assert self.run("resync", group, "--wait").returncode == 0


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grouped]:
    directory = tmp_path_factory.mktemp("grouped")
    cluster = Cluster(directory, {"alpha": ["a", "x"], "beta": ["b"]})
    scripts = Scripts(directory)
    for name, daemon in cluster.daemons.items():
        own = scripts.group(f"own-{name}")
        daemon.files.extra = f'[groups.own]\nvolumes = ["{name[0]}"]\n{own}'
        daemon.files.write()
    groups = cluster.write_groups({})
    members = {
        "db": '["alpha:a", "beta:b"]',
        "one": '["alpha:x"]',
        "nested": '["alpha:own", "beta:own"]',
        "inner": '["beta:own"]',
        "slow": '["alpha:a", "beta:b"]',
        "frozen": '["alpha:a", "beta:b"]',
    }
    bodies = {"slow": ("sleep 600", ""), "frozen": ("", "echo one; echo two; exit 7")}
    with groups.open("a") as file:
        for name, listed in members.items():
            hooks = scripts.group(name, *bodies.get(name, ("", "")))
            file.write(f"[groups.{name}]\nmembers = {listed}\nhold_max = 10.0\n{hooks}")
    with cluster:
        yield Grouped(cluster, scripts, groups)


@pytest.mark.parametrize("group", ["db", "one"])
def test_hooks_of_the_groups_file_run_around_the_cut(grouped: Grouped, group: str) -> None:
    done = grouped.run("--json", "suspend", group, "--tag", "nightly")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    ((began, _),) = grouped.scripts.lines(f"{group}-before")
    ((ended, said),) = grouped.scripts.lines(f"{group}-after")
    assert began < result["time"] < ended
    assert said == f"after_suspend {result['cut']},,"
    assert [(run["hook"], run["status"], run["controller"]) for run in result["hooks"]] == [
        ("before_suspend", "ok", ""),
        ("after_suspend", "ok", ""),
    ]
    grouped.resync(group)


def test_a_daemons_own_hooks_are_not_run_in_a_cut_of_several(grouped: Grouped) -> None:
    done = grouped.run("--json", "suspend", "nested")
    assert done.returncode == 0, done.stderr
    assert [run["group"] for run in json.loads(done.stdout)["hooks"]] == ["nested", "nested"]
    assert grouped.scripts.ran("own-alpha-before") == []
    grouped.resync("nested")


def test_those_of_one_controller_are_run_within_those_of_the_file(grouped: Grouped) -> None:
    done = grouped.run("--json", "suspend", "inner")
    assert done.returncode == 0, done.stderr
    times = [
        grouped.scripts.lines(name)[-1][0]
        for name in ("inner-before", "own-beta-before", "own-beta-after")
    ]
    assert times == sorted(times)
    shown = [(run["group"], run["controller"]) for run in json.loads(done.stdout)["hooks"]]
    assert sorted(shown) == [("inner", ""), ("inner", ""), ("own", "beta"), ("own", "beta")]
    grouped.resync("inner")


def test_a_failed_after_suspend_of_the_file_is_an_error(grouped: Grouped) -> None:
    done = grouped.run("suspend", "frozen")
    assert done.returncode == 1
    assert "suspended frozen: consistent" in done.stdout
    assert "after_suspend of group 'frozen' failed (exit code 7: two)" in done.stderr
    assert "duplexctl: after_suspend: one\n" in done.stderr
    grouped.resync("frozen")


def test_an_interrupt_during_before_suspend_suspends_nothing_and_undoes_it(
    grouped: Grouped,
) -> None:
    with subprocess.Popen(
        grouped.command("suspend", "slow"), env=environment(), cwd=ROOT
    ) as client:
        grouped.scripts.wait("slow-before")
        busy = grouped.run("suspend", "db")
        client.send_signal(signal.SIGINT)
        assert client.wait(PATIENCE_SECONDS) == 130
    assert busy.returncode == 5
    assert "another suspend runs hooks of this file" in busy.stderr
    assert grouped.scripts.ran("slow-after") == ["after_suspend ,,"]
    assert grouped.cluster["alpha"].request("GET", "/v1/status?target=a")[1]["volumes"][0][
        "state"
    ] == ("DUPLEX")


def test_hooks_of_a_file_that_every_user_can_write_are_not_run(grouped: Grouped) -> None:
    open_to_all = grouped.groups.with_name("open.toml")
    open_to_all.write_text(grouped.groups.read_text())
    open_to_all.chmod(0o666)
    before = len(grouped.scripts.ran("db-before"))
    done = Grouped(grouped.cluster, grouped.scripts, open_to_all).run("suspend", "db")
    assert done.returncode == 6
    assert "every user can write to this file" in done.stderr
    assert len(grouped.scripts.ran("db-before")) == before


def test_a_frozen_file_system_is_clean_on_the_secondary_and_an_unmounted_one_is_an_error(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
) -> None:
    """ext4 that was not frozen has to replay its journal. Needs root, FUSE and loop devices."""
    daemon = start_daemon(make_files(volumes={"fs": "32MiB"}))
    disk, point = tmp_path / "disk", tmp_path / "mnt"
    disk.mkdir()
    point.mkdir()
    freeze = tmp_path / "freeze"
    freeze.write_text(
        '#!/bin/sh\nmountpoint "$2" || exit 1  # else it is the file system of the directory\n'
        'exec fsfreeze "$1" "$2"\n'
    )
    freeze.chmod(0o755)
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.test]\nsocket = "{daemon.files.control_socket}"\n'
        f'[groups.cold]\nmembers = ["test:fs"]\n'
        f'[groups.fs]\nmembers = ["test:fs"]\n'
        f'before_suspend = ["{freeze}", "--freeze", "{point}"]\n'
        f'after_suspend = ["{freeze}", "--unfreeze", "{point}"]\n'
    )

    def ctl(*arguments: str, code: int = 0) -> str:
        command = [*MAIN, "--groups", str(groups), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(), cwd=ROOT
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    def needs_recovery() -> bool:
        secondary = daemon.files.secondary_of("fs")
        done = subprocess.run(
            ["dumpe2fs", "-h", secondary], capture_output=True, text=True, check=True
        )
        return "needs_recovery" in done.stdout

    with subprocess.Popen(["nbdfuse", str(disk / "nbd"), daemon.files.uri("fs")]) as fuse:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (disk / "nbd").exists():
                assert fuse.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            subprocess.run(["mkfs.ext4", "-q", "-F", str(disk / "nbd")], check=True)
            subprocess.run(["mount", "-o", "loop", str(disk / "nbd"), str(point)], check=True)
            try:
                (point / "a").write_bytes(os.urandom(100_000))
                ctl("suspend", "fs")
                (point / "b").write_bytes(b"thawed")
                assert not needs_recovery()
                ctl("resync", "fs", "--wait")
                ctl("suspend", "cold")
                assert needs_recovery()  # so the freeze was what made the difference
                ctl("resync", "fs", "--wait")
            finally:
                subprocess.run(["umount", str(point)], check=True)
            assert f"{point} is not a mountpoint); nothing was suspended" in ctl(
                "suspend", "fs", code=1
            )
        finally:
            unmount(str(disk))
