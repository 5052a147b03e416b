"""A copy whose secondary fails a sync: what was copied before is not known to be there."""

from __future__ import annotations

import errno

from duplexd.core import pair_states as state
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

CONTENT = bytes(range(1, 251)) * (SIZE // 250 + 1)


def test_the_next_resync_copies_all_of_it_again() -> None:
    disk = new_disk()
    for side, content in (("a", CONTENT[:SIZE]), ("b", bytes(SIZE))):
        file = disk.create(f"/{side}/data.img", SIZE)
        file.write(0, content)
        file.sync()
        file.close()

    async def copy_twice() -> None:
        async with running(disk=disk) as core:
            pair = core.pair()
            assert pair.state == state.PENDING
            disk.fail("/b/data.img", errno.EIO, operation="sync", times=1)
            await core.until(lambda: pair.state != state.PENDING)
            assert (pair.state, pair.usable) == (state.SUSPENDED, False)
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
            assert pair.state == state.DUPLEX
            assert pair.copied_bytes == SIZE

    async def start() -> None:
        core = Core(disk, settings())
        await core.controller.start()
        assert core.pair().state == state.DUPLEX
        assert core.equal()
        await core.controller.stop()

    run(copy_twice())
    disk.crash(power=True)
    run(start())
