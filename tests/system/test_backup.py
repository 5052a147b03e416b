"""`duplexctl backup` on daemons started as users start them, with QEMU's own programs.

What a backup is worth shows when it is restored: each test that gets one converts the images back,
and compares them with the secondaries as they were at the cut.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.run import Plan, run
from duplexd.backup.steps import BACKUP, LEFT, Step
from duplexd.client import Client
from duplexd.errors import LeaseLostError
from duplexd.limits import BackupLimits
from duplexd.units import KIB, MIB
from tests.support.backups import (
    CTL,
    backup,
    ctl,
    is_duplex_again,
    left,
    made,
    names,
    restored,
    status,
    write,
)
from tests.support.certificates import Certificates
from tests.support.cluster import Cluster
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, free_port, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 8 * MIB
VOLUMES = ("data", "wal")


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    files = make_files(volumes=dict.fromkeys(VOLUMES, SIZE), groups={"db": list(VOLUMES)})
    started = start_daemon(files)
    for volume, byte in zip(VOLUMES, (0x11, 0x22), strict=True):
        write(files.uri(volume), byte, 0, 64 * KIB)
    return started


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "backups"


# ------------------------------------------------------------------------------------ a whole one


def test_a_backup_under_load_is_what_the_secondaries_were_at_the_cut(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    fio = subprocess.Popen(
        ["fio", "--name=v", "--ioengine=nbd", f"--uri={daemon.files.uri('data')}", "--thread",
         "--rw=randwrite", "--bs=4k", "--size=8m", "--time_based", "--runtime=600",
         "--rate_iops=100"],  # the journal has the cut still when it is proved
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        answer = made(backup(daemon, destination, "--tag", "nightly", "--no-resync"))
        assert fio.poll() is None
    finally:
        fio.kill()
        fio.wait()
    # the pairs are still at the cut
    secondaries = {name: daemon.files.secondary_of(name).read_bytes() for name in VOLUMES}
    assert restored(answer, tmp_path) == secondaries
    assert secondaries["wal"][: 64 * KIB] == b"\x22" * (64 * KIB)
    assert (answer["verdict"], answer["tag"]) == ("consistent", "nightly")
    assert answer["verify_cut"] == "confirmed"
    assert names(destination) == [answer["id"]]


def test_the_pairs_are_duplex_again_after_a_backup(daemon: Daemon, destination: Path) -> None:
    made(backup(daemon, destination))
    assert is_duplex_again(daemon)


def test_a_backup_of_pairs_that_stand_at_an_old_cut_is_of_now(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    assert run_duplexctl(daemon.files, "suspend", "db", "--tag", "monday").returncode == 0
    write(daemon.files.uri("data"), 0x33, 0, 64 * KIB)
    done = backup(daemon, destination, "--tag", "tuesday")
    answer = made(done)
    assert "SUSPENDED" in done.stderr
    assert restored(answer, tmp_path)["data"][: 64 * KIB] == b"\x33" * (64 * KIB)


def test_in_cron_a_backup_writes_nothing(daemon: Daemon, destination: Path) -> None:
    done = run_duplexctl(daemon.files, "backup", "db", str(destination))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_group_over_two_daemons_is_one_backup(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", {"alpha": ["a0", "a1"], "beta": ["b0"]}) as cluster:
        for byte, member in enumerate(cluster.members, 0x41):
            write(str(cluster.uri(member)), byte, 0, 64 * KIB)
        groups = cluster.write_groups({"db": cluster.members})
        done = ctl("--groups", str(groups), "--json", "backup", "db", str(tmp_path / "d"))
        answer = made(done)
        found = restored(answer, tmp_path)
        assert {name: content[0] for name, content in found.items()} == {
            "alpha:a0": 0x41,
            "alpha:a1": 0x42,
            "beta:b0": 0x43,
        }
        assert set(answer["controllers"]) == {"alpha", "beta"}
        assert all(is_duplex_again(each) for each in cluster.daemons.values())


def test_a_volume_that_grew_since_the_cut_is_saved_with_the_size_that_it_had(
    tmp_path: Path,
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    destination: Path,
) -> None:
    thaw = tmp_path / "thaw"
    thaw.write_text(
        "#!/bin/sh\n"
        f"sed -i 's/^size = .*/size = {2 * SIZE}/' {tmp_path}/duplexd.toml\n"
        f'exec {sys.executable} -c "{CTL}" --socket {tmp_path}/ctl.sock reload\n'
    )
    thaw.chmod(0o755)
    hook = f'after_suspend = ["{thaw}"]\nhook_timeout = "60s"'
    files = make_files(volumes={"data": SIZE}, groups={"db": ["data"]}, extra=hook)
    daemon = start_daemon(files)
    answer = made(backup(daemon, destination))
    assert [volume["size"] for volume in status(daemon)] == [2 * SIZE]
    assert [volume["size"] for volume in answer["volumes"]] == [SIZE]
    assert len(restored(answer, tmp_path)["data"]) == SIZE
    done = run_duplexctl(daemon.files, "restore", "db", "--from", str(destination))
    assert (done.returncode, "another size" in done.stderr) == (5, True), done.stderr
    assert [volume["served"] for volume in status(daemon)] == [True]


@pytest.mark.parametrize("name", [".tls", "manifest"])
def test_no_name_of_a_controller_takes_its_images_out_of_the_backup(
    tmp_path: Path,
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    name: str,
) -> None:
    daemon = start_daemon(make_files(volumes={"data": SIZE}, name=name))
    write(daemon.files.uri("data"), 0x41, 0, 64 * KIB)
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers."{name}"]\nsocket = "{daemon.files.control_socket}"\n'
        f'[groups.db]\nmembers = ["{name}:data"]\n'
    )
    answer = made(ctl("--groups", str(groups), "--json", "backup", "db", str(tmp_path / "d")))
    assert restored(answer, tmp_path)[f"{name}:data"][: 64 * KIB] == b"\x41" * (64 * KIB)


def test_a_controller_that_is_reached_over_tls_is_copied_and_restored_over_tls(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    control, nbd = free_port(), free_port()
    (tmp_path / "certificates").mkdir()
    own = Certificates(tmp_path / "certificates")
    listener = (
        f'[[nbd.listeners]]\naddress = "tcp:localhost:{nbd}"\ntls = "required"\n[nbd.tls]\n'
        f'certificate = "{own.certificate}"\nkey = "{own.key}"\nclient_ca = "{own.client_ca}"\n'
    )
    files = make_files(name="far", extra=own.toml(control, operate=("backup",)) + "\n" + listener)
    daemon = start_daemon(files)
    write(files.uri("data"), 0x51, 0, 64 * KIB)
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.far]\nurl = "https://localhost:{control}"\n'
        f'certificate = "{own.client("backup")}"\nca = "{own.client_ca}"\n'
        f'nbd = "tcp:localhost:{nbd}"\n[groups.db]\nmembers = ["far:data"]\n'
    )
    answer = made(ctl("--groups", str(groups), "--json", "backup", "db", str(tmp_path / "d")))
    assert restored(answer, tmp_path)["far:data"][: 64 * KIB] == b"\x51" * (64 * KIB)
    assert sorted(path.name for path in Path(answer["path"]).iterdir()) == [
        "certificate.json", "far", "manifest.json",
    ]  # fmt: skip
    assert is_duplex_again(daemon)
    write(files.uri("data"), 0x53, 64 * KIB, 64 * KIB)
    command = ("--groups", str(groups), "--json", "backup", "db", str(tmp_path / "d"))
    newer = made(ctl(*command, "--incremental"))
    assert (newer["base"]["id"], newer["verify"]) == (answer["id"], "changed")
    assert is_duplex_again(daemon)
    write(files.uri("data"), 0x52, 0, 256 * KIB)
    done = ctl("--groups", str(groups), "restore", "db", "--from", str(tmp_path / "d"))
    assert (done.returncode, "restored from backup" in done.stdout) == (0, True), done.stderr
    now = files.primary("data").read_bytes()
    assert now[: 128 * KIB] == b"\x51" * (64 * KIB) + b"\x53" * (64 * KIB)
    assert not any(now[128 * KIB :])


# --------------------------------------------------------------------------- what is no backup


def start(daemon: Daemon, destination: Path, around_convert: str) -> subprocess.Popen[str]:
    """A backup whose `qemu-img convert` is this shell script; "$@" is the real one."""
    program = destination.parent / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nset -- {shutil.which("qemu-img")} "$@"\n'
        f'if [ "$2" = convert ]; then {around_convert}; else exec "$@"; fi\n'
    )
    program.chmod(0o755)
    # who starts the tests in the background has these signals ignored
    signals = ["env", "--default-signal=INT,HUP"]
    return subprocess.Popen(
        [*signals, sys.executable, "-c", CTL, "--socket", str(daemon.files.control_socket),
         "backup", "db", str(destination)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=ROOT,
    )  # fmt: skip


@pytest.fixture
def copying(daemon: Daemon, destination: Path) -> Iterator[subprocess.Popen[str]]:
    """A backup that is at its cut, and stays there until `qemu-img` may go on."""
    go = destination.parent / "go"
    running = start(daemon, destination, f'while [ ! -e {go} ]; do sleep 0.05; done; exec "$@"')
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(destination.glob("*.partial/")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield running
    running.kill()
    running.communicate()


def go_on(destination: Path) -> None:
    (destination.parent / "go").touch()


def test_of_two_backups_at_once_one_is_refused_and_the_other_is_whole(
    daemon: Daemon, destination: Path, tmp_path: Path, copying: subprocess.Popen[str]
) -> None:
    same = backup(daemon, destination)
    other = backup(daemon, tmp_path / "elsewhere")
    forced = run_duplexctl(daemon.files, "resync", "db")
    assert [each.returncode for each in (same, other, forced)] == [5, 5, 5]
    assert "nothing was suspended: secondaries are read: data by backup-" in other.stderr
    go_on(destination)
    _, errors = copying.communicate(timeout=PATIENCE_SECONDS)
    assert copying.returncode == 0, errors
    assert len(names(destination)) == 1
    assert names(tmp_path / "elsewhere") == []


def test_a_cut_that_was_left_by_force_is_no_backup(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    assert run_duplexctl(daemon.files, "resync", "db", "--force", "--wait").returncode == 0
    go_on(destination)
    _, errors = copying.communicate(timeout=PATIENCE_SECONDS)
    assert copying.returncode == 9, errors
    assert names(destination) == []


async def test_what_nobody_took_from_the_cut_is_resynced(tmp_path: Path) -> None:
    """Others force one controller away while it is copied; nobody else knows of the other one."""
    with Cluster(tmp_path / "c", {"alpha": ["a0"], "beta": ["b0"]}) as cluster:
        groups = str(cluster.write_groups({"db": cluster.members}))
        plan = Plan(("db",), str(tmp_path / "d"))

        class Watch:
            def __init__(self) -> None:
                self.said: list[str] = []

            def step(self, step: Step) -> None:
                if step is Step.COMPARE:
                    files = cluster["alpha"].files
                    done = run_duplexctl(files, "resync", "a0", "--force", "--wait")
                    assert done.returncode == 0, done.stderr

            def progress(self, name: str, done: int, total: int) -> None: ...

            def warn(self, text: str) -> None:
                self.said.append(text)

        watch = Watch()
        async with Client.open(groups) as client:
            with pytest.raises(LeaseLostError, match="was left by"):
                await run(plan, client, watch, BackupLimits())
        assert watch.said == []
        assert all(is_duplex_again(each) for each in cluster.daemons.values())


async def test_a_cut_that_is_left_after_the_comparison_is_no_backup(
    daemon: Daemon, destination: Path
) -> None:
    """Although the pairs are at a cut again, which can be read, before it is asked."""

    class Watch:
        def step(self, step: Step) -> None:
            if step is Step.CONFIRM:
                away = run_duplexctl(daemon.files, "resync", "db", "--force", "--wait")
                back = run_duplexctl(daemon.files, "suspend", "db")
                assert (away.returncode, back.returncode) == (0, 0)

        def progress(self, name: str, done: int, total: int) -> None: ...
        def warn(self, text: str) -> None: ...

    async with Client.local(daemon.files.control_socket) as client:
        with pytest.raises(LeaseLostError, match="was left by"):
            await run(Plan(("db",), str(destination)), client, Watch(), BackupLimits())
    assert names(destination) == []


def test_a_group_that_changes_while_it_is_copied_leaves_no_volume_at_the_cut(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    daemon.files.groups = {"db": ["data"]}
    daemon.files.write()
    assert run_duplexctl(daemon.files, "reload").returncode == 0
    go_on(destination)
    _, errors = copying.communicate(timeout=PATIENCE_SECONDS)
    assert copying.returncode == 0, errors
    assert is_duplex_again(daemon)


def test_a_copy_that_the_disk_has_changed_is_no_backup(daemon: Daemon, destination: Path) -> None:
    last = 'for image in "$@"; do :; done'
    spoil = f'"$@" && {last} && qemu-io -c "write -P 0x99 1m 4k" "$image" >/dev/null'
    running = start(daemon, destination, spoil)
    _, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert (running.returncode, names(destination)) == (1, [])
    assert "the copy differs from the cut" in errors
    assert is_duplex_again(daemon)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_backup_leaves_nothing(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str], number: signal.Signals
) -> None:
    copying.send_signal(number)
    copying.communicate(timeout=PATIENCE_SECONDS)
    assert copying.returncode == 128 + number
    assert is_duplex_again(daemon)
    assert left(daemon, destination) == set()


def test_an_impatient_interrupt_does_not_deny_the_backup_that_is_there(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    """The run waits a while for a client that reads the cut; the second interrupt ends that."""
    reader = subprocess.Popen(
        ["qemu-io", "-r", "-f", "raw", daemon.files.uri("data@latest")], stdin=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(len(each["readers"]) > 1 for each in status(daemon)):  # beside the run's own
            assert (reader.poll(), time.monotonic() < deadline) == (None, True)
            time.sleep(0.02)
        go_on(destination)
        while not list(destination.glob("*Z-????????????????/")):
            assert copying.poll() is None, copying.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for _ in range(2):
            copying.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, errors = copying.communicate(timeout=PATIENCE_SECONDS)
    finally:
        reader.communicate()
    assert copying.returncode == 128 + signal.SIGINT
    assert "the backup is complete" in errors
    assert left(daemon, destination) == {BACKUP}


def test_a_backup_that_is_killed_while_it_copies_does_not_go_on(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    """What it started would keep the cut, and write where the next one does."""
    copying.kill()
    copying.communicate(timeout=PATIENCE_SECONDS)
    assert left(daemon, destination) == LEFT[Step.COPY]
    made(backup(daemon, destination))
    assert is_duplex_again(daemon)
    assert left(daemon, destination) == {BACKUP}


def test_after_a_kill_the_volumes_of_the_cut_are_free_also_if_the_group_is_another(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    copying.kill()
    copying.communicate(timeout=PATIENCE_SECONDS)
    daemon.files.groups = {"db": ["data"]}
    daemon.files.write()
    assert run_duplexctl(daemon.files, "reload").returncode == 0
    made(backup(daemon, destination))
    assert not any(each["readers"] for each in status(daemon))


def test_a_secondary_that_fails_while_it_is_copied_is_no_backup(
    daemon: Daemon, destination: Path, copying: subprocess.Popen[str]
) -> None:
    os.truncate(daemon.files.secondary_of("data"), 4 * MIB)
    go_on(destination)
    copying.communicate(timeout=PATIENCE_SECONDS)
    assert copying.returncode != 0
    assert names(destination) == []


def test_a_missing_secondary_is_no_backup(daemon: Daemon, destination: Path) -> None:
    daemon.stop()
    daemon.files.secondary_of("data").unlink()
    daemon.start()
    assert backup(daemon, destination).returncode == 5
    assert names(destination) == []


def test_a_full_disk_is_no_backup(daemon: Daemon, destination: Path) -> None:
    destination.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "duplexd-test", str(destination)],
        check=True,
    )
    try:
        done = backup(daemon, destination)
        assert (done.returncode, names(destination)) == (1, [])
    finally:
        subprocess.run(["umount", str(destination)], check=True)
    assert "make room" in done.stderr
    assert is_duplex_again(daemon)


def test_a_hook_that_fails_after_the_cut_is_no_exit_code_0(
    daemon: Daemon, destination: Path
) -> None:
    """The backup is whole, and the application may still be frozen."""
    daemon.stop()
    daemon.files.extra = 'after_suspend = ["/bin/false"]'
    daemon.files.write()
    daemon.start()
    done = backup(daemon, destination)
    assert done.returncode == 1
    assert "is complete, but" in done.stderr
    assert names(destination) == [json.loads(done.stdout)["id"]]
    assert is_duplex_again(daemon)


# ---------------------------------------------------------------------------- what is in DEST


def test_only_the_newest_are_kept_and_a_changed_image_is_found(
    daemon: Daemon, destination: Path
) -> None:
    old = made(backup(daemon, destination, "--no-verify-cut"))
    assert old["verify_cut"] == "skipped"
    new = made(backup(daemon, destination, "--keep", "1"))
    assert new["removed"] == [old["id"]]
    sound = run_duplexctl(daemon.files, "backups", str(destination), "--check")
    assert (sound.returncode, new["id"] in sound.stdout) == (0, True), sound.stderr
    image = destination / new["id"] / "data.qcow2"
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    done = run_duplexctl(daemon.files, "backups", str(destination), "--check", "--json")
    assert done.returncode == 1
    assert "data.qcow2" in done.stderr
    (listed,) = json.loads(done.stdout)["backups"]
    assert (listed["id"], len(listed["wrong"])) == (new["id"], 1)


def test_no_backup_and_an_old_one_are_no_exit_code_0(daemon: Daemon, destination: Path) -> None:
    destination.mkdir()
    none = run_duplexctl(daemon.files, "--json", "backups", str(destination))
    assert (none.returncode, json.loads(none.stdout)["backups"]) == (3, [])
    made(backup(daemon, destination, "--no-verify-cut"))
    (path,) = destination.glob("*/manifest.json")
    day_old = json.loads(path.read_text())
    path.write_text(json.dumps(day_old | {"cut_time": day_old["cut_time"] - 86400}))
    arguments = "--json", "backups", str(destination), "--max-age"
    fresh = run_duplexctl(daemon.files, *arguments, "26h")
    assert (fresh.returncode, json.loads(fresh.stdout)["stale"]) == (0, []), fresh.stderr
    old = run_duplexctl(daemon.files, *arguments, "8h")
    assert (old.returncode, len(json.loads(old.stdout)["stale"])) == (1, 1)
    assert "db: the newest sound backup is" in old.stderr
    assert run_duplexctl(daemon.files, *arguments, "soon").returncode == 2


# ------------------------------------------------------------------------------------ own tools


def test_an_own_tool_finds_the_cut_and_its_exit_code_counts(daemon: Daemon, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    script = (
        'uri=$(echo "$DUPLEXD_URIS" | sed -n "s/^data //p"); qemu-img convert -f raw -O raw "$uri"'
        f' {copy}; duplexctl verify-cut "$DUPLEXD_CERTIFICATE" && exit 7'
    )
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "duplexctl").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CTL}" "$@"\n')
    (scripts / "duplexctl").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", CTL, "--socket", str(daemon.files.control_socket), "backup", "db",
         "--", "sh", "-c", script],
        env={**environment(), "PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert copy.read_bytes()[: 64 * KIB] == b"\x11" * (64 * KIB)
    assert is_duplex_again(daemon)


def test_nothing_is_suspended_for_an_own_tool_that_cannot_be_found(daemon: Daemon) -> None:
    done = run_duplexctl(daemon.files, "backup", "db", "--", "no-such-tool")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot run 'no-such-tool': no such program" in done.stderr
    assert json.loads(run_duplexctl(daemon.files, "cuts", "--json").stdout)["cuts"] == []


def test_an_own_tool_whose_cut_was_left_has_failed(daemon: Daemon) -> None:
    forced = [sys.executable, "-c", CTL, "--socket", str(daemon.files.control_socket), "resync"]
    done = run_duplexctl(daemon.files, "backup", "db", "--", *forced, "db", "--force", "--wait")
    assert done.returncode == 9, done.stderr
    assert is_duplex_again(daemon)


# ----------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize("step", list(Step), ids=lambda step: step.name)
def test_a_run_after_one_that_was_killed_is_good_and_nothing_is_left(
    daemon: Daemon, destination: Path, tmp_path: Path, step: Step
) -> None:
    """Incremental ones, which have all of the steps: the table, and the older backup."""
    older = made(backup(daemon, destination, "--no-verify-cut"))
    write(daemon.files.uri("data"), 0x33, MIB, 64 * KIB)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_backup", step.name,
         str(daemon.files.control_socket), "db", str(destination)],
        env=environment(), cwd=ROOT, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert left(daemon, destination) == LEFT[step] | {BACKUP}
    finished = set(names(destination)) - {older["id"]} if BACKUP in LEFT[step] else set()
    answer = made(backup(daemon, destination, "--incremental"))
    assert answer["base"]["id"] == max(finished, default=older["id"])
    found = restored(answer, tmp_path)
    assert found["wal"][: 64 * KIB] == b"\x22" * (64 * KIB)
    assert found["data"][MIB : MIB + 64 * KIB] == b"\x33" * (64 * KIB)
    assert is_duplex_again(daemon)
    assert left(daemon, destination) == {BACKUP}
    assert set(names(destination)) == {older["id"], answer["id"], *finished}
