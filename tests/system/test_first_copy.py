"""A secondary that is new beside a primary with data: PENDING and unusable until it is equal, under
load, sparse.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from typing import TYPE_CHECKING, Any

from tests.support.blocks import Blocks
from tests.support.commands import call, same_bytes, volumes, wait_state, wait_until
from tests.support.daemon import run_duplexctl
from tests.support.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 1 << 30
DATA_BYTES = 256 << 20
CLIENT_BYTES = 64 << 20  # the part at the start, empty before, that the client writes


def _primary_with_data(path: Path) -> None:
    """Data in every second MiB behind what the client writes."""
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(DATA_BYTES >> 20):
            file.seek(CLIENT_BYTES + (number << 21))
            file.write(number.to_bytes(8, "little") + piece[8:])
        file.truncate(SIZE)


def _at_full_speed(daemon: Daemon) -> None:
    """Lift the limit that let the copy last as long as the test had to look at it."""
    daemon.files.copy_rate = None
    daemon.files.write()
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("copy_rate removed: copies are not limited")


async def _copying(daemon: Daemon) -> dict[str, Any]:
    while True:
        volume = (await volumes(daemon))["data"]
        assert volume["state"] == "PENDING", "the copy ended before the test looked"
        if volume["copy"]["total_bytes"]:
            return volume
        await asyncio.sleep(0.005)


async def test_a_first_copy_under_load_ends_duplex(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": SIZE}, journal_size="64MiB")
    files.copy_rate = "2MiB"  # two minutes
    files.write()
    _primary_with_data(files.primary("data"))
    daemon = start_daemon(files)
    volume = await _copying(daemon)
    assert volume["copy"]["total_bytes"] == DATA_BYTES, "holes are not copied"
    assert (volume["reason"], volume["secondary"]["usable"]) == ("first copy", False)
    assert volume["secondary"]["as_of_sequence"] is None
    assert volume["secondary"]["cut"] is None
    models, done = {"data": Blocks(CLIENT_BYTES)}, []

    async def watch() -> dict[str, Any]:
        while (volume := (await volumes(daemon))["data"])["state"] == "PENDING":
            assert not volume["secondary"]["usable"]
            done.append(volume["copy"]["done_bytes"])
            await asyncio.sleep(0.01)
        return volume

    async with Load(files, models, random.Random(3), pause_s=0.005) as load:
        watching = asyncio.create_task(watch())
        suspended = await asyncio.to_thread(run_duplexctl, files, "suspend", "data")
        shown = await asyncio.to_thread(run_duplexctl, files, "--json", "status", "data")
        assert suspended.returncode == 5, suspended
        assert "PENDING" in suspended.stderr
        told = json.loads(shown.stdout)["volumes"][0]
        assert (told["state"], told["secondary"]["usable"]) == ("PENDING", False)
        await wait_until(
            daemon, lambda _volumes: len(set(done)) > 2, "the progress of the copy rises"
        )
        assert done[-1] < DATA_BYTES
        _at_full_speed(daemon)
        volume = await watching
        assert volume["state"] == "DUPLEX"
        assert volume["secondary"]["usable"]
        await load.stop()
    assert done == sorted(done)
    await wait_state(daemon, "DUPLEX")
    with files.primary("data").open("rb") as file:
        models["data"].settle(file.read(CLIENT_BYTES), "the part that the client wrote")
    assert (await call(daemon, "POST", "/v1/verify", {"targets": ["data"]}))["equal"]
    assert same_bytes(files.primary("data"), files.secondary_of("data"))
    allocated = files.secondary_of("data").stat().st_blocks * 512
    assert allocated <= files.primary("data").stat().st_blocks * 512 + (1 << 20), (
        "what was a hole is none on the secondary"
    )
    assert allocated < SIZE // 2
    assert daemon.stop() == 0
    files.primary("data").unlink()  # large: not left behind for others to remove
    files.secondary_of("data").unlink()
