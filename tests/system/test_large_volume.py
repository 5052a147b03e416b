"""A sparse volume of more than 4 TiB on a real file system: its grain is larger than a piece of a
copy, and only what is data takes time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from duplexd.units import GIB, MIB, TIB
from tests.support.commands import call, resync, suspend

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 4 * TIB + 4096
PLACES = [0, 4 * MIB - 4096, 17 * GIB, 4 * TIB - 4096, 4 * TIB]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon(make_files(volumes={"data": SIZE}, journal_size="16MiB"))


async def write(daemon: Daemon, rounds: int) -> None:
    async with connect(daemon.files.uri("data")) as nbd:
        for number in range(rounds):
            for at in PLACES:
                await nbd.write(at, bytes([number % 255 + 1]) * 4096)


async def test_a_resync_by_map_and_a_comparison_end(daemon: Daemon) -> None:
    await write(daemon, 1)
    await suspend(daemon, "data")
    await write(daemon, 1200)  # more than the journal holds
    done = (await resync(daemon, "data"))["data"]
    assert (done["how"], done["state"]) == ("map", "DUPLEX")
    verified = await call(daemon, "POST", "/v1/verify", {"targets": ["data"]})
    assert verified["equal"], verified
    assert verified["volumes"][0]["compared_bytes"] == SIZE


async def test_a_secondary_that_is_given_again_is_compared_by_its_data(daemon: Daemon) -> None:
    files = daemon.files
    await write(daemon, 1)
    daemon.stop()
    files.secondary = False
    files.write()
    daemon.start()
    await write(daemon, 2)
    files.secondary = True
    files.write()
    daemon.stop()
    daemon.start()
    done = (await resync(daemon, "data"))["data"]
    assert done["state"] == "DUPLEX"
    for at in PLACES:
        with files.primary("data").open("rb") as one, files.secondary_of("data").open("rb") as two:
            one.seek(at)
            two.seek(at)
            assert one.read(4096) == two.read(4096) == b"\x02" * 4096
