"""What is recorded of an image that was not there at the last checkpoint either."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.core.image_record import Image
from duplexd.engine.image_snapshot import ImageSnapshot, PairSnapshot, Plan
from duplexd.engine.sampled_blocks import UNWRITTEN

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg

SHIFT = 16
KNOWN = Image("id", "/b/v1", "", 0, True, 3, samples=((0, 11), (1 << SHIFT, 22)), sampled_at=11)


@pytest.mark.parametrize(
    ("role", "touched", "left"),
    [
        (0, frozenset[int](), [0, 1 << SHIFT]),
        (0, frozenset({1}), [0]),
        (0, None, []),
        (1, frozenset({1}), [0, 1 << SHIFT]),
    ],
    ids=["nothing", "a region", "anything", "to the primary"],
)
def test_a_primary_gets_later_what_is_written_while_it_is_away(
    role: int, touched: frozenset[int] | None, left: list[int]
) -> None:
    """A start that brings it there, and dies, must not find it changed by somebody else. Nothing of
    that reaches a secondary before a marker says so.
    """
    pair = SimpleNamespace(regions=SimpleNamespace(shift=SHIFT))
    legs = cast("tuple[Leg, Leg]", (object(), object()))
    images = {"images": (KNOWN, KNOWN)}
    of = PairSnapshot(cast("Pair", pair), images, legs, touched, swaps=0)
    plan = cast("Plan", SimpleNamespace(number=20))
    image = ImageSnapshot(of, role, UNWRITTEN, plan, KNOWN, last=15).still_absent()
    assert image is not None
    assert image.offsets == left
    assert image.sampled_at == KNOWN.sampled_at
