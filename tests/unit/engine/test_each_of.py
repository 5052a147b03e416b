"""Commands on several volumes: one that fails keeps none of the others from it, and is named."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.engine.each_of import each_of
from duplexd.errors import DuplexdError, WrongStateError
from tests.unit.engine.cores import Core, new_disk, running, settings
from tests.unit.engine.parts import NAMES, Parts
from tests.unit.engine.test_recovery_degraded import DATA, one_life

if TYPE_CHECKING:
    from duplexd.core.pair import Pair

THREE = {"data": "sync", "wal": "sync", "apart": "sync"}


async def test_the_error_has_the_kind_of_the_first_and_the_text_of_all() -> None:
    parts = Parts()
    errors = {"data": WrongStateError("data: missing"), "wal": DuplexdError("wal: failed")}

    async def fails(pair: Pair) -> dict[str, object]:
        raise errors[pair.name]

    with pytest.raises(WrongStateError) as caught:
        await each_of([parts.pair(name) for name in NAMES], fails, "done")
    assert str(caught.value) == "data: missing; wal: failed"


async def test_a_primary_that_is_missing_keeps_no_other_volume_from_being_adopted() -> None:
    disk = new_disk()
    await one_life(disk, settings(THREE), stopped=True)
    disk.remove("/a/wal.img")
    disk.remove("/b/wal.img")
    for name in ("data", "apart"):
        image = disk.open(f"/a/{name}.img")
        image.write(0, b"restored")
        image.sync()
        image.close()
        disk.remove(f"/b/{name}.img")
    async with running(THREE, disk=disk) as core:
        names = ["data", "wal", "apart"]
        assert all(core.pair(name).failed for name in names)
        with pytest.raises(WrongStateError, match=r"/a/wal\.img: .*; adopted: data, apart$"):
            await core.controller.adopt(names)
        assert [bool(core.pair(name).failed) for name in names] == [False, True, False]


async def test_a_roll_forward_that_fails_for_one_swaps_none_and_names_all() -> None:
    """They go along the journal in one walk."""
    async with running(THREE) as core:
        for name in THREE:
            await core.write(name, 0, DATA)
        await core.controller.suspend(list(THREE))
        await core.write("wal", 0, b"later")
        core.secondary("wal").fail("reserve", errno.ENOSPC)
        with pytest.raises(DuplexdError, match=r"^data: wal: .*; wal: .*; apart: "):
            await core.controller.swap(list(THREE), True, None, False)
        assert _swapped(core) == dict.fromkeys(THREE, False)


def _swapped(core: Core) -> dict[str, bool]:
    return {name: core.pair(name).record.swapped for name in THREE}
