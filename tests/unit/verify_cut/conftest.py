"""The controller that most tests check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.verify_cut.world import BLOCK, World, fill, poke

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _journals_are_closed() -> Iterator[None]:
    yield
    World.close_all()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Content from before the journal begins, changes before the cut, the cut, changes after it."""
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 40 * BLOCK, fill(9))  # as old as that
        poke(leg, 50 * BLOCK, fill(9))
    world.write(0, fill(1))
    world.write(BLOCK, fill(2, 3 * BLOCK))
    world.write(2 * BLOCK + 100, fill(3, 200))
    world.zero(3 * BLOCK, BLOCK)
    world.write(8 * BLOCK, fill(4))
    world.zero(8 * BLOCK, BLOCK, trim=True)
    world.cut()
    world.write(0, fill(5))
    world.write(50 * BLOCK, fill(5))
    return world
