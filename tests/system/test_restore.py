"""`duplexctl restore` on daemons started as users start them: what is on the images afterwards, who
may use the volumes meanwhile, and what a kill leaves.

What a backup holds is what `qemu-img convert` makes of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.backup import restore as restores
from duplexd.backup import run as backups
from duplexd.backup.restore import Step
from duplexd.client import Client
from duplexd.errors import DuplexdError, UnreachableError, WrongStateError
from duplexd.limits import BackupLimits
from duplexd.nbd_aio.connecting import connect
from tests.support.backups import restored
from tests.support.cluster import Cluster
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.json_object import Json
    from tests.support.daemon import Daemon, DaemonFiles

MIB = 1 << 20
BLOCK = 4096
SIZE = 8 * MIB
NAMES = ("data", "wal")
LONG = pytest.mark.long
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
    async with connect(uri) as nbd:
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


class Quiet:
    """Implements both `Watch`; `warned` is what it was told."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def step(self, step: object) -> None:
        """Not shown."""

    def progress(self, name: str, done: int, total: int) -> None:
        """Not shown."""

    def warn(self, text: str) -> None:
        self.warned.append(text)


def client_of(daemon: Daemon) -> Client:
    return Client.local(daemon.files.control_socket)


async def restore(daemon: Daemon, source: object, target: str = "db", **how: bool) -> Json:
    """The answer of one that succeeds, as `duplexctl restore` gets it."""
    async with client_of(daemon) as client:
        plan = restores.Plan((target,), str(source), **how)
        return (await restores.run(plan, client, Quiet(), BackupLimits())).json()


async def refused(
    daemon: Daemon, source: object, target: str = "db", code: int = 5, **how: bool
) -> str:
    """Why one is refused."""
    with pytest.raises(DuplexdError) as error:
        await restore(daemon, source, target, **how)
    assert error.value.exit_code == code
    return str(error.value)


async def save(daemon: Daemon, destination: Path, tag: str = "", incremental: bool = False) -> Json:
    """The answer of a backup; the pairs are DUPLEX again."""
    async with client_of(daemon) as client:
        plan = backups.Plan(
            ("db",), str(destination), tag, verify_cut=False, full_every=7 if incremental else 1
        )
        made = (await backups.run(plan, client, Quiet(), BackupLimits())).json()
        await client.resync("db", wait=True)
    return made


async def rollback(daemon: Daemon, to: str) -> None:
    async with client_of(daemon) as client:
        await client.rollback("db", to=to)


async def keep(daemon: Daemon) -> None:
    """The secondaries get what was restored, and are what the primaries are."""
    async with client_of(daemon) as client:
        assert (await client.resync("db", wait=True)).ok
        assert all(row["equal"] for row in (await client.verify("db")).volumes)


async def suspend(daemon: Daemon, *targets: str) -> None:
    async with client_of(daemon) as client:
        await client.suspend(*targets)


def status(daemon: Daemon, name: str = "data") -> Json:
    volume: Json = daemon.request("GET", f"/v1/status?target={name}")[1]["volumes"][0]
    return volume


def primaries(daemon: Daemon) -> dict[str, bytes]:
    return {name: daemon.files.primary(name).read_bytes() for name in NAMES}


def content(answer: Json, tmp_path: Path) -> dict[str, bytes]:
    """What a backup holds."""
    return restored(dict(answer), tmp_path)


def differing(one: bytes, other: bytes) -> int:
    """In whole blocks."""
    return sum(
        len(one[at : at + BLOCK])
        for at in range(0, len(one), BLOCK)
        if one[at : at + BLOCK] != other[at : at + BLOCK]
    )


def figures(answer: Json, what: str = "written_bytes") -> dict[str, int]:
    return {row["name"]: row[what] for row in answer["volumes"]}


# ------------------------------------------------------------------------------------ a whole one


