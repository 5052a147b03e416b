"""Any life of a pair after its secondary was damaged and a comparison said so: writes, suspends,
resyncs, failures, checkpoints, kills and power cuts. No cut is called consistent, and the secondary
is called usable by nobody, until the legs are equal again.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, PENDING, SUSPENDED
from duplexd.errors import DuplexdError
from tests.unit.engine.cores import MIB, Core, new_disk, run, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sim.disk import SimDisk

    Step = Callable[[Core, Random], Awaitable[object]]

WRONG = 3 * MIB + 8192  # a block that nobody writes to, and that no start looks at
STEPS_MAX = 8
GROUPS = {"db": ["data", "wal"]}


def is_damaged(core: Core) -> bool:
    """False once a copy of all of it has been there."""
    return core.image("data", "b")[WRONG] == 0xEE


async def write(core: Core, random: Random) -> None:
    await core.write("data", random.randrange(8) * 4096, random.randbytes(4096))


async def suspend(core: Core, _random: Random) -> None:
    result = await core.controller.suspend(["data", "wal"])
    assert result["verdict"] != "consistent", result


async def resync(core: Core, _random: Random) -> None:
    await core.controller.resync(["data", "wal"])
    await core.controller.resync_wait(["data", "wal"])


async def verify(core: Core, _random: Random) -> None:
    equal = (await core.controller.verify(["data"]))["equal"]
    assert equal is not is_damaged(core)


async def fail_another(core: Core, _random: Random) -> None:
    pairs, timeline = [core.pair("data"), core.pair("wal")], core.controller.timeline
    if not all(pair.state == DUPLEX for pair in pairs):
        return
    await core.until(
        lambda: all(pair.mirrors or pair.applied >= timeline.written for pair in pairs)
    )
    await timeline.at_rest(
        lambda: core.controller.failures.freeze(
            pairs, core.pair("wal"), timeline.written, OSError(5, "damaged"), (), {}
        )
    )


async def checkpoint(core: Core, _random: Random) -> None:
    await core.controller.checkpointer.checkpoint()


STEPS: tuple[Step, ...] = (write, suspend, resync, verify, fail_another, checkpoint)


async def damage(core: Core) -> None:
    """Known and durable when it returns; the disk keeps it, as it would a rotten sector."""
    core.pair().copy_of.write(WRONG, b"\xee")
    core.pair().copy_of.sync()
    assert not (await core.controller.verify(["data"]))["equal"]


def check(core: Core) -> None:
    """What every interface is made of."""
    (volume,) = [each for each in core.controller.status()["volumes"] if each["name"] == "data"]
    if not is_damaged(core):
        return
    assert volume["differs"] is not None
    assert not volume["secondary"]["usable"]
    cut = volume["secondary"]["cut"]
    assert cut is None or cut["verdict"] != "consistent", cut


async def live(disk: SimDisk, random: Random, mode: str, first: bool) -> None:
    core = await Core.begin(disk, settings({"data": mode, "wal": mode}, GROUPS))
    if first:
        if random.random() < 0.5:
            await core.controller.suspend(["data", "wal"])
        await damage(core)
    for _ in range(random.randrange(STEPS_MAX)):
        check(core)
        if random.choice((True, False)):
            await core.until(lambda: core.pair().state in (DUPLEX, SUSPENDED))
        if core.pair().state == PENDING or core.pair().record.differs is None:
            continue
        step = random.choice(STEPS)
        try:
            await step(core, random)
        except DuplexdError:
            """Refused: that is what it is for."""
    check(core)
    end = random.choice(("stop", "kill", "power cut"))
    if end == "stop":
        await core.controller.stop()
    else:
        await core.crash(power=end == "power cut")


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_is_called_consistent_until_the_legs_are_equal(seed: int) -> None:
    random, disk = Random(seed), new_disk()
    mode = random.choice(("sync", "async"))
    for number in range(3):
        run(live(disk, random, mode, first=not number))
