"""kill -9 at random moments, under load, in every state: no acknowledged change is lost,
secondaries stay prefixes, copies continue.

A failure prints the seed of its scenario; `DUPLEXD_TEST_SEED=N` runs it again, as far as the timing
of the machine repeats.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.journal.inspect import inspect
from duplexd.limits import EngineLimits
from duplexd.nbd_aio.connecting import connect
from duplexd.runtime.disk import RealDisk
from tests.support.blocks import BLOCK_BYTES, Blocks, check
from tests.support.commands import (
    call,
    hold,
    same_bytes,
    start_resync,
    suspend,
    volumes,
    wait_state,
    wait_until,
)
from tests.support.load import READ_BYTES, Load, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

VOLUME_BYTES = 8 << 20
NAMES = ("a", "b", "c")
ASYNC_VOLUME = """
[volumes.c]
size = "8MiB"
primary = "{0}/a/c.img"
secondary = "{0}/b/c.img"
mode = "async"
"""
JOURNALS = {
    "during_a_resync_by_journal": "64MiB",
    "during_a_resync_by_map": "32MiB",
}  # elsewhere the smallest: it wraps every few seconds
KILLS_MIN = 30
TESTS_HERE = 6
KILLS: dict[str, int] = {}
RECOVERIES_S: list[float] = []
TIMES = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.long)])
# Blocks of each volume: cheaper to copy by journal than by map, and enough of them to be killed
# meanwhile
SCATTERED = 800
IN_RESYNC_MIN = 2
TRIES_MAX = 200
pytestmark = pytest.mark.timeout(1800)  # a busy machine is slow, and the long sweep is long


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints what was done. All tests of this file together kill at least `KILLS_MIN` times, in any
    order.
    """
    yield
    total, times = sum(KILLS.values()), sorted(RECOVERIES_S)
    if times:
        print(
            f"{total} kills: {KILLS}; start to ready: "
            f"median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s"
        )
    if (
        len({item.nodeid for item in request.session.items if item.path == request.path})
        >= TESTS_HERE
    ):
        assert total >= KILLS_MIN


