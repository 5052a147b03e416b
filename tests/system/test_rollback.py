"""`duplexctl rollback` on real daemons: what is on the images afterwards, who may use the volumes
meanwhile, and what a kill leaves.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.cluster import Cluster
from tests.support.commands import same_bytes
from tests.support.daemon import (
    PATIENCE_SECONDS,
    ROOT,
    environment,
    run_duplexctl,
    run_duplexd,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

MIB = 1 << 20
SIZE = 16 * MIB
NAMES = ("data", "wal")
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    volumes = dict.fromkeys(NAMES, SIZE)
    files = make_files(volumes=volumes, groups={"db": list(NAMES)}, journal_size="64MiB")
    return start_daemon(files)


async def fill(uri: str, seed: int, count: int = 200) -> None:
    """Write blocks that only this seed has, at places that it chooses; zeroes among them."""
    random = Random(seed)
    async with connect(uri) as nbd:
        for _ in range(count):
            block = bytes(4096) if random.random() < 0.2 else random.randbytes(4096)
            await nbd.write(random.randrange(SIZE // 4096) * 4096, block)


async def cut(daemon: Daemon, tag: str, seed: int = 1, count: int = 200) -> None:
    """A cut at `seed`, and changes after it."""
    for name in NAMES:
        await fill(daemon.files.uri(name), seed)
    assert run_duplexctl(daemon.files, "suspend", "db", "--tag", tag).returncode == 0
    for name in NAMES:
        await fill(daemon.files.uri(name), seed + 1, count)


def at_cut(daemon: Daemon) -> bool:
    """Whether both images of all pairs are equal: the secondaries are at the cut."""
    files = daemon.files
    return all(same_bytes(files.primary(name), files.secondary_of(name)) for name in NAMES)


def ctl(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Its output; stderr if another exit code than 0 is expected."""
    done = run_duplexctl(daemon.files, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
    return done.stdout if code == 0 else done.stderr


def status(daemon: Daemon, name: str = "data") -> dict[str, Any]:
    found = json.loads(ctl(daemon, "status", name, "--json"))
    volume: dict[str, Any] = found["volumes"][0]
    return volume


async def test_the_volumes_hold_what_the_cut_holds_read_from_both_images(daemon: Daemon) -> None:
    await cut(daemon, "nightly")
    kept = {name: daemon.files.secondary_of(name).read_bytes() for name in NAMES}
    measured = json.loads(ctl(daemon, "rollback", "db", "--to", "nightly", "--dry-run", "--json"))
    assert not at_cut(daemon)
    lines = ctl(daemon, "rollback", "db", "--to", "latest", "--json").splitlines()
    result = json.loads(lines[-1])
    assert (result["outcome"], result["tag"]) == ("rolled back", "nightly")
    assert [row["written_bytes"] for row in result["volumes"]] == [
        row["differing_bytes"] for row in measured["volumes"]
    ]
    assert at_cut(daemon)
    for name in NAMES:
        async with connect(daemon.files.uri(name)) as nbd:
            read = [await nbd.read(at, MIB) for at in range(0, SIZE, MIB)]
        assert b"".join(read) == kept[name]
    assert status(daemon)["rollback"]["state"] == "done"
    health = json.loads(run_duplexctl(daemon.files, "health", "--json").stdout)
    assert {each["kind"] for each in health["findings"]} <= {"one-file-system"}
    resynced = json.loads(ctl(daemon, "resync", "db", "--wait", "--json").splitlines()[-1])
    assert [row["copied_bytes"] for row in resynced["volumes"]] == [0, 0]
    ctl(daemon, "verify", "db")


async def test_a_connected_client_is_named_and_with_force_it_is_disconnected(
    daemon: Daemon,
) -> None:
    await cut(daemon, "nightly")
    async with connect(daemon.files.uri("data")) as nbd:
        error = ctl(daemon, "rollback", "db", "--to", "latest", code=5)
        assert "clients use data by user" in error
        await nbd.write(0, b"\x77" * 4096)  # it is not disturbed
        ctl(daemon, "rollback", "db", "--to", "latest", "--force")
        with pytest.raises((OSError, EOFError)):
            await nbd.read(0, 4096)
    assert at_cut(daemon)


async def test_it_is_undone_by_another_one_to_a_cut_that_was_made_before(daemon: Daemon) -> None:
    await cut(daemon, "first")
    ctl(daemon, "rollback", "db", "--to", "first")
    ctl(daemon, "resync", "db", "--wait")
    await fill(daemon.files.uri("data"), 7)
    ctl(daemon, "suspend", "db", "--tag", "second")
    wanted = daemon.files.secondary_of("data").read_bytes()
    await fill(daemon.files.uri("data"), 8)
    ctl(daemon, "rollback", "db", "--to", "second")
    assert daemon.files.primary("data").read_bytes() == wanted


async def half_way(daemon: Daemon) -> str:
    """All is copied, and nothing opened: what is left if the client dies before the last step."""
    body = {"targets": ["db"], "to": "latest", "step": "copy", "id": "00000000000000ff"}
    code, answer = await asyncio.to_thread(daemon.request, "POST", "/v1/rollback", body)
    assert code == 200, answer
    assert isinstance(answer, dict)
    return str(answer["cut"])


def refused(daemon: Daemon) -> str:
    """What a client of others learns."""
    command = ["qemu-io", "-f", "raw", "-c", "read 0 4096", daemon.files.uri("data")]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode != 0
    return asked.stderr


async def test_half_way_nobody_gets_the_volume_and_everything_says_so_also_after_a_kill(
    daemon: Daemon,
) -> None:
    await cut(daemon, "nightly")
    made = await half_way(daemon)
    why = f"its rollback to cut {made} is not finished"
    for _ in range(2):
        assert why in refused(daemon)
        volume = status(daemon)
        assert (volume["served"], why in volume["error"]) == (False, True)
        health = run_duplexctl(daemon.files, "health")
        assert health.returncode == 1
        assert why in health.stdout
        assert "NOT SERVED" in ctl(daemon, "status")
        assert why in ctl(daemon, "resync", "db", "--force", code=5)
        assert why in ctl(daemon, "swap", "data", "--lose-changes", code=5)
        daemon.kill()
        daemon.start()
    ctl(daemon, "rollback", "db", "--to", "latest")
    assert at_cut(daemon)
    assert status(daemon)["served"]


async def test_given_up_the_volumes_are_served_as_they_are(daemon: Daemon) -> None:
    await cut(daemon, "nightly")
    await half_way(daemon)
    daemon.kill()
    daemon.start()
    assert "left a mixture" in ctl(daemon, "rollback", "db", "--abandon")
    assert status(daemon)["rollback"]["state"] == "abandoned"
    ctl(daemon, "resync", "db", "--wait")
    ctl(daemon, "verify", "db")


def _command(daemon: Daemon) -> list[str]:
    socket = str(daemon.files.control_socket)
    return [*MAIN, "--socket", socket, "rollback", "db", "--to", "latest"]


def _written(daemon: Daemon) -> int:
    """The last number of the journal."""
    _, answer = daemon.request("GET", "/v1/status")
    assert isinstance(answer, dict)
    return int(answer["controller"]["sequence"])


def killed_at(daemon: Daemon, changes: int) -> None:
    """Kill the daemon once a rollback has written so much, or is over."""
    before = _written(daemon)
    with subprocess.Popen(
        _command(daemon), env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as going:  # fmt: skip
        while going.poll() is None and _written(daemon) - before <= changes:
            pass
        daemon.kill()
        going.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("changes", [1, 400])
async def test_killed_while_it_copies_the_same_command_brings_it_to_its_end(
    daemon: Daemon, changes: int
) -> None:
    """Where the kill hits is the machine's affair: there is no moment at which it may do harm."""
    await cut(daemon, "nightly", count=1000)
    killed_at(daemon, changes)
    daemon.start()
    volume = status(daemon)
    assert volume["served"] == (volume["rollback"] is None or volume["rollback"]["state"] == "done")
    assert not volume["served"] or volume["rollback"] is None or at_cut(daemon)
    ctl(daemon, "rollback", "db", "--to", "latest")
    assert at_cut(daemon)
    ctl(daemon, "resync", "db", "--wait")
    ctl(daemon, "verify", "db")


async def test_wrong_requests_say_what_to_do(daemon: Daemon) -> None:
    assert "its secondary is at no cut" in ctl(daemon, "rollback", "db", "--to", "x", code=5)
    await cut(daemon, "nightly")
    assert "can go back to that one only" in ctl(daemon, "rollback", "db", "--to", "x", code=3)
    assert "--to POINT" in ctl(daemon, "rollback", "db", code=2)
    assert "leave --to" in ctl(daemon, "rollback", "db", "--abandon", "--to", "x", code=2)
    problem = run_duplexctl(daemon.files, "rollback", "db", "--to", "x", "--json")
    assert json.loads(problem.stdout)["exit_code"] == 3
    assert not at_cut(daemon)


def answered_no(daemon: Daemon) -> bytes:
    """What it has shown."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        _command(daemon), env=environment() | {"TERM": "xterm"}, cwd=ROOT,
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as asking:  # fmt: skip
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"n\n")
        assert asking.wait(PATIENCE_SECONDS) == 1
    os.close(ours)
    os.close(theirs)
    return shown


async def test_on_a_terminal_it_asks_first_and_no_means_no(daemon: Daemon) -> None:
    await cut(daemon, "nightly")
    shown = answered_no(daemon)
    assert b"data: what was written since" in shown
    assert not at_cut(daemon)


@pytest.mark.parametrize("how", ["truncated", "replaced"])
async def test_a_primary_that_is_not_whole_or_lies_elsewhere_is_refused(
    daemon: Daemon, how: str
) -> None:
    """Where nothing changed since the cut, nobody would read it."""
    await fill(daemon.files.uri("data"), 1)
    ctl(daemon, "suspend", "db")
    async with connect(daemon.files.uri("data")) as nbd:
        await nbd.write(0, b"\x77" * 4096)
    primary = daemon.files.primary("data")
    if how == "truncated":
        os.truncate(primary, SIZE // 2)
    else:
        other = primary.with_suffix(".new")
        shutil.copy(primary, other)
        other.replace(primary)
    error = ctl(daemon, "rollback", "db", "--to", "latest", code=5)
    assert str(primary) in error
    assert status(daemon)["served"]  # nothing was done


async def test_a_start_without_a_volume_that_is_half_way_is_refused(daemon: Daemon) -> None:
    """Else the others would be served without it, and its secondary be copied over later."""
    await cut(daemon, "nightly")
    await half_way(daemon)
    daemon.stop()
    files = daemon.files
    whole, files.volumes, files.groups = files.volumes, {"wal": SIZE}, {"db": ["wal"]}
    files.write()
    checked = run_duplexd("check", "--config", str(files.config))
    assert checked.returncode != 0
    assert "is not finished; `duplexctl rollback`" in checked.stdout + checked.stderr
    daemon.start(ready=False)
    assert daemon.wait() != 0
    assert "volumes.data: missing from the configuration, but its rollback" in daemon.log()
    files.volumes, files.groups = whole, {"db": list(NAMES)}
    files.write()
    daemon.start()
    assert status(daemon)["served"] is False
    ctl(daemon, "rollback", "db", "--to", "nightly")
    assert at_cut(daemon)


# ------------------------------------------------------------------------- several controllers


async def test_of_two_controllers_none_opens_before_both_are_back(tmp_path: Path) -> None:
    """One of them is gone: the other stays as it is until the same command has done both."""
    cluster = Cluster(tmp_path, {"alpha": ["a0"], "beta": ["b0"]})
    groups = cluster.write_groups({"db": cluster.members})

    def group(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [*MAIN, "--groups", str(groups), *arguments], capture_output=True, text=True,
            env=environment(), cwd=ROOT, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
        return done.stdout + done.stderr

    def served() -> list[bool]:
        found = json.loads(group("status", "db", "--json"))["volumes"]
        return [volume["served"] for volume in found]

    async def write(pattern: bytes) -> None:
        for member in cluster.members:
            async with connect(str(cluster.uri(member))) as nbd:
                await nbd.write(0, pattern * 4096)

    with cluster:
        await write(b"\x01")
        group("suspend", "db")
        await write(b"\x02")
        beta = cluster.members[1]
        async with connect(str(cluster.uri(beta))):
            assert "clients use b0" in group("rollback", "db", "--to", "latest", code=5)
        assert served() == [True, True]
        cluster.ask("beta", "POST", "/v1/rollback", {
            "targets": ["b0"], "to": "latest", "step": "copy", "id": "00000000000000aa",
        })  # fmt: skip
        assert served() == [True, False]
        os.kill(cluster["beta"].pid, signal.SIGSTOP)  # it answers nothing more
        cluster["beta"].kill()
        group("rollback", "db", "--to", "latest", code=7)
        assert cluster.ask("alpha", "GET", "/v1/status")["volumes"][0]["served"]
        cluster["beta"].start()
        assert "rolled back to cut" in group("rollback", "db", "--to", "latest")
        assert served() == [True, True]
        for member in cluster.members:
            files = cluster[member.controller].files
            assert files.primary(member.volume).read_bytes()[:4096] == b"\x01" * 4096
            assert same_bytes(files.primary(member.volume), cluster.secondary(member))


async def test_a_controller_that_is_at_another_cut_by_now_does_not_go_back_there(
    tmp_path: Path,
) -> None:
    """One is half-way; the other had not begun, and was resynced and suspended anew since."""
    cluster = Cluster(tmp_path, {"alpha": ["a0"], "beta": ["b0"]})
    groups = cluster.write_groups({"db": cluster.members})

    def group(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [*MAIN, "--groups", str(groups), *arguments], capture_output=True, text=True,
            env=environment(), cwd=ROOT, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
        return done.stdout + done.stderr

    with cluster:
        group("suspend", "db", "--tag", "nightly")
        cluster.ask("alpha", "POST", "/v1/rollback", {
            "targets": ["a0"], "to": "nightly", "step": "copy", "id": "00000000000000aa",
        })  # fmt: skip
        ctl(cluster["beta"], "resync", "b0", "--wait")
        ctl(cluster["beta"], "suspend", "b0", "--tag", "nightly")
        for point in ("latest", "nightly"):
            error = group("rollback", "db", "--to", point, code=5)
            assert "would not go back to one cut" in error
        volume = cluster.ask("beta", "GET", "/v1/status")["volumes"][0]
        assert (volume["served"], volume["rollback"]) == (True, None)
        assert not cluster.ask("alpha", "GET", "/v1/status")["volumes"][0]["served"]
