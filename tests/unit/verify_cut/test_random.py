"""Random histories: all that is true is confirmed, what can be known is known to the byte, and no
wrong byte of it passes.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.verify_cut.report import CONFIRMED, FOUND, REFUTED
from tests.unit.verify_cut.world import SIZE, World, flip, only, poke, verify

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """For each byte: whether the journal still has what it was at the cut, and whether it changed
    since.
    """

    def __init__(self, blank: bool) -> None:
        self.known_by_journal = bytearray(b"\1" * SIZE if blank else bytes(SIZE))
        self.changed = bytearray(SIZE)
        self.writes: list[
            tuple[int, int, int, bool]
        ] = []  # number, offset, length, known_by_journal

    def cut(self, first: int, blank: bool) -> None:
        for number, offset, length, known_by_journal in self.writes:
            if number >= first:
                self.known_by_journal[offset : offset + length] = bytes([known_by_journal]) * length
            elif blank:
                raise AssertionError

    def known(self, place: int) -> bool:
        return bool(self.known_by_journal[place]) or not self.changed[place]


def history(world: World, rng: Random, model: Model, changes: int, after: bool) -> None:
    for _ in range(changes):
        offset = rng.randrange(SIZE - 1)
        length = min(rng.choice([1, 100, 512, 4096, 9000]), SIZE - offset)
        kind = rng.randrange(6)
        if kind == 0:
            number = world.zero(offset, length)
        elif kind == 1:
            number = world.zero(offset, length, trim=True)
        else:
            number = world.write(offset, rng.randbytes(length))
        if after:
            model.changed[offset : offset + length] = b"\1" * length
        else:
            model.writes.append((number, offset, length, kind != 1))


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_are_checked_to_the_byte(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    blank = seed % 3 == 0
    world, model = World(tmp_path, segments=30), Model(blank)
    if blank:
        world.attach()
    else:
        old = rng.randbytes(SIZE)
        for leg in (world.primary, world.secondary):
            poke(leg, 0, old)
    history(world, rng, model, rng.randrange(1, 120), after=False)
    world.cut()
    history(world, rng, model, rng.randrange(60), after=True)
    world.save_checkpoint()
    if not blank:
        while (
            len(world.ring.live) > 1
            and world.ring.live[1].first <= world.sequence
            and rng.random() < 0.5
        ):
            world.drop_oldest()
    model.cut(world.ring.oldest, blank)
    report = verify(tmp_path, world)
    row = only(report).volumes[0]
    known = sum(
        1
        for known_by_journal, changed in zip(model.known_by_journal, model.changed, strict=True)
        if known_by_journal or not changed
    )
    assert (report.outcome, only(report).record, only(report).contradictions) == (
        CONFIRMED,
        FOUND,
        [],
    )
    assert (row.by_journal_bytes, row.checked_bytes) == (model.known_by_journal.count(1), known)
    for _ in range(8):
        place = rng.randrange(SIZE)
        flip(world.secondary, place)
        assert verify(tmp_path, world).outcome == (REFUTED if model.known(place) else CONFIRMED)
        flip(world.secondary, place)