class Victim:
    """A daemon that is killed repeatedly, and what its clients know."""

    def __init__(self, daemon: Daemon, state: str, seed: int) -> None:
        self.daemon = daemon
        self.files = daemon.files
        self.state = state
        self.random = random.Random(seed)
        self.models = {name: Blocks(VOLUME_BYTES) for name in NAMES}
        self.kills = 0

    def load(self, **fields: Any) -> Load:
        return Load(self.files, self.models, self.random, **fields)

    def kill(self) -> None:
        """One kill."""
        self.daemon.kill()
        self.kills += 1
        KILLS[self.state] = KILLS.get(self.state, 0) + 1

    async def kill_after(self, most_s: float, load: Load) -> None:
        """Kill within this time while the load goes on."""
        await asyncio.sleep(self.random.uniform(0, most_s))
        self.kill()
        await load.lost()

    async def restart(self) -> None:
        """Start again, sometimes only after a kill during start and recovery; then read everything
        and check it.
        """
        if self.random.random() < 0.15:
            self.daemon.start(ready=False)
            await asyncio.sleep(self.random.uniform(0.3, 0.8))
            self.kill()
        RECOVERIES_S.append(_timed(self.daemon.start))
        await settle(self.files, self.models, f"after kill {self.kills} ({self.state})")

    async def check_duplex(self) -> None:
        """Every pair is DUPLEX, with legs that are equal, and nothing left to copy."""
        found = await wait_state(self.daemon, "DUPLEX")
        assert {volume["changed_bytes"] for volume in found.values()} == {0}
        await wait_until(
            self.daemon,
            lambda now: now["c"]["secondary"]["lag_bytes"] == 0,
            "the async secondary is at the tail",
        )
        verified = await call(self.daemon, "POST", "/v1/verify", {"targets": NAMES})
        assert verified["equal"], verified
        for name in NAMES:
            assert same_bytes(self.files.primary(name), self.files.secondary_of(name)), (
                f"{name}: the legs differ after kill {self.kills}"
            )

    def secondaries(self) -> dict[str, bytes]:
        """What the secondaries hold."""
        return {name: self.files.secondary_of(name).read_bytes() for name in NAMES}

    async def suspend(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The cut and the images at it, which hold what the clients know for that moment."""
        watches = {name: model.watch() for name, model in self.models.items()}
        allowed = {name: watch.__enter__() for name, watch in watches.items()}
        result = await suspend(self.daemon, *NAMES)
        for watch in watches.values():
            watch.__exit__(None, None, None)
        images = self.secondaries()
        for name, image in images.items():
            check(image, allowed[name], f"secondary of {name} at its cut")
        return result, images

    async def check_suspended(self, cut: dict[str, Any], images: dict[str, bytes]) -> None:
        """Every secondary is at the cut and holds what it held then."""
        found = await volumes(self.daemon)
        for name, volume in found.items():
            assert (volume["state"], volume["reason"]) == ("SUSPENDED", "by command"), volume
            secondary = volume["secondary"]
            assert secondary["usable"], volume
            assert (secondary["as_of_sequence"], secondary["cut"]["id"]) == (
                cut["controllers"]["test"],
                cut["cut"],
            ), volume
            assert secondary["cut"]["verdict"] == "consistent", volume
            assert self.files.secondary_of(name).read_bytes() == images[name], (
                f"the secondary of {name} moved after kill {self.kills}"
            )


def _markers(files: DaemonFiles) -> list[dict[str, Any]]:
    """The markers in the journal; with the daemon dead only."""
    return [
        item["marker"]
        for item in inspect(RealDisk(), str(files.state_dir))
        if item["type"] == "marker"
    ]


def _resync_reached(files: DaemonFiles) -> str:
    """The last marker of the latest resync: resync, commit, settled or equal; "" if the journal has
    dropped it.
    """
    stages = [
        str(marker["m"])
        for marker in _markers(files)
        if marker["m"] in {"resync", "commit", "settled", "equal"}
    ]
    return stages[-1] if stages else ""


@pytest.fixture
def victim(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    request: pytest.FixtureRequest,
) -> Iterator[Victim]:
    seed = int(os.environ.get("DUPLEXD_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
    state = request.function.__name__.removeprefix("test_kill_")
    files = make_files(
        volumes={"a": VOLUME_BYTES, "b": VOLUME_BYTES},
        groups={"db": ["a", "b"]},
        journal_size=JOURNALS.get(state, "16MiB"),
    )
    files.extra = ASYNC_VOLUME.format(files.directory)
    victim = Victim(start_daemon(files.write()), state, seed)
    print(f"DUPLEXD_TEST_SEED={seed}")
    yield victim
    print(f"{state}: {victim.kills} kills")


@TIMES
async def test_kill_while_duplex(victim: Victim, times: int) -> None:
    for _ in range(8 * times):
        async with victim.load(pause_s=victim.random.choice((0.0, 0.0, 0.01))) as load:
            await victim.kill_after(0.4, load)
        await victim.restart()
        await victim.check_duplex()


@TIMES
async def test_kill_while_held(victim: Victim, times: int) -> None:
    for _ in range(4 * times):
        targets = victim.random.choice((["db", "c"], ["a"], ["a", "c"]))
        async with victim.load() as load:
            await asyncio.sleep(victim.random.uniform(0, 0.1))
            owner = await hold(victim.daemon, targets)
            held = NAMES if "db" in targets else targets
            allowed = {name: victim.models[name].allowed() for name in held}
            await victim.kill_after(0.15, load)
            owner.close()
        await victim.restart()
        status = await call(victim.daemon, "GET", "/v1/status")
        assert status["leases"] == []
        assert not any(volume["held"] for volume in status["volumes"])
        for name in held:  # a change that was held was never started
            check(victim.files.primary(name).read_bytes(), allowed[name], f"held volume {name}")
        await victim.check_duplex()


@TIMES
async def test_kill_while_suspended(victim: Victim, times: int) -> None:
    for _ in range(2 * times):
        async with victim.load() as load:
            await asyncio.sleep(victim.random.uniform(0.05, 0.15))
            cut, images = await victim.suspend()
            await victim.kill_after(0.3, load)
        await victim.restart()
        await victim.check_suspended(cut, images)
        for _ in range(3):
            async with victim.load() as load:
                await victim.kill_after(0.3, load)
            await victim.restart()
            await victim.check_suspended(cut, images)
        # The journal may lack changes that the primary has: only the widened maps have them all.
        assert set((await start_resync(victim.daemon, *NAMES)).values()) == {"map"}
        await victim.check_duplex()


@TIMES
async def test_kill_during_a_resync_by_journal(victim: Victim, times: int) -> None:
    """Kill times adapt to the machine, until enough kills fell into the resync."""
    reached: list[str] = []
    most_s = 0.06
    while len(reached) < 5 * times or reached.count("resync") < IN_RESYNC_MIN:
        assert len(reached) < TRIES_MAX, "too few kills fell into the resync"
        cut, images = await victim.suspend()
        await write_scattered(victim)
        async with victim.load(scattered=True, pause_s=0.02) as load:
            await asyncio.sleep(victim.random.uniform(0, 0.15))
            how = await start_resync(victim.daemon, *NAMES)
            await victim.kill_after(most_s, load)
        assert set(how.values()) == {"journal"}
        reached.append(_resync_reached(victim.files))
        most_s = min(most_s * 1.5, 0.06) if reached[-1] == "resync" else most_s / 2
        await victim.restart()
        if (await volumes(victim.daemon))["a"]["state"] == "SUSPENDED":
            await victim.check_suspended(cut, images)
            await start_resync(victim.daemon, *NAMES)
        await victim.check_duplex()
    print(f"killed when the journal had last said: {reached}")


async def write_scattered(victim: Victim) -> None:
    """Single blocks, anywhere."""
    for name in NAMES:
        model = victim.models[name]
        blocks = victim.random.sample(range(model.count), SCATTERED)
        async with connect(victim.files.uri(name)) as nbd:
            for at in range(0, SCATTERED, 32):
                changes = [model.send(block, 1) for block in blocks[at : at + 32]]
                await asyncio.gather(
                    *(nbd.write(change.first * BLOCK_BYTES, change.payload()) for change in changes)
                )
                for change in changes:
                    model.acknowledge(change)


async def write_more_than_the_journal_holds(victim: Victim) -> None:
    """Twice the journal's size, so that it reaches back to no cut."""
    for name in NAMES:
        model = victim.models[name]
        async with connect(victim.files.uri(name)) as nbd:
            for at in range(0, model.count, READ_BYTES // BLOCK_BYTES):
                change = model.send(at, READ_BYTES // BLOCK_BYTES)
                await nbd.write(at * BLOCK_BYTES, change.payload())
                model.acknowledge(change)


@TIMES
async def test_kill_during_a_resync_by_map(victim: Victim, times: int) -> None:
    """Every second time the copy is rate limited, so that it is not done before the kill; until
    enough kills fell into it.
    """
    reached: list[str] = []
    while len(reached) < 5 * times or reached.count("resync") < IN_RESYNC_MIN:
        assert len(reached) < TRIES_MAX, "too few kills fell before the commit"
        cut, images = await victim.suspend()
        await write_more_than_the_journal_holds(victim)
        await write_more_than_the_journal_holds(victim)
        async with victim.load() as load:
            how = await start_resync(victim.daemon, *NAMES)
            await victim.kill_after(0.35, load)
        assert set(how.values()) == {"map"}
        reached.append(_resync_reached(victim.files))
        if reached[-1] == "resync":
            assert victim.secondaries() == images, (
                "a resync by map touched a secondary before its commit"
            )
        victim.files.copy_rate = None if len(reached) % 2 else "16MiB"
        victim.files.write()
        await victim.restart()
        if (await volumes(victim.daemon))["a"]["state"] == "SUSPENDED":
            await victim.check_suspended(cut, images)
            await start_resync(victim.daemon, *NAMES)
        await victim.check_duplex()
    print(f"killed when the journal had last said: {reached}")


@TIMES
async def test_kill_during_a_first_copy(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], times: int
) -> None:
    """The copy continues after each kill: what was copied is not copied again, but for the regions
    that were written to, which are compared.
    """
    seed = int(os.environ.get("DUPLEXD_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
    print(f"DUPLEXD_TEST_SEED={seed}")
    size, data_bytes = 320 << 20, 256 << 20
    written_bytes = 2 * EngineLimits().region_bytes_min
    files = make_files(volumes={"big": size}, secondary=False)
    _fill(files.primary("big"), size, data_bytes)
    daemon = start_daemon(files, arguments=["--log-level", "debug"])  # it logs marks of copies
    daemon.stop()
    files.secondary = True
    files.write()
    moments, model = random.Random(seed), Blocks(written_bytes)
    kills, marked_bytes = 0, 0
    _with_rate(files, kills)
    logged = len(daemon.lines())
    daemon.start()
    while kills < 6 * times and (await volumes(daemon))["big"]["state"] == "PENDING":
        async with Load(files, {"big": model}, moments, pause_s=0.02) as load:
            if _goes_far(kills):
                # `done_bytes` may be far ahead of a mark: it counts holes, and what is not synced.
                await asyncio.to_thread(daemon.wait_log, '"event": "copied"', after=logged)
            await asyncio.sleep(moments.uniform(0, 0.3))
            daemon.kill()
            await load.lost()
        kills += 1
        markers = _markers(files)
        marked_bytes = max(
            marked_bytes,
            sum(
                length
                for marker in markers
                if marker["m"] == "copied"
                for _, length in marker["runs"]
            ),
        )
        _with_rate(files, kills)
        logged = len(daemon.lines())
        RECOVERIES_S.append(_timed(daemon.start))
        found = await wait_until(
            daemon,
            lambda now: now["big"]["state"] == "DUPLEX" or now["big"]["copy"]["total_bytes"] > 0,
            "it goes on",
        )
        if found["big"]["state"] == "PENDING":
            assert not found["big"]["secondary"]["usable"]
            # Holes count too: killed before the first mark, it is not recorded which image this is.
            left = size - marked_bytes + written_bytes
            assert found["big"]["copy"]["total_bytes"] <= left, "what was copied is copied again"
    _with_rate(files, None)
    daemon.kill()
    daemon.start()
    await wait_state(daemon, "DUPLEX")
    KILLS["first copy"] = kills
    print(
        f"first copy: {kills} kills, "
        f"{marked_bytes >> 20} of {data_bytes >> 20} MiB were copied before the last one"
    )
    assert marked_bytes > 0
    assert (await call(daemon, "POST", "/v1/verify", {"targets": ["big"]}))["equal"]
    assert same_bytes(files.primary("big"), files.secondary_of("big"))
    daemon.kill()
    files.primary("big").unlink()  # large: not left behind for others to remove
    files.secondary_of("big").unlink()


def _goes_far(kills: int) -> bool:
    """Whether the copy gets on, before the next kill, so far that it is remembered: twice in
    all.
    """
    return kills in {2, 4}


def _with_rate(files: DaemonFiles, kills: int | None) -> None:
    """The copy rate from the next start on, so low that the copy is not done before the kill."""
    files.copy_rate = None if kills is None else "64MiB" if _goes_far(kills) else "2MiB"
    files.write()


def _fill(path: Path, size: int, data_bytes: int) -> None:
    with path.open("wb") as file:
        piece = os.urandom(1 << 20)
        for number in range(data_bytes >> 20):
            file.write(number.to_bytes(8, "little") + piece[8:])
        file.truncate(size)


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
