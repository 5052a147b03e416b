"""duplexctl on groups of three real daemons: each command once, and each error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.cluster import Cluster, spread
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


class Ctl:
    """duplexctl with the groups file of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.groups = cluster.write_groups(
            {"db": cluster.members, "one": cluster.members[:1]}, HOLD_SECONDS_MAX
        )

    def command(self, *arguments: str) -> list[str]:
        """With `--socket`, which names one daemon, the file is that of the environment."""
        groups = [] if "--socket" in arguments else ["--groups", str(self.groups)]
        return [*MAIN, *groups, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
            process_group=0,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Its output; stderr if another exit code than 0 is expected."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=environment() | {"DUPLEXD_GROUPS": str(self.groups)},
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    @property
    def leases(self) -> int:
        return sum(
            len(self.cluster.ask(name, "GET", "/v1/status")["leases"])
            for name in self.cluster.daemons
        )

    def bring_back(self) -> None:
        """All daemons run, all pairs are DUPLEX."""
        for name, daemon in self.cluster.daemons.items():
            if not daemon.running:
                daemon.start()
            self.cluster.resync(name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), spread(6)) as started:
        yield started


@pytest.fixture
def ctl(cluster: Cluster) -> Ctl:
    found = Ctl(cluster)
    found.bring_back()
    return found


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_backup_from_start_to_finish(ctl: Ctl) -> None:
    assert "group db: DUPLEX: alpha:a00 alpha:a03 beta:b01" in ctl("status", "db")
    text = ctl("suspend", "db", "--tag", "nightly")
    assert text.startswith("suspended db: consistent, cut ")
    assert "\n  alpha at " in text
    assert "; within the limit of 10 s" in text
    assert "suspended already: cut " in ctl("suspend", "db", code=5)
    again = ctl("suspend", "db", "--allow-existing")
    assert again.startswith("already suspended db: consistent")
    status = ctl.json("status", "db")
    (group,) = status["groups"]
    assert (group["state"], group["verdict"]) == ("SUSPENDED", "consistent")
    assert f"group db: SUSPENDED: consistent, cut {group['cut']}: " in ctl("status")
    assert ctl.json("verify", "db")["equal"]
    assert "beta:b01: DUPLEX, " in ctl("resync", "db", "--wait")
    history = ctl("cuts", "db")
    assert f"{group['cut']} consistent db nightly" in " ".join(history.split())
    assert ctl("settle", "db") == "db: no cut is undecided\n"


def test_status_watch_prints_until_interrupted(ctl: Ctl) -> None:
    with ctl.start("status", "db", "--watch", "--interval", "0.1", "--json") as watch:
        assert watch.stdout is not None
        for _ in range(3):
            assert json.loads(watch.stdout.readline())["groups"][0]["state"] == "DUPLEX"
        watch.send_signal(signal.SIGINT)
        _, error = watch.communicate(timeout=PATIENCE_SECONDS)
        assert (watch.returncode, error.strip()) == (130, "")


def test_suspend_prints_its_result_as_json_and_writes_a_certificate(
    ctl: Ctl, tmp_path: Path
) -> None:
    result = ctl.json(
        "suspend", "db", "--certificate", str(tmp_path / "cut.json"), "--hold-max", "9"
    )
    assert (result["verdict"], set(result["controllers"]), result["hold"]["hold_max_s"]) == (
        "consistent",
        {"alpha", "beta", "gamma"},
        9.0,
    )
    assert result["volumes"] == [
        "alpha:a00",
        "alpha:a03",
        "beta:b01",
        "beta:b04",
        "gamma:g02",
        "gamma:g05",
    ]
    assert set(result["phases"]) == {"closing", "held", "cutting", "opening", "settling"}
    certificate = json.loads((tmp_path / "cut.json").read_text())
    assert certificate["certificate"]["cut"] == result["cut"]
    assert ctl.cluster.cut_states(result["cut"]) == dict.fromkeys(ctl.cluster.daemons, "consistent")


