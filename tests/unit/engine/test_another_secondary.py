"""A secondary that the configuration exchanged for another image while the daemon was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config import daemon_file as config
from duplexd.core import pair_states as state
from duplexd.errors import ConfigurationError
from tests.unit.engine.cores import SIZE, Core, new_disk, run

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk

DATA = b"\x55" * 4096


def _with(secondary: str) -> config.Config:
    line = f'secondary = "{secondary}"\n' if secondary else ""
    return config.parse(
        '[controller]\nname = "alpha"\nstate_dir = "/state"\njournal_size = "32MiB"\n[nbd]\nlisten = ["unix:/nbd.sock"]\n'
        f'[volumes.data]\nsize = {SIZE}\nprimary = "/a/data.img"\n{line}',
        "/duplexd.toml",
    )


async def _live(disk: SimDisk, secondary: str) -> Core:
    core = Core(disk, _with(secondary))
    await core.controller.start()
    await core.until(lambda: core.pair().state != state.PENDING)
    await core.controller.stop()
    return core


def test_it_is_not_taken_for_the_one_that_was_equal() -> None:
    disk = new_disk()

    async def first() -> None:
        core = Core(disk, _with("/b/data.img"))
        await core.controller.start()
        assert await core.write("data", 0, DATA) == 0
        await core.controller.stop()

    run(first())
    disk.create("/b/other.img", SIZE).close()
    with pytest.raises(ConfigurationError, match=r"nothing is known of /b/other\.img"):
        run(_live(disk, "/b/other.img"))

    assert run(_live(disk, "/b/data.img")).states() == {"data": state.DUPLEX}
    assert run(_live(disk, "")).states() == {"data": state.SIMPLEX}
    assert run(_live(disk, "/b/other.img")).states() == {"data": state.DUPLEX}
    assert disk.read_file("/b/other.img")[: len(DATA)] == DATA
