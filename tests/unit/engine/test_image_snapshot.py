"""What is recorded of an image that is not there."""

from __future__ import annotations

import errno
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.core.image_record import Image
from duplexd.core.pair import Lacks
from duplexd.engine.image_snapshot import ImageSnapshot, PairSnapshot, Plan
from duplexd.engine.sampled_blocks import UNWRITTEN
from duplexd.errors import WrongStateError
from duplexd.runtime.watch import HungError
from tests.unit.engine.cores import Core, new_disk, run, settings

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg

SHIFT = 16
KNOWN = Image("id", "/b/v1", "", 0, True, 3, samples=((0, 11), (1 << SHIFT, 22)), sampled_at=11)


@pytest.mark.parametrize(
    ("role", "lacks", "touched", "left"),
    [
        (0, None, frozenset[int](), [0, 1 << SHIFT]),
        (0, None, frozenset({1}), [0]),
        (0, Lacks(3), frozenset({1}), [0, 1 << SHIFT]),
        (0, None, None, []),
        (0, Lacks(), None, [0, 1 << SHIFT]),
        (1, None, frozenset({1}), [0, 1 << SHIFT]),
    ],
    ids=[
        "nothing",
        "a region",
        "counted by a start",
        "anything",
        "nothing lacks",
        "to the primary",
    ],
)
def test_a_primary_gets_later_what_is_written_while_it_is_away(
    role: int, lacks: Lacks | None, touched: frozenset[int] | None, left: list[int]
) -> None:
    """A start that brings it there, and dies, must not find it changed by somebody else. Nothing of
    that reaches a secondary before a marker says so.
    """
    pair = SimpleNamespace(regions=SimpleNamespace(shift=SHIFT), lacks=lacks)
    legs = cast("tuple[Leg, Leg]", (object(), object()))
    images = {"images": (KNOWN, KNOWN)}
    of = PairSnapshot(cast("Pair", pair), images, legs, touched, swaps=0)
    plan = cast("Plan", SimpleNamespace(number=20))
    image = ImageSnapshot(of, role, UNWRITTEN, plan, KNOWN, last=15).still_absent()
    assert image is not None
    assert image.offsets == left
    assert image.sampled_at == KNOWN.sampled_at


@pytest.mark.parametrize("fails", [False, True])
def test_a_checkpoint_that_failed_has_not_recorded_that_a_call_hangs(fails: bool) -> None:
    """That the call may change the image when it returns."""
    disk, now = new_disk(), [1000.0]
    disk.now_ns = lambda: int((1_795_000_000 + now[0]) * 1e9)

    async def life() -> None:
        core = await Core.begin(disk, settings({"data": ""}))
        controller = core.controller

        def wait(seconds: float) -> None:
            now[0] += seconds
            core.clock.now += seconds

        assert await core.write("data", 0, b"old") == 0
        await controller.checkpointer.checkpoint()
        wait(5)
        assert await core.write("data", 0, b"new") == 0
        pair, leg = core.pair(), core.pair().primary
        hung = partial(controller.failures.primary_failed, pair, HungError(leg, 30.0))
        await controller.timeline.at_rest(hung)
        if fails:
            disk.fail("/state/checkpoint", errno.ENOSPC)
            with pytest.raises(OSError, match="space"):
                await controller.checkpointer.checkpoint()
            disk.heal("/state/checkpoint")
        wait(1)
        leg.write(0, b"new")  # the call returns
        leg.close()
        with pytest.raises(WrongStateError, match="SIMPLEX"):  # served again, and no more to do
            await controller.resync(["data"])
        assert not core.pair().failed
        await controller.stop()

    run(life())