def test_a_group_of_one_controller_needs_no_hold(ctl: Ctl, tmp_path: Path) -> None:
    result = ctl.json("suspend", "one", "--certificate", str(tmp_path / "cut.json"))
    assert (result["verdict"], list(result["controllers"]), result["phases"]) == (
        "consistent",
        ["alpha"],
        {},
    )
    assert (tmp_path / "cut.json").exists()
    again = ["--certificate", str(tmp_path / "again.json"), "--allow-existing"]
    assert "already suspended: a certificate is written only by" in ctl(
        "suspend", "one", *again, code=5
    )
    assert not (tmp_path / "again.json").exists()
    result = ctl.json("suspend", "beta:here")
    assert (result["verdict"], result["volumes"]) == ("consistent", ["beta:b01", "beta:b04"])


def test_volumes_named_on_the_command_line_are_cut_together(ctl: Ctl) -> None:
    result = ctl.json("suspend", "alpha:a00", "gamma:here")
    assert (result["verdict"], result["volumes"]) == (
        "consistent",
        ["alpha:a00", "gamma:g02", "gamma:g05"],
    )
    assert "group db: MIXED:" in ctl("status", "db")
    assert "alpha:a00 is SUSPENDED (by command)" in ctl("suspend", "db", code=5)


def test_a_command_runs_while_all_volumes_are_held(ctl: Ctl) -> None:
    status = f"{sys.executable} -m duplexd.duplexctl.cli --groups {ctl.groups} status --json"
    out = ctl("quiesce", "db", "--", "sh", "-c", f"echo $DUPLEXD_LEASE; {status}")
    lease, text = out.splitlines()
    assert ctl("release", lease) == f"lease {lease}: had ended already\n"
    held = json.loads(text)["controllers"]
    assert {each["cut"] for status in held.values() for each in status["leases"]} == {lease}
    assert all(volume["held"] for status in held.values() for volume in status["volumes"])
    assert ctl.leases == 0
    ctl("quiesce", "db", "--", "sh", "-c", "exit 3", code=3)
    ctl("quiesce", "db", "--", "no-such-command", code=127)


def test_quiesce_exits_with_9_if_the_hold_expires_before_its_command_ends(ctl: Ctl) -> None:
    """Three seconds, so that all gates are closed by then; CMD ends once the loss was reported."""
    with ctl.start("quiesce", "db", "--hold", "3", "--", "sh", "-c", "read line") as owner:
        assert owner.stderr is not None
        said = owner.stderr.readline()
        assert "sh is still running" in said
        _, rest = owner.communicate("go on\n", timeout=PATIENCE_SECONDS)
    assert owner.returncode == 9
    assert rest.count("the hold of db was lost") == 1


@pytest.mark.parametrize("whole", [True, False], ids=["of the group", "on one member"])
def test_quiesce_exits_with_9_if_another_client_releases_the_hold(ctl: Ctl, whole: bool) -> None:
    with ctl.start(
        "--json", "quiesce", "db", "--hold", "10", "--", "sh", "-c", "echo runs; read line; exit 3"
    ) as owner:
        assert owner.stdout is not None
        assert owner.stderr is not None
        assert owner.stdout.readline() == "runs\n"
        if whole:
            ctl("release", "db")
        else:
            (lease,) = ctl.cluster.ask("beta", "GET", "/v1/status")["leases"]
            ctl("--socket", str(ctl.cluster.sockets()["beta"]), "release", lease["id"])
        assert "sh is still running" in owner.stderr.readline()
        wait_for(lambda: ctl.leases == 0)
        out, error = owner.communicate("go on\n", timeout=PATIENCE_SECONDS)
    assert owner.returncode == 9
    assert "released by somebody else; nothing that was done under it counts" in error
    end = json.loads(out)
    assert (set(end), end["status"], end["verdict"]) == (
        {"lease", "status", "verdict", "reason"},
        3,
        "void",
    )
    assert "released by somebody else" in end["reason"]


def test_an_interrupt_or_a_release_ends_a_hold_in_the_foreground(ctl: Ctl) -> None:
    with ctl.start("quiesce", "db", "--hold", "10") as owner:
        assert owner.stdout is not None
        assert "held for" in owner.stdout.readline()
        assert ctl.leases == 3
        owner.send_signal(signal.SIGINT)
        assert "released" in owner.communicate(timeout=PATIENCE_SECONDS)[0]
        assert owner.returncode == 0
    assert ctl.leases == 0
    with ctl.start("--json", "quiesce", "db", "--hold", "10") as owner:
        assert owner.stdout is not None
        lease = json.loads(owner.stdout.readline())["lease"]["id"]
        assert ctl("release", "db") == f"lease {lease}: released\n"
        end = json.loads(owner.communicate(timeout=PATIENCE_SECONDS)[0])
        assert (owner.returncode, set(end), end["lease"], end["verdict"]) == (
            9,
            {"lease", "verdict", "reason"},
            lease,
            "void",
        )


