"""Certificates of real daemons, under load, on one and on three controllers, and every way to break
them afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from duplexd.units import MIB
from tests.support.daemon import ROOT, environment, run_duplexctl
from tests.support.granted_writers import Writers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

BLOCK = 4096
SIZE = 8 * MIB
VOLUMES = ("data", "wal")


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon(
        make_files(volumes=dict.fromkeys(VOLUMES, SIZE), groups={"db": list(VOLUMES)})
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cut.json")


def verify(files: DaemonFiles, path: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_duplexctl(files, "verify-cut", path, "--json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[0])


def suspend(files: DaemonFiles, path: str, *arguments: str) -> dict[str, Any]:
    done = run_duplexctl(
        files, *arguments, "suspend", "db", "--tag", "nightly", "--certificate", path, "--json"
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return result


async def write(files: DaemonFiles, places: range, byte: int, volume: str = "data") -> None:
    async with connect(files.uri(volume)) as nbd:
        for place in places:
            await nbd.write(place * BLOCK, bytes([byte]) * BLOCK)


@contextlib.asynccontextmanager
async def load(*files: DaemonFiles) -> AsyncIterator[Writers]:
    """Writes to all volumes, before and meanwhile; no more than the journals hold."""
    async with Writers(files, SIZE) as writers:
        writers.grant(32 * MIB)
        await writers.written(left=30 * MIB)
        yield writers


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_cut_under_load_is_confirmed_during_the_load_after_it_and_after_a_restart(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    path: str,
    mode: str,
) -> None:
    files = make_files(
        volumes=dict.fromkeys(VOLUMES, SIZE),
        groups={"db": list(VOLUMES)},
        journal_size="256MiB",
        mode=mode,
    )
    daemon = start_daemon(files)
    async with load(files) as writers:
        result = await asyncio.to_thread(suspend, files, path)
        for _ in range(2):
            writers.grant(16 * MIB)
            code, found = await asyncio.to_thread(verify, files, path)
            assert (code, found["outcome"], found["cut"]) == (0, "confirmed", result["cut"]), found
            assert all(
                volume["checked_bytes"] > SIZE // 2 and volume["stands"]
                for volume in found["controllers"][0]["volumes"]
            )
    daemon.kill()
    assert verify(files, path)[0] == 0, "with no daemon"
    daemon.start()
    assert verify(files, path)[0] == 0
    assert daemon.stop() == 0
    assert verify(files, path)[0] == 0


async def test_a_change_of_a_secondary_after_the_cut_is_detected(daemon: Daemon, path: str) -> None:
    files = daemon.files
    await write(files, range(64), 1)
    suspend(files, path)
    await write(files, range(32), 2)
    code, found = verify(files, path, "--complete")
    assert (code, found["complete"]) == (0, True), "the journal goes back to blank images"
    secondary = files.secondary_of("data")
    whole = secondary.read_bytes()
    assert whole[:BLOCK] == b"\1" * BLOCK
    for place, byte in (
        (5, 2),
        (40 * BLOCK, 2),
        (SIZE - 1, 1),
    ):  # as written after the cut; as never written; where nothing ever was
        with secondary.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))
        code, found = verify(files, path)
        assert (code, found["outcome"]) == (1, "refuted")
        assert f"byte {place} " in found["controllers"][0]["contradictions"][0]
        secondary.write_bytes(whole)
    assert verify(files, path)[0] == 0


async def test_of_a_swapped_pair_the_image_at_the_cut_is_checked(daemon: Daemon, path: str) -> None:
    """Not the one that clients write to: its changes contradict nothing, its bytes are no proof."""
    files = daemon.files
    assert run_duplexctl(files, "swap", "data").returncode == 0
    await write(files, range(64), 1)
    suspend(files, path)
    await write(files, range(32), 2)
    code, found = verify(files, path, "--complete")
    assert (code, found["outcome"]) == (0, "confirmed"), found
    with files.primary("data").open("r+b") as file:
        file.seek(40 * BLOCK)
        file.write(b"\2")
    code, found = verify(files, path)
    assert (code, found["outcome"]) == (1, "refuted")
    assert str(files.primary("data")) in found["controllers"][0]["contradictions"][0]


async def test_after_a_resync_only_the_record_is_checked_and_a_backup_can_still_be_checked(
    daemon: Daemon, path: str, tmp_path: Path
) -> None:
    files = daemon.files
    await write(files, range(64), 1)
    suspend(files, path)
    backup = tmp_path / "backup.img"
    shutil.copyfile(files.secondary_of("data"), backup)
    await write(files, range(32), 2)
    assert run_duplexctl(files, "resync", "db", "--wait").returncode == 0
    code, found = verify(files, path)
    row = found["controllers"][0]["volumes"][0]
    assert (code, row["stands"], row["checked_bytes"], row["unchecked"]) == (
        10,
        False,
        0,
        ["it was resynced since"],
    )
    assert verify(files, path, "--complete")[0] == 5
    images = ("--image", f"test:data={backup}")
    assert verify(files, path, *images)[1]["controllers"][0]["volumes"][0]["unchecked_bytes"] == 0
    with backup.open("r+b") as file:
        file.write(b"\2")
    assert verify(files, path, *images)[0] == 1


async def test_a_journal_that_has_dropped_the_cut_is_unchecked(daemon: Daemon, path: str) -> None:
    files = daemon.files
    suspend(files, path)
    async with connect(files.uri("data")) as nbd:
        for number in range(3 * SIZE * 2 // (1 << 20)):
            await nbd.write(number % 8 << 20, bytes([number]) * (1 << 20))
    code, found = verify(files, path)
    member = found["controllers"][0]
    assert (code, found["outcome"], member["record"]) == (5, "unchecked", "dropped"), found
    assert member["first_sequence"] > 2


def test_a_damaged_journal_an_edited_certificate_and_a_foreign_controller_are_rejected(
    daemon: Daemon,
    path: str,
    tmp_path: Path,
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
) -> None:
    files = daemon.files
    result = suspend(files, path)
    assert daemon.stop() == 0
    segment = min((files.state_dir / "journal").glob("*.seg"))
    whole = segment.read_bytes()
    marker = whole.index(result["cut"].encode())
    segment.write_bytes(whole[:marker] + b"x" + whole[marker + 1 :])
    code, found = verify(files, path)
    assert (code, "missing or damaged" in found["controllers"][0]["contradictions"][0]) == (1, True)
    segment.write_bytes(whole)
    assert verify(files, path)[0] == 0

    (tmp_path / "other").mkdir()
    other = make_files(
        directory=tmp_path / "other",
        volumes=dict.fromkeys(VOLUMES, SIZE),
        groups={"db": list(VOLUMES)},
    )
    start_daemon(other)
    suspend(other, str(tmp_path / "other.json"))
    code, found = verify(files, path, "--state-dir", f"test={other.state_dir}")
    assert (code, "another controller" in found["controllers"][0]["contradictions"][0]) == (1, True)

    text = (tmp_path / "cut.json").read_text()
    (tmp_path / "cut.json").write_text(text.replace('"nightly"', '"weekly"'))
    code, found = verify(files, path)
    assert (code, found["controllers"], "was changed" in found["contradictions"][0]) == (
        1,
        [],
        True,
    )


async def test_a_group_of_three_controllers(
    tmp_path: Path,
    path: str,
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
) -> None:
    names = ("alpha", "beta", "gamma")
    every: dict[str, DaemonFiles] = {}
    for name in names:
        (tmp_path / name).mkdir()
        every[name] = make_files(
            directory=tmp_path / name,
            volumes=dict.fromkeys(VOLUMES, SIZE),
            name=name,
            journal_size="256MiB",
        )
    daemons = [start_daemon(files) for files in every.values()]
    groups = tmp_path / "groups.toml"
    lines = [
        f'[controllers.{name}]\nsocket = "{files.control_socket}"\n'
        for name, files in every.items()
    ]
    members = json.dumps([f"{name}:{volume}" for name in names for volume in VOLUMES])
    groups.write_text("".join(lines) + f"[groups.db]\nmembers = {members}\nhold_max = 10\n")
    some = every["alpha"]
    async with load(*every.values()) as writers:
        result = await asyncio.to_thread(_suspend_group, groups, path)
        writers.grant(16 * MIB)
        code, found = await asyncio.to_thread(verify, some, path)
    assert (code, found["outcome"], found["group"], found["cut"]) == (
        0,
        "confirmed",
        "db",
        result["cut"],
    ), found
    assert [
        (member["name"], member["record"], member["ready"], member["agreed"])
        for member in found["controllers"]
    ] == [(name, "found", True, True) for name in names]
    assert {
        member["name"]: member["volumes"][0]["stands"] for member in found["controllers"]
    } == dict.fromkeys(names, True)

    shutil.move(every["beta"].state_dir, tmp_path / "beta.moved")  # as on another machine
    code, found = verify(some, path)
    assert (code, found["outcome"], found["complete"], found["controllers"][1]["record"]) == (
        0,
        "confirmed",
        False,
        "absent",
    )
    assert (
        verify(some, path, "--state-dir", f"beta={tmp_path / 'beta.moved'}")[1]["controllers"][1][
            "record"
        ]
        == "found"
    )
    shutil.move(tmp_path / "beta.moved", every["beta"].state_dir)

    status, _ = daemons[2].request(
        "POST",
        f"/v1/cuts/{result['cut']}/grade",
        {"consistent": False, "records": 1, "detail": "broken"},
    )
    assert status == 200
    code, found = verify(some, path)
    assert (
        code,
        found["is_void"],
        "says that the cut is void" in found["controllers"][2]["void"][0],
    ) == (9, True, True)


def _suspend_group(groups: Path, path: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-c",
        "from duplexd.duplexctl.cli import main; main()",
        "--groups",
        str(groups),
    ]
    command += ["suspend", "db", "--tag", "nightly", "--certificate", path, "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return result