async def test_a_chain_is_restored_at_each_link_written_is_what_differs_and_a_rollback_undoes_it(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    first = await save(daemon, destination, "monday")
    await fill_all(daemon, 20)
    second = await save(daemon, destination, incremental=True)
    await fill_all(daemon, 30)
    assert second["base"]["id"] == first["id"]
    for source, saved, tag in (
        (destination, second, ""),
        (f"{destination}@monday", first, "monday"),
    ):
        wanted, before = content(saved, tmp_path), primaries(daemon)
        measured = await restore(daemon, source, dry_run=True)
        assert (measured["outcome"], primaries(daemon)) == ("measured", before)
        answer = await restore(daemon, source)
        assert (answer["outcome"], answer["backup"], answer["tag"]) == (
            "restored", saved["id"], tag
        )  # fmt: skip
        assert primaries(daemon) == wanted
        written = {name: differing(before[name], wanted[name]) for name in NAMES}
        assert figures(answer) == figures(measured, "differing_bytes") == written
        # undone, without a trace; and done again, to be kept
        await rollback(daemon, answer["undo"])
        assert primaries(daemon) == before
        await restore(daemon, source)
        assert figures(await restore(daemon, source)) == dict.fromkeys(NAMES, 0)
        await keep(daemon)
        assert primaries(daemon) == wanted
    # what was restored counts as changed for the next one; and those it lies on are as they were
    third = await save(daemon, destination, incremental=True)
    assert third["base"]["id"] == second["id"]
    assert content(third, tmp_path) == content(first, tmp_path)
    ctl(daemon, "backups", str(destination), "--check")


async def test_the_command_says_what_it_did_and_how_to_undo_it(
    daemon: Daemon, destination: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 80)  # too long for sockets in it
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    await fill_all(daemon, 10)
    saved = await save(daemon, destination)
    await fill_all(daemon, 20)
    command = ("restore", "db", "--from", str(destination))
    assert "would change" in ctl(daemon, *command, "--dry-run")
    answer = json.loads(ctl(daemon, *command, "--json"))
    assert (answer["outcome"], answer["left_out"], answer["failed"]) == ("restored", [], {})
    said = ctl(daemon, "restore", "data", "--from", f"{destination}@{saved['id']}")
    assert f"undo: duplexctl rollback TARGET --to {answer['undo']}" in said
    assert "NOT AT ONE POINT with wal" in said
    assert "--from DEST[@BACKUP]" in ctl(daemon, "restore", "db", code=2)
    assert "leave --from" in ctl(daemon, *command, "--abandon", code=2)
    problem = run_duplexctl(daemon.files, "restore", "db", "--from", f"{destination}@x", "--json")
    assert json.loads(problem.stdout)["exit_code"] == problem.returncode == 3


async def test_a_way_back_that_is_lost_meanwhile_is_none_in_the_answer(
    daemon: Daemon, destination: Path
) -> None:
    class Loses(Quiet):
        def step(self, step: object) -> None:
            if step is Step.OPEN:
                cut = status(daemon)["secondary"]["cut"]["id"]
                void = {"consistent": False, "records": 1, "detail": "by hand"}
                assert daemon.request("POST", f"/v1/cuts/{cut}/grade", void)[0] == 200

    await fill_all(daemon, 10)
    await save(daemon, destination)
    watch = Loses()
    async with client_of(daemon) as client:
        plan = restores.Plan(("db",), str(destination))
        answer = (await restores.run(plan, client, watch, BackupLimits())).json()
    assert (answer["outcome"], answer["undo"]) == ("restored", "")
    assert "data, wal: there is no way back any more" in watch.warned[-1]


async def test_a_cut_that_a_backup_reads_is_no_way_back(daemon: Daemon, destination: Path) -> None:
    """It resyncs when it has ended, whatever was restored meanwhile."""
    made = await save(daemon, destination)
    await fill_all(daemon, 2)
    before = primaries(daemon)
    async with client_of(daemon) as client:
        cut = await client.suspend("db", reader="another")
        why = await refused(daemon, destination)
        assert f"cut {cut.cut} would be the way back, and is read: data by another" in why
        assert (primaries(daemon), status(daemon)["served"]) == (before, True)
        assert (await restore(daemon, destination, undo=False))["backup"] == made["id"]
        await client.release_reader("db", reader="another")
    assert (await restore(daemon, destination))["undo"] == cut.cut


async def test_the_cut_of_a_drill_is_no_way_back(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    """It resyncs when it has ended, too."""
    await save(daemon, destination)
    ended = tmp_path / "ended"
    script = ["sh", "-c", f"until test -e {ended}; do sleep 0.1; done"]
    command = [*MAIN, "--socket", str(daemon.files.control_socket), "drill", "db", "--suspend"]
    with subprocess.Popen([*command, "--", *script], cwd=ROOT, env=environment()):  # noqa: ASYNC220
        try:
            give_up = time.monotonic() + PATIENCE_SECONDS
            while not status(daemon)["readers"] and time.monotonic() < give_up:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            why = await refused(daemon, destination)
            assert "would be the way back, and is read: data by clone drill-" in why
        finally:
            ended.touch()


async def test_one_volume_of_a_backup_leaves_the_others_and_says_so(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    saved = await save(daemon, destination)
    await fill_all(daemon, 20)
    before = primaries(daemon)
    answer = await restore(daemon, destination, "data")
    assert answer["left_out"] == ["wal"]
    assert primaries(daemon) == before | {"data": content(saved, tmp_path)["data"]}


@LONG
async def test_a_volume_without_a_secondary_is_restored_if_nobody_needs_a_way_back(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    """As after the loss of a machine: new images, an empty journal."""
    await fill_all(daemon, 10)
    saved = await save(daemon, destination)
    daemon.stop()
    files = daemon.files
    for path in (*files.directory.glob("a/*"), *files.directory.glob("b/*")):
        path.unlink()
    shutil.rmtree(files.state_dir)
    files.secondary = False
    files.write()
    daemon.start()
    assert "there would be no way back" in await refused(daemon, destination)
    answer = await restore(daemon, destination, undo=False)
    assert (answer["undo"], primaries(daemon)) == ("", content(saved, tmp_path))
    assert status(daemon)["served"]


# ------------------------------------------------------------------------------------- refused


async def test_a_connected_client_is_named_and_with_force_it_is_disconnected(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    await fill_all(daemon, 10)
    saved = await save(daemon, destination)
    async with connect(daemon.files.uri("data")) as nbd:
        await nbd.write(0, b"\x77" * BLOCK)
        assert "clients use data by user" in await refused(daemon, destination)
        assert status(daemon)["state"] == "DUPLEX"  # nothing was done
        await nbd.write(0, b"\x77" * BLOCK)  # it is not disturbed
        await restore(daemon, destination, force=True)
        with pytest.raises((OSError, EOFError)):
            await nbd.read(0, BLOCK)
    assert primaries(daemon) == content(saved, tmp_path)


async def test_a_damaged_image_anywhere_below_is_found_before_anything_is_done(
    daemon: Daemon, destination: Path
) -> None:
    await fill_all(daemon, 10)
    first = await save(daemon, destination)
    await fill_all(daemon, 20)
    await save(daemon, destination, incremental=True)
    await fill_all(daemon, 30)
    before = primaries(daemon)
    image = destination / first["id"] / "wal.qcow2"
    spoiled = bytearray(image.read_bytes())
    spoiled[-1] ^= 1
    image.write_bytes(spoiled)
    error = await refused(daemon, destination, code=1)
    assert "cannot be restored" in error
    assert f"{first['id']}: wal.qcow2: its SHA-256" in error
    assert (primaries(daemon), status(daemon)["state"]) == (before, "DUPLEX")
    assert status(daemon)["served"]


async def test_what_does_not_fit_is_refused_and_says_what_to_do(
    daemon: Daemon, destination: Path
) -> None:
    await fill_all(daemon, 10)
    saved = await save(daemon, destination)
    assert "id or tag 'x'" in await refused(daemon, f"{destination}@x", code=3)
    assert "no such directory" in await refused(daemon, f"{destination}-not", code=3)
    assert "no such volume" in await refused(daemon, destination, "other", code=3)
    # pairs at several cuts are no way back
    await suspend(daemon, "data")
    error = await refused(daemon, destination)
    assert "not all at one consistent cut: data (SUSPENDED" in error
    assert status(daemon, "wal")["state"] == "DUPLEX"
    assert (await restore(daemon, destination, undo=False))["undo"] == ""
    # another group, another size
    files = daemon.files
    files.groups = {"db": ["data"]}
    files.volumes = {"data": SIZE, "more": SIZE}
    files.write()
    ctl(daemon, "reload")
    error = await refused(daemon, destination)
    assert f"backup {saved['id']} is of wal as well: the group is another one" in error
    error = await refused(daemon, f"{destination}@{saved['id']}", "more", code=3)
    assert f"backup {saved['id']} has no more: it has data, wal" in error
    for name in ("a", "b"):
        (files.directory / name / "wal.img").unlink()
    files.volumes = {"data": SIZE, "wal": SIZE + MIB}
    files.write()
    ctl(daemon, "reload")
    error = await refused(daemon, destination, "wal")
    assert f"wal has {SIZE + MIB} bytes, and had {SIZE}" in error


def kept_away(daemon: Daemon, destination: Path, lock: Path) -> str:
    """What a restore says while another program has the lock of a run."""
    with subprocess.Popen(["flock", "-x", str(lock), "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-s", "-n", str(lock), "true"], check=False).returncode == 0:
            time.sleep(0.02)
        error = ctl(daemon, "restore", "db", "--from", str(destination), code=5)
        assert holder.stdin is not None
        holder.stdin.close()
    return error


@LONG
async def test_a_backup_that_is_being_written_there_keeps_a_restore_away(
    daemon: Daemon, destination: Path
) -> None:
    await save(daemon, destination)
    lock = destination / ".duplexd-backup.lock"
    assert "another backup is being written there" in kept_away(daemon, destination, lock)
    lock.unlink()  # as on a copy of the directory
    await restore(daemon, destination)


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


@LONG
async def test_on_a_terminal_it_asks_first_and_no_means_no(
    daemon: Daemon, destination: Path
) -> None:
    await save(daemon, destination)
    await fill_all(daemon, 20)
    before = primaries(daemon)
    assert b"is written over where the backup differs" in answered_no(daemon, destination)
    assert (primaries(daemon), status(daemon)["state"]) == (before, "DUPLEX")


# ----------------------------------------------------------------------------------- interrupted


def killed(daemon: Daemon, when: str, source: object, *who: object) -> int:
    """The exit code of a restore that is killed then, or whose daemon is, or is restarted."""
    socket = str(daemon.files.control_socket)
    command = [
        sys.executable, "-m", "tests.support.killed_restore", when, socket, "db", str(source)
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *map(str, who)], cwd=ROOT, env=environment(), timeout=PATIENCE_SECONDS,
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stderr)
    return done.returncode


def wait_gone(daemon: Daemon) -> None:
    """Until the daemon has seen that the client is dead."""
    while any(status(daemon, name)["connections"] for name in NAMES):
        time.sleep(0.02)


def wait_settled(daemon: Daemon) -> None:
    """The same, and until what a kill makes it compare is compared."""
    wait_gone(daemon)
    while any(status(daemon, name)["state"] == "PENDING" for name in NAMES):
        time.sleep(0.02)


async def changed_since(daemon: Daemon, destination: Path) -> Json:
    """A backup, and changes after it in more pieces than are written at a time."""
    await fill_all(daemon, 10, 200)
    saved = await save(daemon, destination)
    await fill_all(daemon, 20, 200)
    return saved


EVERY_STEP = [*(step.name for step in Step), "2", "7"]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where programs of the test put temporary files, and the test itself: a short path, for there
    are sockets in it.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        monkeypatch.setenv("TMPDIR", path)
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


@pytest.mark.parametrize("moments", [["2"], pytest.param(EVERY_STEP, marks=LONG)])
async def test_a_client_that_is_killed_leaves_a_state_that_the_same_command_brings_to_its_end(
    daemon: Daemon, destination: Path, tmp_path: Path, temporary: Path, moments: list[str]
) -> None:
    saved = await changed_since(daemon, destination)
    before, wanted = primaries(daemon), content(saved, tmp_path)
    whole = sum(differing(before[name], wanted[name]) for name in NAMES)
    for when in moments:
        assert killed(daemon, when, destination) == -9
        closed = when in {"WRITE", "OPEN", "2", "7"}
        for name in NAMES:
            volume = status(daemon, name)
            assert volume["served"] is not closed
            assert volume["state"] == ("DUPLEX" if when in {"VERIFY", "UNDO"} else "SUSPENDED")
        assert (primaries(daemon) == before) is (when not in {"OPEN", "2", "7"})
        wait_gone(daemon)
        assert bool(list(temporary.glob(f"{restores.SCRATCH}*"))) is (when in {"2", "7"})
        answer = await restore(daemon, destination)
        assert not list(temporary.glob(f"{restores.SCRATCH}*"))
        assert primaries(daemon) == wanted
        written = sum(figures(answer).values())
        assert written < whole if when in {"OPEN", "2", "7"} else written == whole
        await rollback(daemon, answer["undo"])
        assert primaries(daemon) == before
        await keep(daemon)


@pytest.mark.parametrize("moments", [["3"], pytest.param(["CLOSE", "WRITE", "OPEN"], marks=LONG)])
async def test_a_daemon_that_is_killed_serves_nothing_half_way_until_the_same_command_has_ended(
    daemon: Daemon, destination: Path, tmp_path: Path, moments: list[str]
) -> None:
    saved = await changed_since(daemon, destination)
    before, wanted = primaries(daemon), content(saved, tmp_path)
    why = f"its restore from backup {saved['id']} is not finished"
    for when in moments:
        assert killed(daemon, when, destination, daemon.pid) == 1
        daemon.kill()
        daemon.start()
        volume = status(daemon)
        if when == "CLOSE":  # nothing has begun
            assert (volume["served"], volume["state"]) == (True, "SUSPENDED")
            await keep(daemon)
            continue
        assert (volume["served"], why in volume["error"]) == (False, True)
        assert volume["rollback"]["backup"] == saved["id"]
        assert volume["rollback"]["state"] == "stopped"
        with pytest.raises(ConnectionError, match="is not served"):
            await connect(daemon.files.uri("data"))
        async with client_of(daemon) as client:
            for work in (
                client.resync("db", force=True),
                client.swap("data", lose_changes=True),
                client.suspend("db"),
            ):
                with pytest.raises(WrongStateError, match=why):
                    await work
        answer = await restore(daemon, destination)
        assert primaries(daemon) == wanted
        await rollback(daemon, answer["undo"])
        assert primaries(daemon) == before
        await keep(daemon)


async def test_a_restart_in_place_keeps_the_client_that_restores(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    """Nobody else may use the volumes, and it is known by another name than theirs."""
    saved = await changed_since(daemon, destination)
    assert killed(daemon, "3", destination, "restart") == 0
    assert primaries(daemon) == content(saved, tmp_path)
    assert all(status(daemon, name)["served"] for name in NAMES)
    lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
    done = next(line for line in lines if line["event"] == "restarted in place")
    assert (done["clients_kept"] > 0, done["clients_lost"]) == (True, 0)  # of both, or of one


async def test_half_way_everything_says_so_and_a_rollback_or_giving_up_ends_it(
    daemon: Daemon, destination: Path
) -> None:
    saved = await changed_since(daemon, destination)
    newer = await save(daemon, destination)
    await fill_all(daemon, 30)
    before = primaries(daemon)
    source = f"{destination}@{saved['id']}"
    assert killed(daemon, "3", source) == -9
    wait_gone(daemon)
    health = run_duplexctl(daemon.files, "health")
    why = f"its restore from backup {saved['id']} is not finished"
    assert (health.returncode, why in health.stdout) == (1, True)
    assert "NOT SERVED" in ctl(daemon, "status")
    error = await refused(daemon, f"{destination}@{newer['id']}")
    assert f"another restore of these volumes is not finished (from backup {saved['id']})" in error
    assert "name exactly these" in await refused(daemon, source, "data")
    assert not status(daemon)["served"]
    await rollback(daemon, "before-restore")
    assert (primaries(daemon), status(daemon)["served"]) == (before, True)
    # the same again, given up
    killed(daemon, "3", source)
    assert "left a mixture" in ctl(daemon, "restore", "db", "--abandon")
    assert status(daemon)["rollback"]["state"] == "abandoned"
    await keep(daemon)


# ------------------------------------------------------------------------- several controllers


async def test_of_two_controllers_none_opens_before_both_are_restored(tmp_path: Path) -> None:
    """One of them dies: the other stays closed until the same command has done both."""
    cluster = Cluster(tmp_path / "c", {"alpha": ["a0"], "beta": ["b0"]})
    groups = cluster.write_groups({"db": cluster.members})
    destination = str(tmp_path / "d")

    def served() -> list[bool]:
        asked = [cluster.ask(name, "GET", "/v1/status") for name in ("alpha", "beta")]
        return [answer["volumes"][0]["served"] for answer in asked]

    def images() -> list[bytes]:
        return [
            cluster[each.controller].files.primary(each.volume).read_bytes()
            for each in cluster.members
        ]

    async def write(seed: int) -> None:
        for member in cluster.members:
            await fill(str(cluster.uri(member)), seed)

    async def group_restore() -> Json:
        async with Client.open(groups) as client:
            plan = restores.Plan(("db",), destination)
            return (await restores.run(plan, client, Quiet(), BackupLimits())).json()

    with cluster:
        await write(1)
        saved = images()
        async with Client.open(groups) as client:
            plan = backups.Plan(("db",), destination, verify_cut=False)
            backup = (await backups.run(plan, client, Quiet(), BackupLimits())).json()
            await client.resync("db", wait=True)
            await write(2)
            changed = images()
            await client.suspend("db", tag="before")
        # beta is closed, as by a run that was killed before it came to alpha
        cluster.ask("beta", "POST", "/v1/restore", {
            "targets": ["b0"], "backup": backup["id"], "cut": backup["cut"], "step": "close",
            "id": "00000000000000aa",
        })  # fmt: skip
        assert served() == [True, False]
        cluster["beta"].kill()
        with pytest.raises(UnreachableError):
            await group_restore()
        assert cluster.ask("alpha", "GET", "/v1/status")["volumes"][0]["served"]
        cluster["beta"].start()
        answer = await group_restore()
        assert (answer["outcome"], answer["failed"]) == ("restored", {})
        assert (served(), images()) == ([True, True], saved)
        async with Client.open(groups) as client:
            await client.rollback("db", to=answer["undo"])
            assert images() == changed
            # alpha is written and open, and beta died before it was
            await group_restore()
            await client.resync("db", wait=True)
            assert all(row["equal"] for row in (await client.verify("db")).volumes)
        # one daemon alone, by its own socket: a group of it is not what the backup is of
        error = await refused(cluster["alpha"], destination, "here")
        assert "is of beta:b0 as well" in error
        await restore(cluster["alpha"], destination, "a0")


@LONG
async def test_a_controller_that_dies_before_it_opens_is_opened_by_the_same_command(
    tmp_path: Path,
) -> None:
    """The other one is in use by then, and is not touched again."""
    cluster = Cluster(tmp_path / "c", {"alpha": ["a0"], "beta": ["b0"]})
    groups = cluster.write_groups({"db": cluster.members})
    destination = str(tmp_path / "d")
    alpha, beta = cluster.members

    class Killer(Quiet):
        def step(self, step: object) -> None:
            if step is Step.OPEN:
                cluster["beta"].kill()

    async def group_restore(watch: Quiet) -> Json:
        async with Client.open(groups) as client:
            plan = restores.Plan(("db",), destination)
            return (await restores.run(plan, client, watch, BackupLimits())).json()

    with cluster:
        async with Client.open(groups) as client:
            plan = backups.Plan(("db",), destination, verify_cut=False)
            await backups.run(plan, client, Quiet(), BackupLimits())
            await client.resync("db", wait=True)
        for member in (alpha, beta):
            await fill(str(cluster.uri(member)), 1)
        answer = await group_restore(Killer())
        assert (answer["outcome"], list(answer["failed"])) == ("not finished", ["beta"])
        assert {row["name"]: row["served"] for row in answer["volumes"]} == {
            "alpha:a0": True, "beta:b0": False
        }  # fmt: skip
        await fill(str(cluster.uri(alpha)), 2)
        in_use = cluster["alpha"].files.primary("a0").read_bytes()
        cluster["beta"].start()
        answer = await group_restore(Quiet())
        assert [row["name"] for row in answer["volumes"]] == ["beta:b0"]
        assert answer["outcome"] == "restored"
        assert cluster["alpha"].files.primary("a0").read_bytes() == in_use
        assert not any(cluster["beta"].files.primary("b0").read_bytes())


# ------------------------------------------------------------------------------ random histories


async def history(
    daemon: Daemon, destination: Path, tmp_path: Path, seed: int, rounds: int
) -> None:
    """Backups, writes, kills and restores as they come: what is restored is what was saved, and
    what was undone is what was there.
    """
    random = Random(seed)
    saved: list[tuple[str, dict[str, bytes]]] = []

    async def write() -> None:
        await fill_all(daemon, random.randrange(1 << 30), random.choice((5, 60, 200)))

    async def add() -> None:
        answer = await save(daemon, destination, incremental=random.random() < 0.6)
        saved.append((answer["id"], content(answer, tmp_path)))

    async def kill() -> None:
        daemon.kill()
        daemon.start()
        wait_settled(daemon)

    await write()
    await add()
    for _ in range(rounds):
        await random.choice((write, write, add, kill))()
        name, wanted = random.choice(saved)
        source, before = f"{destination}@{name}", primaries(daemon)
        if random.random() < 0.5:
            when = random.choice((*(step.name for step in Step), "1", "2", "5", "9"))
            who = [daemon.pid] if random.random() < 0.5 else []
            killed(daemon, when, source, *who)
            if who:
                daemon.kill()
                daemon.start()
            wait_settled(daemon)
        left = primaries(daemon)
        answer = await restore(daemon, source)
        assert primaries(daemon) == wanted, seed
        assert figures(answer) == {name: differing(left[name], wanted[name]) for name in NAMES}
        if random.random() < 0.5:
            await rollback(daemon, answer["undo"])
            assert primaries(daemon) == before, seed
        await keep(daemon)


async def test_a_random_history(daemon: Daemon, destination: Path, tmp_path: Path) -> None:
    await history(daemon, destination, tmp_path, 1, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 30))
async def test_many_random_histories(
    daemon: Daemon, destination: Path, tmp_path: Path, seed: int
) -> None:
    await history(daemon, destination, tmp_path, seed, 8)
