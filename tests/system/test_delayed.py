"""Somebody dropped the table: delayed secondaries of real daemons, and what they give back."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS, ROOT, run_duplexctl, run_duplexd
from tests.system.test_canary import CanaryProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

MIB = 1 << 20
SIZE = 8 * MIB
NAMES = ("data", "wal")


@pytest.fixture
def start(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Callable[[str], Daemon]:
    """A daemon whose secondaries have this delay."""

    def begin(delay: str) -> Daemon:
        volumes, groups = dict.fromkeys(NAMES, SIZE), {"db": list(NAMES)}
        files = make_files(
            volumes=volumes, groups=groups, mode="delayed", delay=delay, journal_size="64MiB"
        )
        return start_daemon(files)

    return begin


async def fill(daemon: Daemon, seed: int, count: int = 100) -> None:
    """Write blocks that only this seed has, to both volumes in turn."""
    random = Random(seed)
    connections = [await connect(daemon.files.uri(name)) for name in NAMES]
    for _ in range(count):
        for nbd in connections:
            await nbd.write(random.randrange(SIZE // 4096) * 4096, random.randbytes(4096))
    for nbd in connections:
        await nbd.close()


async def read(daemon: Daemon, export: str) -> bytes:
    async with connect(daemon.files.uri(export)) as nbd:
        return b"".join([await nbd.read(at, MIB) for at in range(0, SIZE, MIB)])


async def contents(daemon: Daemon, point: str = "") -> dict[str, bytes]:
    return {name: await read(daemon, name + point) for name in NAMES}


def secondaries(daemon: Daemon) -> dict[str, bytes]:
    return {name: daemon.files.secondary_of(name).read_bytes() for name in NAMES}


def ctl(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Its output; stderr if another exit code than 0 is expected."""
    done = run_duplexctl(daemon.files, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
    return done.stdout if code == 0 else done.stderr


def as_typed(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def status(daemon: Daemon, name: str = "data") -> dict[str, Any]:
    volume: dict[str, Any] = json.loads(ctl(daemon, "status", name, "--json"))["volumes"][0]
    return volume


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_dropped_table_is_got_back(start: Callable[[str], Daemon], killed: bool) -> None:
    daemon = start("1h")
    await fill(daemon, 1)
    good, before = await contents(daemon), time.time()
    await fill(daemon, 2)
    if killed:
        daemon.kill()
        daemon.start()
    await fill(daemon, 3)
    asked = time.time()
    result = json.loads(ctl(daemon, "suspend", "db", "--at", as_typed(before), "--json"))
    assert (result["verdict"], result["already"]) == ("consistent", False)
    secondary = status(daemon)["secondary"]
    assert secondary["cut"]["time"] < asked - 0.001 < secondary["suspended_time"]
    assert secondaries(daemon) == good != await contents(daemon)
    assert await contents(daemon, "@latest") == good
    ctl(daemon, "clone", "db@latest", "--name", "look")
    assert await contents(daemon, f"@{result['cut']}+look") == good
    ctl(daemon, "drop-clone", "db", "look")
    ctl(daemon, "rollback", "db", "--to", "latest")
    assert await contents(daemon) == good
    ctl(daemon, "resync", "db", "--wait")
    await fill(daemon, 4)
    ctl(daemon, "suspend", "db")
    assert secondaries(daemon) == await contents(daemon)
    ctl(daemon, "verify", "db")


def printed(said: str) -> list[list[str]]:
    """The commands of the block in docs/going-back.md that begins with what is said there."""
    page = (ROOT / "docs" / "going-back.md").read_text()
    block = next(each for each in page.split("```sh\n") if each.startswith(f"# 14:20: {said}"))
    lines = (line.split("#")[0].split(";")[0].split() for line in block.split("```")[0].split("\n"))
    return [words[1:] for words in lines if words[:1] == ["duplexctl"]]


async def test_the_story_of_the_dropped_table_as_it_is_printed(
    start: Callable[[str], Daemon],
) -> None:
    daemon = start("30m")
    times, held = {}, {}
    for seed, clock in enumerate(("14:01:50", "14:01:58")):
        await fill(daemon, seed)
        held[clock], times[clock] = await contents(daemon), as_typed(time.time())
    await fill(daemon, 3)
    ids = set()
    for command in printed("somebody dropped a table at 14:02"):
        clock = next((word for word in command if word in times), "")
        said = ctl(daemon, *(times.get(word, word) for word in command))
        if command[0] == "clone":
            assert await contents(daemon, "@before-drop+look") == held["14:01:50"]
        if clock:
            assert secondaries(daemon) == held[clock] != await contents(daemon)
            ids |= set(said.split("cut ")[1].split(",")[:1])
        if command[0] == "rollback":
            assert await contents(daemon) == held["14:01:58"]
    assert len(ids) == 2
    ctl(daemon, "resync", "db", "--wait")
    await until(lambda: status(daemon)["state"] == "DUPLEX")


async def test_one_goes_on_from_a_cut_in_any_mode(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """And over a kill; not while it has a reader, and not back."""
    daemon = start_daemon(
        make_files(volumes=dict.fromkeys(NAMES, SIZE), groups={"db": list(NAMES)})
    )
    await fill(daemon, 1)
    ctl(daemon, "suspend", "db", "--reader", "backup")
    held = []
    for seed in (2, 3, 4):
        await fill(daemon, seed)
        held.append((str(status(daemon)["sequence"]), await contents(daemon)))
    (first, one), (second, two), _ = held
    refused = ctl(daemon, "resync", "db", "--until", first, code=5)
    assert "is read at cut" in refused
    assert "--force" not in refused, "it has no such option"
    ctl(daemon, "release-reader", "db", "backup")
    result = json.loads(ctl(daemon, "resync", "db", "--until", first, "--tag", "on", "--json"))
    assert (result["verdict"], result["tag"], result["already"]) == ("consistent", "on", False)
    assert secondaries(daemon) == one
    again = json.loads(ctl(daemon, "resync", "db", "--until", first, "--json"))
    assert (again["cut"], again["already"]) == (result["cut"], True)
    daemon.kill()
    daemon.start()
    assert (secondaries(daemon), status(daemon)["secondary"]["cut"]["id"]) == (one, result["cut"])
    ctl(daemon, "resync", "db", "--until", second)
    assert secondaries(daemon) == two
    daemon.kill()
    daemon.start()
    assert secondaries(daemon) == two
    assert "not within reach" in ctl(daemon, "resync", "db", "--until", first, code=5)
    assert "does not exist yet" in ctl(daemon, "resync", "db", "--until", "99999999", code=5)
    assert "--until waits itself" in ctl(daemon, "resync", "db", "--until", "1", "--wait", code=2)
    after = str(status(daemon)["sequence"])
    assert "without records" in ctl(daemon, "resync", "db", "--until", after, code=5)
    ctl(daemon, "resync", "db", "--wait")
    assert "is DUPLEX" in ctl(daemon, "resync", "db", "--until", second, code=5)
    ctl(daemon, "suspend", "db")
    await fill(daemon, 5)
    ctl(daemon, "rollback", "db", "--to", "latest", "--yes")
    now = str(status(daemon)["sequence"])
    assert "held a mixture meanwhile" in ctl(daemon, "resync", "db", "--until", now, code=5)
    ctl(daemon, "resync", "db", "--wait")
    ctl(daemon, "verify", "db")


async def test_a_cut_of_the_past_is_verified_by_its_certificate(
    start: Callable[[str], Daemon],
) -> None:
    daemon = start("1h")
    await fill(daemon, 1)
    number = status(daemon)["sequence"]
    good = await contents(daemon)
    await fill(daemon, 2)
    file = str(daemon.files.directory / "cut.json")
    ctl(daemon, "suspend", "db", "--at", str(number), "--certificate", file, "--tag", "before")
    assert secondaries(daemon) == good
    said = json.loads(ctl(daemon, "verify-cut", file, "--json"))
    assert said["outcome"] == "confirmed", said
    changed = json.loads(ctl(daemon, "resync", "db", "--wait", "--json").splitlines()[-1])
    assert all(0 < row["copied_bytes"] < SIZE // 2 for row in changed["volumes"])


async def test_changes_come_after_the_delay(start: Callable[[str], Daemon]) -> None:
    daemon = start("3s")
    await fill(daemon, 1)
    good = await contents(daemon)
    await until(lambda: secondaries(daemon) == good)
    shown = status(daemon)["secondary"]
    assert shown["usable"]
    assert shown["delay"]["back_s"] >= shown["delay"]["wanted_s"] == 3.0
    assert "back to" in ctl(daemon, "status", "data")


async def test_dependent_writes_are_whole_at_a_time_of_the_past(
    start: Callable[[str], Daemon],
) -> None:
    daemon = start("1h")
    with CanaryProcess("--socket", str(daemon.files.control_socket), "--overwrite", "db") as canary:
        first = status(daemon)["sequence"]
        await until(lambda: status(daemon)["sequence"] > first + 200)
        at = as_typed(time.time())
        await until(lambda: status(daemon)["sequence"] > first + 600)
        result = json.loads(ctl(daemon, "suspend", "db", "--at", at, "--json"))
        report = await asyncio.to_thread(canary.verdict_on, result["cut"])
        assert (report["event"], report["consistent"]) == ("graded", True), report
        assert canary.stop() == 0


async def test_what_cannot_be_gone_to_is_refused(start: Callable[[str], Daemon]) -> None:
    daemon = start("1s")
    before = as_typed(time.time())
    await fill(daemon, 1, 5)
    good = await contents(daemon)
    await until(lambda: secondaries(daemon) == good)
    assert "earliest point is number" in ctl(daemon, "suspend", "db", "--at", before, code=5)
    assert "has not come yet" in ctl(daemon, "suspend", "db", "--at", "2999-01-01T00:00Z", code=5)
    assert "does not exist yet" in ctl(daemon, "suspend", "db", "--at", "99999999", code=5)
    assert "is not a point" in ctl(daemon, "suspend", "db", "--at", "yesterday", code=2)
    ctl(daemon, "suspend", "db")
    assert "suspended already" in ctl(daemon, "suspend", "db", "--at", before, code=5)


@pytest.mark.parametrize(
    ("mode", "delay", "said"),
    [
        ("delayed", "", 'mode = "delayed" needs a delay'),
        ("sync", "30m", 'delay is for mode = "delayed"'),
        ("delayed", "0.5s", "is not between 1 s and 7 days"),
    ],
)
def test_a_delay_that_is_not_one_is_refused(
    make_files: Callable[..., DaemonFiles], mode: str, delay: str, said: str
) -> None:
    files = make_files(volumes={"data": SIZE}, mode=mode, delay=delay)
    done = run_duplexd("check", "--config", str(files.config))
    assert (done.returncode, said in done.stderr) == (6, True), done.stderr


async def test_check_says_how_much_of_a_delay_the_journal_holds(
    start: Callable[[str], Daemon],
) -> None:
    """By the rate that the journal shows, while the daemon writes to it."""
    daemon = start("7d")
    files = daemon.files

    def checked(delay: str) -> list[str]:
        files.delay = delay
        files.write()
        done = run_duplexd("check", "--config", str(files.config), "--json")
        return [each for each in json.loads(done.stdout)["warnings"] if ".delay: " in each]

    assert checked("7d") == []
    while not (warnings := checked("7d")):
        await fill(daemon, 1, 1000)
    (warning,) = warnings
    assert "at the rate of the last " in warning
    assert " of 7 days: the secondary would not stay that far behind" in warning
    assert "make controller.journal_size at least" in warning
    assert checked("1s") == []
    done = run_duplexd("check", "--config", str(files.config))
    assert "the journal holds 1 s of up to 48.0 MiB/s of changes" in done.stdout