def test_no_gate_stays_closed_when_the_owner_is_killed(ctl: Ctl) -> None:
    with ctl.start("quiesce", "db", "--hold", "10") as owner:
        assert owner.stdout is not None
        assert "held for" in owner.stdout.readline()
        owner.kill()
    wait_for(lambda: ctl.leases == 0)
    assert ctl("suspend", "db").startswith("suspended db: consistent")


def test_a_concurrent_suspend_is_refused(ctl: Ctl) -> None:
    with ctl.start("quiesce", "db", "--hold", "10") as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert "another suspend of these volumes is under way" in ctl("suspend", "db", code=5)
        owner.send_signal(signal.SIGTERM)
        owner.communicate(timeout=PATIENCE_SECONDS)


def test_errors_when_a_controller_is_down(ctl: Ctl) -> None:
    ctl.cluster["beta"].kill()
    assert "beta: no daemon answers at" in ctl("suspend", "db", code=7)
    done = subprocess.run(
        ctl.command("status"),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 7
    assert "controller beta: NOT REACHABLE" in done.stdout
    assert "group db: UNKNOWN:" in done.stdout


def test_a_controller_that_hangs_does_not_hide_the_others(ctl: Ctl) -> None:
    gamma = ctl.cluster["gamma"]
    os.kill(gamma.pid, signal.SIGSTOP)
    try:
        done = subprocess.run(
            ctl.command("--json", "status", "db"),
            capture_output=True,
            text=True,
            env=environment(),
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        os.kill(gamma.pid, signal.SIGCONT)
    assert (done.returncode, done.stderr.startswith("duplexctl: gamma: no answer within ")) == (
        7,
        True,
    ), done
    status = json.loads(done.stdout)
    assert (list(status["controllers"]), list(status["unreachable"]), status["exit_codes"]) == (
        ["alpha", "beta"],
        ["gamma"],
        {"gamma": 7},
    )
    assert status["groups"][0]["state"] == "UNKNOWN"


def test_a_member_stopped_during_a_suspend_is_void_or_undecided_and_settled_later(ctl: Ctl) -> None:
    beta = ctl.cluster["beta"]
    os.kill(beta.pid, signal.SIGSTOP)
    try:
        error = ctl("--timeout", "2", "suspend", "db", code=8)
        assert "no write is held" in error
    finally:
        os.kill(beta.pid, signal.SIGCONT)
    assert ctl("suspend", "db").startswith("suspended db: consistent")


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_terminated_suspend_releases_a_controller_that_did_not_answer(ctl: Ctl) -> None:
    beta = ctl.cluster["beta"]
    os.kill(beta.pid, signal.SIGSTOP)
    try:
        with ctl.start("suspend", "db") as command:
            wait_for(lambda: catches(command.pid, signal.SIGTERM))
            command.send_signal(signal.SIGTERM)
            _, error = command.communicate(timeout=PATIENCE_SECONDS)
            assert (command.returncode, error) == (143, "")
    finally:
        os.kill(beta.pid, signal.SIGCONT)
    wait_for(lambda: ctl.leases == 0)


def test_unknown_groups_controllers_volumes_and_leases_are_exit_code_3(ctl: Ctl) -> None:
    assert "no group 'dbs' in the groups file; did you mean 'db'?" in ctl("suspend", "dbs", code=3)
    assert "no controller 'alfa'" in ctl("suspend", "alfa:a00", code=3)
    assert "alpha: 'zzz': no such volume or group" in ctl(
        "suspend", "alpha:zzz", "beta:b01", code=3
    )
    assert "no cut that any controller" in ctl("release", "0" * 16, code=3)


def test_usage_and_configuration_errors(ctl: Ctl) -> None:
    for group in ("db", "one"):
        assert "--lease is for targets of one controller, named at its socket" in ctl(
            "suspend", group, "--lease", "x", code=2
        )
    ctl.groups.write_text(ctl.groups.read_text() + "hold_mix = 1\n")
    assert "groups.one.hold_mix: unknown key; did you mean 'hold_max'?" in ctl(
        "suspend", "db", code=6
    )
    ctl.groups.write_text("[")
    assert "not TOML" in ctl("status", code=6)
    ctl.groups.unlink()
    assert "cannot be read" in ctl("status", code=6)


def test_sockets_of_the_same_or_of_the_wrong_controller_are_refused(
    ctl: Ctl, tmp_path: Path
) -> None:
    sockets = ctl.cluster.sockets()
    swapped = sockets | {"alpha": sockets["beta"], "beta": sockets["alpha"]}
    ctl.groups = ctl.cluster.write_groups(
        {"db": [ctl.cluster.members[0], ctl.cluster.members[-1]]}, sockets=swapped
    )
    assert "calls itself 'beta'" in ctl("suspend", "db", code=6)
    assert "calls itself 'beta'" in ctl("suspend", "alpha:here", "gamma:here", code=6)
    ctl.groups.write_text(
        f'[controllers.a]\nsocket = "{sockets["alpha"]}"\n[controllers.b]\nsocket ='
        f' "{sockets["alpha"].parent}/./ctl.sock"\n'
    )
    link = tmp_path / "link.sock"
    link.symlink_to(sockets["alpha"])
    ctl.groups.write_text(
        f'[controllers.a]\nsocket = "{sockets["alpha"]}"\n[controllers.b]\nsocket = "{link}"\n'
    )
    assert "are the same controller, 'alpha'" in ctl("suspend", "a:a00", "b:a03", code=6)


def test_a_socket_on_the_command_line_takes_precedence(ctl: Ctl) -> None:
    socket = str(ctl.cluster.sockets()["alpha"])
    assert json.loads(ctl("--socket", socket, "status", "--json"))["controller"]["name"] == "alpha"
    assert ctl("--socket", socket, "suspend", "here").startswith("suspended here: consistent")
    assert "  consistent  " in ctl("--socket", socket, "cuts")
    assert "name a group of the groups file" in ctl("--socket", socket, "settle", "here", code=2)


def test_groups_and_a_socket_on_the_command_line_are_a_mistake(ctl: Ctl) -> None:
    socket = ctl.cluster.sockets()["alpha"]
    both = ctl("status", f"--socket={socket}", code=2)
    assert "--groups" in both
    assert "leave one of them out" in both


def test_a_groups_file_in_the_environment_does_not_hide_the_local_daemon(ctl: Ctl) -> None:
    sockets = ctl.cluster.sockets()
    env = environment() | {
        "DUPLEXD_GROUPS": str(ctl.groups),
        "DUPLEXD_SOCKET": str(sockets["gamma"]),
    }

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [*MAIN, *arguments, "--json"],
            capture_output=True,
            text=True,
            env=env,
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert run("status")["controller"]["name"] == "gamma"
    assert run("status", "here")["controller"]["name"] == "gamma"
    assert set(run("status", "db")["controllers"]) == {"alpha", "beta", "gamma"}
    assert set(run("status", "alpha:here")["controllers"]) == {"alpha"}
    done = subprocess.run(
        [*MAIN, "status", "db", "here"],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, "name volumes there as controller:volume" in done.stderr) == (2, True)


def test_a_cut_that_is_read_on_one_controller_is_left_on_none(ctl: Ctl) -> None:
    cut = ctl.json("suspend", "db", "--reader", "backup")["cut"]
    first = ctl.cluster.members[0]
    manifest = ctl.json("points", "db")
    assert (manifest["cut"], manifest["verdict"]) == (cut, "consistent")
    assert len(manifest["certificate"]["certificate"]["controllers"]) == len(ctl.cluster.daemons)
    ctl("resync", "db", code=5)
    ctl("release-reader", *map(str, ctl.cluster.members[1:]), "backup")
    said = ctl("resync", "db", code=5)
    assert f"{first} is read by backup" in said
    ctl("resync", "db", "--reader", "backup", code=5)  # it has been ended on others
    assert {row["state"] for row in ctl.json("status", "db")["volumes"]} == {"SUSPENDED"}
    ctl("resync", "db", "--cut", "0" * 16, "--force", code=5)
    ctl("resync", "db", "--cut", cut, "--force", "--wait")
