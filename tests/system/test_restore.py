"""`duplexctl restore` on daemons started as users start them: what is on the images afterwards, who
may use the volumes meanwhile, and what a kill leaves.

What a backup holds is what `qemu-img convert` makes of it.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.backup.restore import Step
from duplexd.canary.nbd import NbdConnection
from tests.support.backups import backup, made, restored
from tests.support.cluster import Cluster
from tests.support.commands import same_bytes
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

MIB = 1 << 20
BLOCK = 4096
SIZE = 8 * MIB
NAMES = ("data", "wal")
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    volumes = dict.fromkeys(NAMES, SIZE)
    files = make_files(volumes=volumes, groups={"db": list(NAMES)}, journal_size="64MiB")
    return start_daemon(files)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "backups"


async def fill(uri: str, seed: int, count: int = 100) -> None:
    """Write blocks that only this seed has, at places that it chooses; zeroes among them."""
    random = Random(seed)
    async with await NbdConnection.open(uri) as nbd:
        for _ in range(count):
            block = bytes(BLOCK) if random.random() < 0.2 else random.randbytes(BLOCK)
            await nbd.write(random.randrange(nbd.size // BLOCK) * BLOCK, block)
        await nbd.write(nbd.size - 512, random.randbytes(512))  # part of a block


async def fill_all(daemon: Daemon, seed: int, count: int = 100) -> None:
    for name in NAMES:
        await fill(daemon.files.uri(name), seed + len(name), count)


def ctl(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Its output; stderr if another exit code than 0 is expected."""
    done = run_duplexctl(daemon.files, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
    return done.stdout if code == 0 else done.stderr


def restore(daemon: Daemon, source: object, *more: str, target: str = "db") -> dict[str, Any]:
    """The answer of one that succeeds."""
    answer: dict[str, Any] = json.loads(
        ctl(daemon, "restore", target, "--from", str(source), "--json", *more)
    )
    return answer


def save(daemon: Daemon, destination: Path, *options: str) -> dict[str, Any]:
    answer = made(backup(daemon, destination, "--no-verify-cut", *options))
    ctl(daemon, "resync", "db", "--wait")
    return answer


def status(daemon: Daemon, name: str = "data") -> dict[str, Any]:
    volume: dict[str, Any] = json.loads(ctl(daemon, "status", name, "--json"))["volumes"][0]
    return volume


def primaries(daemon: Daemon) -> dict[str, bytes]:
    return {name: daemon.files.primary(name).read_bytes() for name in NAMES}


def content(answer: Mapping[str, Any], tmp_path: Path) -> dict[str, bytes]:
    """What a backup holds."""
    return restored(dict(answer), tmp_path)


def differing(one: bytes, other: bytes) -> int:
    """In whole blocks."""
    return sum(
        len(one[at : at + BLOCK])
        for at in range(0, len(one), BLOCK)
        if one[at : at + BLOCK] != other[at : at + BLOCK]
    )


def figures(answer: Mapping[str, Any], what: str = "written_bytes") -> dict[str, int]:
    return {row["name"]: row[what] for row in answer["volumes"]}


# ------------------------------------------------------------------------------------ a whole one


async def test_a_chain_is_restored_at_each_link_written_is_what_differs_and_a_rollback_undoes_it(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    first = save(daemon, destination, "--tag", "monday")
    await fill_all(daemon, 20)
    second = save(daemon, destination, "--incremental")
    await fill_all(daemon, 30)
    assert second["base"]["id"] == first["id"]
    for source, saved, tag in (
        (destination, second, ""),
        (f"{destination}@monday", first, "monday"),
        (f"{destination}@{second['id']}", second, ""),
    ):
        wanted, before = content(saved, tmp_path), primaries(daemon)
        measured = restore(daemon, source, "--dry-run")
        assert (measured["outcome"], primaries(daemon)) == ("measured", before)
        answer = restore(daemon, source)
        assert (answer["outcome"], answer["backup"], answer["tag"]) == (
            "restored", saved["id"], tag
        )  # fmt: skip
        assert primaries(daemon) == wanted
        written = {name: differing(before[name], wanted[name]) for name in NAMES}
        assert figures(answer) == figures(measured, "differing_bytes") == written
        assert figures(restore(daemon, source)) == dict.fromkeys(NAMES, 0)
        # undone, without a trace; and done again, to be kept
        ctl(daemon, "rollback", "db", "--to", answer["undo"])
        assert primaries(daemon) == before
        restore(daemon, source)
        ctl(daemon, "resync", "db", "--wait")
        assert status(daemon)["state"] == "DUPLEX"
        ctl(daemon, "verify", "db")
        assert primaries(daemon) == wanted
    ctl(daemon, "backups", str(destination), "--check")


async def test_one_volume_of_a_backup_says_that_it_is_at_no_point_with_the_others(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    saved = save(daemon, destination)
    await fill_all(daemon, 20)
    before = primaries(daemon)
    answer = restore(daemon, destination, target="data")
    assert answer["left_out"] == ["wal"]
    assert primaries(daemon) == before | {"data": content(saved, tmp_path)["data"]}
    assert "NOT AT ONE POINT with wal" in ctl(daemon, "restore", "data", "--from", str(destination))


async def test_what_is_restored_counts_as_changed_for_the_next_incremental_backup(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    first = save(daemon, destination)
    await fill_all(daemon, 20)
    save(daemon, destination, "--incremental")
    restore(daemon, f"{destination}@{first['id']}")
    ctl(daemon, "resync", "db", "--wait")
    third = save(daemon, destination, "--incremental")
    assert third["base"]["id"] != first["id"]
    assert content(third, tmp_path) == content(first, tmp_path)


async def test_a_volume_without_a_secondary_is_restored_if_nobody_needs_a_way_back(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    daemon: Daemon,
    destination: Path,
    tmp_path: Path,
) -> None:
    """As after the loss of a machine: new images, an empty journal."""
    await fill_all(daemon, 10)
    saved = save(daemon, destination)
    daemon.stop()
    files = daemon.files
    for path in (*files.directory.glob("a/*"), *files.directory.glob("b/*")):
        path.unlink()
    shutil.rmtree(files.state_dir)
    files.secondary = False
    files.write()
    daemon.start()
    error = ctl(daemon, "restore", "db", "--from", str(destination), code=5)
    assert "there would be no way back" in error
    answer = restore(daemon, destination, "--no-undo")
    assert (answer["undo"], primaries(daemon)) == ("", content(saved, tmp_path))
    ctl(daemon, "health")


# ------------------------------------------------------------------------------------- refused


async def test_a_connected_client_is_named_and_with_force_it_is_disconnected(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    saved = save(daemon, destination)
    async with await NbdConnection.open(daemon.files.uri("data")) as nbd:
        await nbd.write(0, b"\x77" * BLOCK)
        error = ctl(daemon, "restore", "db", "--from", str(destination), code=5)
        assert "clients use data by user" in error
        assert status(daemon)["state"] == "DUPLEX"  # nothing was done
        await nbd.write(0, b"\x77" * BLOCK)  # it is not disturbed
        restore(daemon, destination, "--force")
        with pytest.raises((OSError, EOFError)):
            await nbd.read(0, BLOCK)
    assert primaries(daemon) == content(saved, tmp_path)


async def test_a_damaged_image_anywhere_below_is_found_before_anything_is_done(
    daemon: Daemon, destination: Path
) -> None:
    await fill_all(daemon, 10)
    first = save(daemon, destination)
    await fill_all(daemon, 20)
    save(daemon, destination, "--incremental")
    await fill_all(daemon, 30)
    before = primaries(daemon)
    image = destination / first["id"] / "wal.qcow2"
    spoiled = bytearray(image.read_bytes())
    spoiled[-1] ^= 1
    image.write_bytes(spoiled)
    error = ctl(daemon, "restore", "db", "--from", str(destination), code=1)
    assert "cannot be restored" in error
    assert f"{first['id']}: wal.qcow2: its SHA-256" in error
    assert (primaries(daemon), status(daemon)["state"]) == (before, "DUPLEX")
    assert status(daemon)["served"]


async def test_wrong_requests_say_what_to_do(daemon: Daemon, destination: Path) -> None:
    await fill_all(daemon, 10)
    saved = save(daemon, destination)
    source = ("--from", str(destination))
    assert "--from DEST[@BACKUP]" in ctl(daemon, "restore", "db", code=2)
    assert "leave --from" in ctl(daemon, "restore", "db", "--abandon", *source, code=2)
    assert "after the @" in ctl(daemon, "restore", "db", "--from", f"{destination}@", code=2)
    unknown = ctl(daemon, "restore", "db", "--from", f"{destination}@tuesday", code=3)
    assert "no backup has the id or tag 'tuesday'" in unknown
    missing = ctl(daemon, "restore", "db", "--from", f"{destination}-not", code=1)
    assert "No such file" in missing
    assert "no such volume" in ctl(daemon, "restore", "other", *source, code=3)
    problem = run_duplexctl(daemon.files, "restore", "db", "--from", f"{destination}@x", "--json")
    assert json.loads(problem.stdout)["exit_code"] == 3
    # another group, another size
    files = daemon.files
    files.groups = {"db": ["data"]}
    files.volumes = {"data": SIZE, "more": SIZE}
    files.write()
    ctl(daemon, "reload")
    group = ctl(daemon, "restore", "db", *source, code=5)
    assert f"backup {saved['id']} is of wal as well: the group is another one" in group
    other = ctl(daemon, "restore", "more", "--from", f"{destination}@{saved['id']}", code=3)
    assert f"backup {saved['id']} has no more: it has data, wal" in other
    assert "no backup is of all of these" in ctl(daemon, "restore", "more", *source, code=3)
    for name in ("a", "b"):
        (files.directory / name / "wal.img").unlink()
    files.volumes = {"data": SIZE, "wal": SIZE + MIB}
    files.write()
    ctl(daemon, "reload")
    size = ctl(daemon, "restore", "wal", *source, code=5)
    assert f"wal has {SIZE + MIB} bytes, and had {SIZE}" in size


async def test_pairs_at_several_cuts_are_no_way_back(daemon: Daemon, destination: Path) -> None:
    await fill_all(daemon, 10)
    save(daemon, destination)
    ctl(daemon, "suspend", "data")
    await fill_all(daemon, 20)
    error = ctl(daemon, "restore", "db", "--from", str(destination), code=5)
    assert "not all at one consistent cut: data (SUSPENDED" in error
    assert status(daemon, "wal")["state"] == "DUPLEX"
    answer = restore(daemon, destination, "--no-undo")
    assert answer["undo"] == ""


# ----------------------------------------------------------------------------------- interrupted


def killed(daemon: Daemon, when: str, source: object, *who: int) -> int:
    """The exit code of a restore that is killed then, or whose daemon is."""
    socket = str(daemon.files.control_socket)
    command = [
        sys.executable,
        "-m",
        "tests.support.killed_restore",
        when,
        socket,
        "db",
        str(source),
    ]
    done = subprocess.run(
        [*command, *map(str, who)], cwd=ROOT, env=environment(), timeout=PATIENCE_SECONDS,
        check=False, capture_output=True,
    )  # fmt: skip
    return done.returncode


async def changed_since(daemon: Daemon, destination: Path) -> dict[str, Any]:
    """A backup, and changes after it in more pieces than are written at a time."""
    await fill_all(daemon, 10, 300)
    saved = save(daemon, destination)
    await fill_all(daemon, 20, 300)
    return saved


def wait_gone(daemon: Daemon) -> None:
    """Until the daemon has seen that the client is dead."""
    while any(status(daemon, name)["connections"] for name in NAMES):
        time.sleep(0.02)


@pytest.mark.parametrize("when", [*(step.name for step in Step), "1", "7"])
async def test_a_client_that_is_killed_leaves_a_state_that_the_same_command_brings_to_its_end(
    daemon: Daemon, destination: Path, tmp_path: Path, when: str
) -> None:
    saved = await changed_since(daemon, destination)
    before = primaries(daemon)
    assert killed(daemon, when, destination) == -9
    closed = when in {"WRITE", "OPEN", "1", "7"}
    for name in NAMES:
        volume = status(daemon, name)
        assert volume["served"] is not closed
        assert volume["state"] == ("DUPLEX" if when in {"VERIFY", "UNDO"} else "SUSPENDED")
        assert volume["size"] == SIZE
    assert (primaries(daemon) == before) is (when not in {"OPEN", "1", "7"})
    wait_gone(daemon)
    answer = restore(daemon, destination)
    assert primaries(daemon) == content(saved, tmp_path)
    if closed and when != "WRITE":
        assert sum(figures(answer).values()) < sum(
            differing(before[name], primaries(daemon)[name]) for name in NAMES
        )
    ctl(daemon, "rollback", "db", "--to", answer["undo"])
    assert primaries(daemon) == before


@pytest.mark.parametrize("when", ["WRITE", "3", "OPEN"])
async def test_a_daemon_that_is_killed_serves_nothing_half_way_until_the_same_command_has_ended(
    daemon: Daemon, destination: Path, tmp_path: Path, when: str
) -> None:
    saved = await changed_since(daemon, destination)
    before = primaries(daemon)
    assert killed(daemon, when, destination, daemon.pid) == 1
    daemon.kill()
    daemon.start()
    why = f"its restore from backup {saved['id']} is not finished"
    volume = status(daemon)
    assert (volume["served"], why in volume["error"]) == (False, True)
    assert (volume["rollback"]["backup"], volume["rollback"]["state"]) == (saved["id"], "stopped")
    with pytest.raises(ConnectionError, match="is not served"):
        await NbdConnection.open(daemon.files.uri("data"))
    health = run_duplexctl(daemon.files, "health")
    assert (health.returncode, why in health.stdout) == (1, True)
    assert "NOT SERVED" in ctl(daemon, "status")
    for command in (
        ("resync", "db", "--force"),
        ("swap", "data", "--lose-changes"),
        ("suspend", "db"),
    ):
        assert why in ctl(daemon, *command, code=5)
    answer = restore(daemon, destination)
    assert primaries(daemon) == content(saved, tmp_path)
    ctl(daemon, "rollback", "db", "--to", answer["undo"])
    assert primaries(daemon) == before
    ctl(daemon, "resync", "db", "--wait")
    ctl(daemon, "verify", "db")


async def test_half_way_a_rollback_to_the_cut_takes_its_place_and_no_other_restore_does(
    daemon: Daemon, destination: Path
) -> None:
    saved = await changed_since(daemon, destination)
    newer = save(daemon, destination)
    await fill_all(daemon, 30)
    before = primaries(daemon)
    assert killed(daemon, "3", f"{destination}@{saved['id']}") == -9
    wait_gone(daemon)
    error = ctl(daemon, "restore", "db", "--from", f"{destination}@{newer['id']}", code=5)
    assert f"another restore of these volumes is not finished (from backup {saved['id']})" in error
    one = ctl(daemon, "restore", "data", "--from", f"{destination}@{saved['id']}", code=5)
    assert "name exactly these" in one
    assert not status(daemon)["served"]
    ctl(daemon, "rollback", "db", "--to", "before-restore")
    assert primaries(daemon) == before
    assert status(daemon)["served"]


async def test_given_up_the_volumes_are_served_as_they_are(
    daemon: Daemon, destination: Path
) -> None:
    await changed_since(daemon, destination)
    killed(daemon, "3", destination)
    assert "left a mixture" in ctl(daemon, "restore", "db", "--abandon")
    assert status(daemon)["rollback"]["state"] == "abandoned"
    ctl(daemon, "resync", "db", "--wait")
    ctl(daemon, "verify", "db")


def kept_away(daemon: Daemon, destination: Path, lock: Path) -> str:
    """What a restore says while another program has the lock of a run."""
    with subprocess.Popen(["flock", "-x", str(lock), "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-s", "-n", str(lock), "true"], check=False).returncode == 0:
            time.sleep(0.02)
        error = ctl(daemon, "restore", "db", "--from", str(destination), code=5)
        assert holder.stdin is not None
        holder.stdin.close()
    return error


async def test_a_backup_that_is_being_written_there_keeps_a_restore_away(
    daemon: Daemon, destination: Path
) -> None:
    await changed_since(daemon, destination)
    lock = destination / ".duplexd-backup.lock"
    assert "another backup is being written there" in kept_away(daemon, destination, lock)
    lock.unlink()  # as on a copy of the directory
    restore(daemon, destination)


def answered_no(daemon: Daemon, destination: Path) -> bytes:
    """What it has shown."""
    socket = str(daemon.files.control_socket)
    command = [*MAIN, "--socket", socket, "restore", "db", "--from", str(destination)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, env=environment() | {"TERM": "xterm"}, cwd=ROOT,
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as asking:  # fmt: skip
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"n\n")
        assert asking.wait(PATIENCE_SECONDS) == 1
    os.close(ours)
    os.close(theirs)
    return b" ".join(shown.split())


async def test_on_a_terminal_it_asks_first_and_no_means_no(
    daemon: Daemon, destination: Path
) -> None:
    await changed_since(daemon, destination)
    before = primaries(daemon)
    assert b"is written over where the backup differs" in answered_no(daemon, destination)
    assert (primaries(daemon), status(daemon)["state"]) == (before, "DUPLEX")


# ------------------------------------------------------------------------- several controllers


async def test_of_two_controllers_none_opens_before_both_are_restored(tmp_path: Path) -> None:
    """One of them dies: the other stays closed until the same command has done both."""
    cluster = Cluster(tmp_path / "c", {"alpha": ["a0"], "beta": ["b0"]})
    groups = cluster.write_groups({"db": cluster.members})
    destination = tmp_path / "d"

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

    def images() -> list[bytes]:
        return [
            cluster[each.controller].files.primary(each.volume).read_bytes()
            for each in cluster.members
        ]

    async def write(seed: int) -> None:
        for member in cluster.members:
            await fill(str(cluster.uri(member)), seed)

    source = ("restore", "db", "--from", str(destination))
    with cluster:
        await write(1)
        group("backup", "db", str(destination), "--no-verify-cut")
        group("resync", "db", "--wait")
        saved = images()
        await write(2)
        changed = images()
        # beta is closed, as by a run that was killed before it came to alpha
        answer = json.loads(group("backups", str(destination), "--json"))["backups"][0]
        group("suspend", "db", "--tag", "before")
        cluster.ask("beta", "POST", "/v1/restore", {
            "targets": ["b0"], "backup": answer["id"], "cut": answer["cut"], "step": "close",
            "id": "00000000000000aa",
        })  # fmt: skip
        assert served() == [True, False]
        cluster["beta"].kill()
        group(*source, code=7)
        assert cluster.ask("alpha", "GET", "/v1/status")["volumes"][0]["served"]
        cluster["beta"].start()
        assert "restored from backup" in group(*source)
        assert (served(), images()) == ([True, True], saved)
        group("rollback", "db", "--to", "before")
        assert images() == changed
        group(*source)
        group("resync", "db", "--wait")
        for member in cluster.members:
            files = cluster[member.controller].files
            assert same_bytes(files.primary(member.volume), cluster.secondary(member))
        # one daemon alone, by its own socket: a group of it is not what the backup is of
        error = ctl(cluster["alpha"], "restore", "here", "--from", str(destination), code=5)
        assert "is of beta:b0 as well" in error
        ctl(cluster["alpha"], "restore", "a0", "--from", str(destination))


# ------------------------------------------------------------------------------ random histories


async def history(daemon: Daemon, destination: Path, tmp_path: Path, seed: int) -> None:
    """Backups, writes, kills and restores as they come: what is restored is what was saved, and
    what was undone is what was there.
    """
    random = Random(seed)
    saved: list[tuple[str, dict[str, bytes]]] = []

    async def write() -> None:
        await fill_all(daemon, random.randrange(1 << 30), random.choice((5, 60, 200)))

    async def keep() -> None:
        options = ["--incremental"] if random.random() < 0.6 else []
        answer = save(daemon, destination, *options)
        saved.append((answer["id"], content(answer, tmp_path)))

    async def kill() -> None:
        daemon.kill()
        daemon.start()

    await write()
    await keep()
    for _ in range(6):
        await random.choice((write, write, keep, kill))()
        name, wanted = random.choice(saved)
        source, before = f"{destination}@{name}", primaries(daemon)
        if random.random() < 0.5:
            when = random.choice((*(step.name for step in Step), "1", "2", "5", "9"))
            who = [daemon.pid] if random.random() < 0.5 else []
            killed(daemon, when, source, *who)
            if who:
                daemon.kill()
                daemon.start()
            wait_gone(daemon)
        left = primaries(daemon)
        answer = restore(daemon, source)
        assert primaries(daemon) == wanted, seed
        assert figures(answer) == {name: differing(left[name], wanted[name]) for name in NAMES}
        if random.random() < 0.5:
            ctl(daemon, "rollback", "db", "--to", answer["undo"])
            assert primaries(daemon) == before, seed
        ctl(daemon, "resync", "db", "--wait")
        ctl(daemon, "verify", "db")


async def test_a_random_history(daemon: Daemon, destination: Path, tmp_path: Path) -> None:
    await history(daemon, destination, tmp_path, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 30))
async def test_many_random_histories(
    daemon: Daemon, destination: Path, tmp_path: Path, seed: int
) -> None:
    await history(daemon, destination, tmp_path, seed)
