"""Holds on a real daemon: how they end, what waits meanwhile and what does not, and which verdict
follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.commands import (
    call,
    hold,
    resident_bytes,
    same_bytes,
    suspend,
    volumes,
    wait_until,
)
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import Daemon, DaemonFiles

BLOCK = 4096
EARLY_SECONDS = 0.01  # so much may a timer of the loop come before its time
MEMORY_BYTES_MAX = 64 << 20
UNTIL_LOST = "until grep -q released LOG; do sleep 0.02; done"
HOLD_SECONDS = 5.0
READS = 100


@pytest.fixture
def pair_of_volumes(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Daemon:
    return start_daemon(
        make_files(volumes={"one": "8MiB", "two": "8MiB"}, groups={"db": ["one", "two"]})
    )


def block(fill: int) -> bytes:
    return bytes([fill]) * BLOCK


def start_duplexctl(files: DaemonFiles, *arguments: str) -> subprocess.Popen[str]:
    """A duplexctl that stays in the foreground."""
    command = [
        sys.executable,
        "-c",
        "from duplexd.duplexctl.cli import main; main()",
        "--socket",
        str(files.control_socket),
        *arguments,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )


@contextlib.asynccontextmanager
async def owner_of(
    daemon: Daemon, *arguments: str
) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    """A `duplexctl quiesce` process that holds, and its lease."""
    process = start_duplexctl(daemon.files, "--json", "quiesce", *arguments)
    try:
        assert process.stdout is not None
        first = json.loads(await asyncio.to_thread(process.stdout.readline))
        yield process, first["lease"]["id"]
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


@contextlib.asynccontextmanager
async def connected(daemon: Daemon, volume: str) -> AsyncIterator[Disk]:
    async with connect(daemon.files.uri(volume)) as nbd:
        yield nbd


async def assert_waits(task: asyncio.Task[None], seconds: float = 0.2) -> None:
    done, _ = await asyncio.wait({task}, timeout=seconds)
    assert not done, "a change went through a closed gate"


def assert_lost(daemon: Daemon, lease: str) -> None:
    """Every interface reports that the lease was lost."""
    late = run_duplexctl(daemon.files, "suspend", "one", "--lease", lease)
    assert late.returncode == 9, late
    assert "void" in late.stderr
    assert run_duplexctl(daemon.files, "--json", "status", "one").stdout.count('"DUPLEX"') >= 1, (
        "nothing was suspended"
    )


async def test_a_hold_ends_at_once_when_its_owner_is_killed(pair_of_volumes: Daemon) -> None:
    async with (
        connected(pair_of_volumes, "one") as nbd,
        owner_of(pair_of_volumes, "one", "--hold", "10") as (process, lease),
    ):
        write = asyncio.create_task(nbd.write(0, block(1)))
        await assert_waits(write)
        killed = time.monotonic()
        process.send_signal(signal.SIGKILL)
        await asyncio.wait_for(write, PATIENCE_SECONDS)
        after_ms = (time.monotonic() - killed) * 1e3
        print(f"owner killed: the held write was answered after {after_ms:.1f} ms")
        assert pair_of_volumes.hold_ended(lease)["reason"] == "owner gone"
        assert_lost(pair_of_volumes, lease)


async def test_a_deadline_ends_the_hold_void(pair_of_volumes: Daemon) -> None:
    async with (
        connected(pair_of_volumes, "one") as nbd,
        owner_of(pair_of_volumes, "db", "--hold", "0.5") as (process, lease),
    ):
        await asyncio.wait_for(nbd.write(0, block(1)), PATIENCE_SECONDS)
        ended = pair_of_volumes.hold_ended(lease)
        print(
            f"hold of 0.5 s: it lasted {ended['held_s'] * 1e3:.0f} ms, "
            f"{ended['writes_held']} writes waited"
        )
        assert (ended["reason"], ended["verdict"]) == ("deadline", "void")
        assert ended["held_s"] > 0.5 - EARLY_SECONDS
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 9
        assert_lost(pair_of_volumes, lease)


async def test_a_stop_answers_held_changes(pair_of_volumes: Daemon) -> None:
    async with connected(pair_of_volumes, "one") as nbd:
        owner = await hold(pair_of_volumes, ["db"])
        writes = [
            asyncio.create_task(nbd.write(number * BLOCK, block(number + 1)))
            for number in range(50)
        ]
        await assert_waits(writes[0])
        code = asyncio.create_task(asyncio.to_thread(pair_of_volumes.stop))
        await asyncio.wait_for(asyncio.gather(*writes), PATIENCE_SECONDS)
        assert await code == 0
        last = owner.last()
        assert (last["event"], last["reason"], last["verdict"]) == ("ended", "stopping", "void")
        owner.close()
    expected = b"".join(block(number + 1) for number in range(50))
    for path in (pair_of_volumes.files.primary("one"), pair_of_volumes.files.secondary_of("one")):
        assert path.read_bytes()[: len(expected)] == expected


async def test_reads_and_flushes_are_answered_during_a_hold(pair_of_volumes: Daemon) -> None:
    async with connected(pair_of_volumes, "one") as nbd, connected(pair_of_volumes, "one") as other:
        await nbd.write(0, block(1))
        owner = await hold(pair_of_volumes, ["one"])
        changes = [
            nbd.write(0, block(2)),
            nbd.write_zeroes(8192, BLOCK),
            nbd.trim(16384, BLOCK),
            nbd.write(0, block(3), fua=True),
        ]
        tasks = [asyncio.create_task(change) for change in changes]
        await assert_waits(tasks[0])
        for connection in (nbd, other):
            await connection.flush()
            assert await connection.read(0, BLOCK) == block(1), (
                "a read shows what was not acknowledged"
            )
        async with connected(pair_of_volumes, "two") as elsewhere:
            await elsewhere.write(0, block(9))
        assert not any(task.done() for task in tasks), "they waited for the end of the hold"
        owner.close()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)
        assert await nbd.read(0, BLOCK) == block(3)


async def test_a_held_change_is_dropped_with_its_connection(pair_of_volumes: Daemon) -> None:
    async with connected(pair_of_volumes, "one") as second:
        first = await connect(pair_of_volumes.files.uri("one"))
        owner = await hold(pair_of_volumes, ["one"])
        stale = [
            asyncio.create_task(first.write(0, block(1))),
            asyncio.create_task(first.write(0, bytes([1]) * (3 << 20))),
        ]
        await assert_waits(stale[0])
        first.abort()
        lost = await asyncio.gather(*stale, return_exceptions=True)
        assert [type(error) for error in lost] == [ConnectionError] * 2
        newer = asyncio.create_task(second.write(0, block(2)))
        await wait_until(
            pair_of_volumes,
            lambda now: now["one"]["connections"] == 1,
            "the first connection is gone",
        )
        await assert_waits(newer)
        owner.close()
        await asyncio.wait_for(newer, PATIENCE_SECONDS)
        assert await second.read(0, BLOCK) == block(2)
        assert await second.read(BLOCK, BLOCK) == bytes(BLOCK), (
            "a change of a connection that is gone was made"
        )
    await suspend(pair_of_volumes, "one")
    assert pair_of_volumes.files.secondary_of("one").read_bytes() == block(2) + bytes(
        (8 << 20) - BLOCK
    )
    pair_of_volumes.kill()  # the journal must not bring it back
    pair_of_volumes.start()
    async with connected(pair_of_volumes, "one") as third:
        assert await third.read(0, 2 * BLOCK) == block(2) + bytes(BLOCK)


async def test_overlapping_changes_of_two_connections_keep_their_order_of_arrival(
    pair_of_volumes: Daemon,
) -> None:
    async with connected(pair_of_volumes, "one") as one, connected(pair_of_volumes, "one") as other:
        owner = await hold(pair_of_volumes, ["one"])
        tasks = []
        for fill in range(1, 40):
            connection = (one, other)[fill % 2]
            tasks.append(
                asyncio.create_task(connection.write(0, bytes([fill]) * (BLOCK * (40 - fill))))
            )
            await asyncio.sleep(0)
            await connection.read(
                1 << 20, 512
            )  # its answer shows that the server has seen what came before it
        owner.close()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)
        data = await one.read(0, 40 * BLOCK)
    assert [data[at * BLOCK] for at in range(40)] == [39 - at for at in range(40)]
    assert same_bytes(
        pair_of_volumes.files.primary("one"), pair_of_volumes.files.secondary_of("one")
    )


async def test_the_sequence_of_the_patent_with_one_lease(pair_of_volumes: Daemon) -> None:
    """Quiesce one, quiesce the other, suspend both, signal: both are under one lease when they are
    suspended.
    """
    files = pair_of_volumes.files
    async with connected(pair_of_volumes, "one") as one, connected(pair_of_volumes, "two") as two:
        await one.write(0, block(1))
        await two.write(0, block(1))
        async with owner_of(pair_of_volumes, "one", "two", "--hold", "10") as (process, lease):
            held = [
                asyncio.create_task(one.write(0, block(2))),
                asyncio.create_task(two.write(0, block(2))),
            ]
            await assert_waits(held[0])
            done = await asyncio.to_thread(
                run_duplexctl, files, "--json", "suspend", "one", "two", "--lease", lease
            )
            assert done.returncode == 0, done
            result = json.loads(done.stdout)
            assert (result["verdict"], result["hold"]["writes_held"]) == ("consistent", 2)
            await asyncio.wait_for(asyncio.gather(*held), PATIENCE_SECONDS)
            assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0, (
                "the owner gets the reason that its hold ended with"
            )
        found = await volumes(pair_of_volumes)
        assert {volume["secondary"]["as_of_sequence"] for volume in found.values()} == {
            result["controllers"]["test"]
        }
        for name in ("one", "two"):
            assert files.secondary_of(name).read_bytes()[:BLOCK] == block(1)
            assert files.primary(name).read_bytes()[:BLOCK] == block(2)


async def test_two_leases_one_after_the_other(pair_of_volumes: Daemon) -> None:
    """A suspend uses one lease. It refuses volumes that this lease does not hold, and cuts those it
    holds while another lease continues.
    """
    first, second = await hold(pair_of_volumes, ["one"]), await hold(pair_of_volumes, ["two"])
    with contextlib.closing(first), contextlib.closing(second):
        both = await asyncio.to_thread(
            run_duplexctl, pair_of_volumes.files, "suspend", "db", "--lease", first.lease
        )
        assert both.returncode == 2, both
        assert "two" in both.stderr
        cut = await suspend(pair_of_volumes, "one", lease=first.lease)
        assert (await volumes(pair_of_volumes))["two"]["held"]
        later = await suspend(pair_of_volumes, "two", lease=second.lease)
        assert cut["controllers"]["test"] < later["controllers"]["test"]


async def test_a_lease_cannot_keep_writes_waiting_beyond_the_lease_before_it(
    pair_of_volumes: Daemon,
) -> None:
    first = await hold(pair_of_volumes, ["one"], hold_s=10.0)
    with contextlib.closing(first):
        body = {"targets": ["db"], "hold_s": 10.0}
        status, answer = await asyncio.to_thread(
            pair_of_volumes.request, "POST", "/v1/quiesce", body
        )
        assert status == 409, answer
        assert "may wait for 10 s in all" in str(answer)
        assert not (await volumes(pair_of_volumes))["two"]["held"]
        (await hold(pair_of_volumes, ["two"], hold_s=10.0)).close()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["/no/such/command"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", UNTIL_LOST], 9),
    ],
)
def test_quiesce_with_a_command(pair_of_volumes: Daemon, arguments: list[str], status: int) -> None:
    hold_s = "0.3" if status == 9 else "10"
    words = [word.replace("LOG", str(pair_of_volumes.log_path)) for word in arguments]
    done = run_duplexctl(pair_of_volumes.files, "quiesce", "db", "--hold", hold_s, "--", *words)
    assert done.returncode == status, done
    assert not pair_of_volumes.request("GET", "/v1/status")[1]["leases"]


def test_a_command_under_quiesce_can_suspend_by_the_lease(pair_of_volumes: Daemon) -> None:
    duplexctl = f'{sys.executable} -c "from duplexd.duplexctl.cli import main; main()"'
    script = f'{duplexctl} suspend db --lease "$DUPLEXD_LEASE"'
    environment_script = f"DUPLEXD_SOCKET={pair_of_volumes.files.control_socket} {script}"
    done = run_duplexctl(
        pair_of_volumes.files, "quiesce", "db", "--hold", "10", "--", "sh", "-c", environment_script
    )
    assert done.returncode == 0, done
    assert {
        volume["state"] for volume in pair_of_volumes.request("GET", "/v1/status")[1]["volumes"]
    } == {"SUSPENDED"}


async def test_a_hold_of_five_seconds_under_fio(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """No I/O error, reads served throughout, memory bounded."""
    daemon = start_daemon(make_files(volumes={"data": "64MiB"}, journal_size="64MiB"))
    fio = await asyncio.create_subprocess_exec(
        "fio", "--name=v", "--ioengine=nbd", f"--uri={daemon.files.uri('data')}",
        "--rw=randwrite", "--bsrange=512-128k", "--size=48m", "--iodepth=64", "--verify=crc32c",
        "--verify_fatal=1", "--serialize_overlap=1", "--loops=2", "--rate=12m",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=daemon.files.directory,
    )  # fmt: skip
    try:
        await wait_until(daemon, lambda now: now["data"]["sequence"] > 100, "fio writes")
        before, longest, reads = resident_bytes(daemon.pid), 0.0, 0
        async with connected(daemon, "data") as nbd:
            owner, end = await hold(daemon, ["data"]), time.monotonic() + HOLD_SECONDS
            writing = asyncio.create_task(nbd.write(60 << 20, block(1)))
            while time.monotonic() < end or reads < READS:
                began = time.monotonic()
                await nbd.read((reads * 37 % 48) << 20, BLOCK)
                longest, reads = max(longest, time.monotonic() - began), reads + 1
                await asyncio.sleep(0.005)
            assert not writing.done(), "the reads waited for the end of the hold"
            grown = resident_bytes(daemon.pid) - before
            owner.close()
            await asyncio.wait_for(writing, PATIENCE_SECONDS)
        output, _ = await asyncio.wait_for(fio.communicate(), 2 * PATIENCE_SECONDS)
        print(
            f"5 s under fio: {reads} reads, the slowest {longest * 1e3:.1f} ms; "
            f"memory grew by {grown >> 10} KiB"
        )
        assert fio.returncode == 0, output.decode()
        assert b"err= 0" in output, output.decode()
        assert grown < MEMORY_BYTES_MAX
    finally:
        if fio.returncode is None:
            fio.kill()
            await fio.wait()
    assert (await call(daemon, "POST", "/v1/verify", {"targets": ["data"]}))["equal"]
