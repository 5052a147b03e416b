"""Full disks, each a small file system: under the secondary, the journal, the primary, the staging
log. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.journal.inspect import inspect
from duplexd.nbd_aio.connecting import connect
from duplexd.runtime.disk import RealDisk
from tests.support.commands import (
    call,
    lines,
    resync,
    same_bytes,
    start_resync,
    suspend,
    volumes,
    wait_until,
)
from tests.support.daemon import PATIENCE_SECONDS, run_duplexd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import Daemon, DaemonFiles

BLOCK = 4096
SIZE = 8 << 20
MIB = 1 << 20
LENGTH = 1 << 16


class SmallDisk:
    """A tmpfs of its own at `path`."""

    def __init__(self, path: Path, size: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "duplexd-test", str(path))

    def resize(self, size: int) -> None:
        """Make space."""
        self._run("mount", "-o", f"remount,size={size}", str(self.path))

    def unmount(self) -> None:
        self._run("umount", str(self.path))

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)} (this test needs root): {done.stderr}"


@pytest.fixture
def small_disk(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str, int], SmallDisk]]:
    """`small_disk("b", bytes)` mounts a disk of that size at that place, before the daemon
    starts.
    """
    made: list[SmallDisk] = []

    def make(name: str, size: int) -> SmallDisk:
        made.append(SmallDisk(tmp_path / name, size))
        return made[-1]

    yield make
    for disk in made:
        disk.unmount()


@pytest.fixture
def start(
    make_files: Callable[..., DaemonFiles],
    small_disk: Callable[[str, int], SmallDisk],
    start_daemon: Callable[..., Daemon],
) -> Callable[..., Daemon]:
    """A daemon with two pairs in a group. It depends on the disks, so that it has ended when they
    are unmounted.
    """

    def start(**fields: object) -> Daemon:
        return start_daemon(
            make_files(
                **{
                    "volumes": {"one": SIZE, "two": SIZE},
                    "groups": {"db": ["one", "two"]},
                    **fields,
                }
            )
        )

    return start


def image(history: list[tuple[str, int, bytes]], volume: str, count: int) -> bytes:
    """What a volume holds after the first `count` writes."""
    data = bytearray(SIZE)
    for name, offset, block in history[:count]:
        if name == volume:
            data[offset : offset + len(block)] = block
    return bytes(data)


def payload(number: int, length: int) -> bytes:
    return number.to_bytes(8, "little") * (length // 8)


async def write_in_turn(daemon: Daemon, count: int, length: int) -> list[tuple[str, int, bytes]]:
    """Writes to both volumes in turn, one at a time, each to a place of its own. Returns them in
    order; an error is raised.
    """
    history: list[tuple[str, int, bytes]] = []
    async with (
        await connect(daemon.files.uri("one")) as one,
        await connect(daemon.files.uri("two")) as two,
    ):
        for number in range(count):
            name, connection = (("one", one), ("two", two))[number % 2]
            history.append((name, number // 2 * length, payload(number + 1, length)))
            await connection.write(*history[-1][1:])
    return history


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_full_disk_under_the_secondary_suspends_the_group_at_one_number(
    start: Callable[..., Daemon], small_disk: Callable[[str, int], SmallDisk], mode: str
) -> None:
    disk = small_disk("b", 6 * MIB)
    daemon = start(mode=mode, journal_size="64MiB")
    history = await write_in_turn(daemon, 200, LENGTH)  # 12.5 MiB; the application sees no error
    found = await wait_until(
        daemon,
        lambda now: {volume["state"] for volume in now.values()} == {"SUSPENDED"},
        "both are suspended",
    )
    assert sorted(volume["reason"] for volume in found.values()) == [
        "by group freeze",
        "by secondary error",
    ]
    assert len({volume["secondary"]["cut"]["id"] for volume in found.values()}) == 1
    (at,) = {volume["secondary"]["as_of_sequence"] for volume in found.values()}
    assert all(volume["secondary"]["usable"] for volume in found.values())
    assert all(volume["secondary"]["cut"]["verdict"] == "consistent" for volume in found.values())
    standing = {name: daemon.files.secondary_of(name).read_bytes() for name in ("one", "two")}
    (count,) = [
        number for number in range(len(history))
        if all(standing[name] == image(history, name, number) for name in standing)
    ] or [-1]  # fmt: skip
    assert count >= 0, "the secondaries are at no moment of the client's history"
    print(f"{mode}: full after {count} of {len(history)} writes, both secondaries at number {at}")
    assert at == sequence_of_write(daemon, count)
    for name in ("one", "two"):
        assert daemon.files.primary(name).read_bytes() == image(history, name, len(history))
    resynced = await lines(daemon, "POST", "/v1/resync", {"targets": ["db"], "wait": True})
    assert not resynced[-1]["ok"], "there is no space yet"
    disk.resize(32 * MIB)
    await resync(daemon, "db")
    await equal(daemon)


def sequence_of_write(daemon: Daemon, count: int) -> int:
    """The number of the `count`-th WRITE in the journal."""
    writes = [
        item["sequence"]
        for item in inspect(RealDisk(), str(daemon.files.state_dir))
        if item.get("kind") == "write"
    ]
    return int(writes[count - 1])


async def equal(daemon: Daemon) -> None:
    await wait_until(
        daemon, lambda now: {volume["state"] for volume in now.values()} == {"DUPLEX"}, "DUPLEX"
    )
    assert (await call(daemon, "POST", "/v1/verify", {"targets": ["db"]}))["equal"]
    for name in daemon.files.volumes:
        assert same_bytes(daemon.files.primary(name), daemon.files.secondary_of(name)), name


async def refused(nbd: Disk, number: int, place: int) -> bool:
    """Write once; whether it was refused for lack of space. Any other error is raised."""
    try:
        await asyncio.wait_for(nbd.write(place * LENGTH, payload(number, LENGTH)), PATIENCE_SECONDS)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return True
    return False


def fill_up(ballast: Path) -> None:
    """Fill a disk."""
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(BLOCK)):
            pass


async def test_a_full_disk_under_the_journal_refuses_changes_until_there_is_room(
    start: Callable[..., Daemon], small_disk: Callable[[str, int], SmallDisk]
) -> None:
    """With room for three of four segments the ring wraps; without a byte left writes are refused,
    and reads continue.
    """
    disk = small_disk("state", 13 * MIB)
    daemon = start()
    newest: dict[int, int] = {}
    ballast = disk.path / "ballast"
    async with connect(daemon.files.uri("one")) as nbd:
        for number in range(1, 600):  # 37 MiB
            assert not await refused(nbd, number, number % 128), (
                "three segments are enough to come round"
            )
            newest[number % 128] = number
        fill_up(ballast)
        number, refusals = 1000, 0
        while refusals < 3:  # no checkpoint can be written, so that no segment is free again
            number += 1
            assert number < 2000, "a full disk was not noticed"
            fill_up(ballast)  # a checkpoint that was under way has given back the one before it
            if await refused(nbd, number, number % 128):
                refusals += 1
            else:
                newest[number % 128] = number
            place = number % 128
            assert await nbd.read(place * LENGTH, 8) == newest[place].to_bytes(8, "little"), (
                "a refused write is there"
            )
        daemon.wait_log("journal-full")
        ballast.unlink()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await refused(nbd, 3000, 0):
            assert time.monotonic() < deadline, "there is space, but writes are refused still"
            await asyncio.sleep(0.1)
        newest[0] = 3000
        for number in range(3001, 3301):
            assert not await refused(nbd, number, number % 128)
            newest[number % 128] = number
    daemon.kill()
    daemon.start()
    async with connect(daemon.files.uri("one")) as nbd:
        for place, number in newest.items():
            assert await nbd.read(place * LENGTH, LENGTH) == payload(number, LENGTH), (
                f"place {place}"
            )
    await equal(daemon)


async def test_a_full_disk_under_the_journal_refuses_nothing_that_a_checkpoint_makes_room_for(
    start: Callable[..., Daemon], small_disk: Callable[[str, int], SmallDisk]
) -> None:
    """Not a byte is free while the ring wraps again and again: each checkpoint uses the reserve
    that is kept for them, and the one for the next start stays.
    """
    disk = small_disk("state", 32 * MIB)
    daemon = start()
    kept = [disk.path / "reserve", disk.path / "reserve.checkpoint"]
    sizes = [4 * MIB, 1 * MIB]

    async def are_kept() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while [path.stat().st_size for path in kept if path.exists()] != sizes:
            assert time.monotonic() < deadline, "the reserves are not there"
            await asyncio.sleep(0.1)

    await are_kept()
    untouched = kept[0].stat()
    async with connect(daemon.files.uri("one")) as nbd:
        for number in range(1, 300):  # all four segments are there
            assert not await refused(nbd, number, number % 128)
        fill_up(disk.path / "ballast")
        for number in range(300, 900):
            assert not await refused(nbd, number, number % 128), number
    daemon.wait_log("the reserve is used")
    assert "journal-full" not in daemon.log()
    await are_kept()
    assert kept[0].stat() == untouched
    daemon.kill()
    daemon.start()
    await equal(daemon)
    assert same_bytes(daemon.files.primary("one"), daemon.files.secondary_of("one"))
    assert daemon.files.primary("one").read_bytes()[LENGTH : LENGTH + 8] == (
        max(n for n in range(900) if n % 128 == 1).to_bytes(8, "little")
    )


def test_a_start_without_room_for_the_journal_says_where_space_is_missing(
    start: Callable[..., Daemon],
    small_disk: Callable[[str, int], SmallDisk],
    make_files: Callable[..., DaemonFiles],
) -> None:
    small_disk("state", 9 * MIB)
    done = run_duplexd("run", "--config", str(make_files().config))
    assert done.returncode == 1, done
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("duplexd: ")]
    assert "state/journal" in line
    assert "free some space" in line


async def test_a_full_disk_under_the_primary_costs_a_swap_and_no_client_notices(
    start: Callable[..., Daemon], small_disk: Callable[[str, int], SmallDisk]
) -> None:
    small_disk("a", 6 * MIB)
    daemon = start(journal_size="64MiB")
    refusals = 0
    async with connect(daemon.files.uri("one")) as nbd:
        for number in range(120):
            refusals += await refused(nbd, number + 1, number)
        assert refusals == 0
        assert await nbd.read(0, LENGTH) == payload(1, LENGTH)
        assert await nbd.read(119 * LENGTH, LENGTH) == payload(120, LENGTH)
        volume = (await volumes(daemon))["one"]
        assert (volume["swapped"], volume["state"]) == (True, "SUSPENDED")


async def test_a_full_disk_under_the_staging_log_leaves_the_secondary_at_its_cut(
    start: Callable[..., Daemon], small_disk: Callable[[str, int], SmallDisk]
) -> None:
    """A resync by map without room reports that; the secondary stays untouched at its cut, and can
    be resynced later.
    """
    disk = small_disk("state", 20 * MIB)
    daemon = start(journal_size="16MiB")
    await write_in_turn(daemon, 20, LENGTH)
    cut = await suspend(daemon, "db")
    standing = {name: daemon.files.secondary_of(name).read_bytes() for name in ("one", "two")}
    for _ in range(3):
        await write_in_turn(daemon, 200, LENGTH)
    assert set((await start_resync(daemon, "db")).values()) == {"map"}
    line = daemon.wait_log("resync-failed")
    assert "No space left" in line, line
    found = await wait_until(
        daemon,
        lambda now: {volume["state"] for volume in now.values()} == {"SUSPENDED"},
        "SUSPENDED again",
    )
    for name, volume in found.items():
        assert volume["secondary"]["usable"]
        assert (volume["secondary"]["cut"]["id"], volume["secondary"]["as_of_sequence"]) == (
            cut["cut"],
            cut["controllers"]["test"],
        )
        assert daemon.files.secondary_of(name).read_bytes() == standing[name]
    assert not list((daemon.files.state_dir / "staging").glob("*.stg")), (
        "the part of the staging log was left behind"
    )
    await write_in_turn(daemon, 10, LENGTH)
    disk.resize(128 * MIB)
    await resync(daemon, "db")
    await equal(daemon)
    assert (await volumes(daemon))["one"]["changed_bytes"] == 0
