"""The overlay of a clone on a real file, against a bytearray."""

from __future__ import annotations

import errno
import os
from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair import Pair, PairRecord
from duplexd.engine.overlay import Overlay, OverlayFiles
from duplexd.limits import EngineLimits
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.realfile import RealFile
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.backend import Extent

KIB = 1 << 10
BLOCK = 4 * KIB
SIZE = 256 * KIB


class Clone:
    """An overlay over a secondary of random bytes."""

    def __init__(
        self, directory: Path, limit: int = 1 << 30, limits: EngineLimits | None = None
    ) -> None:
        self.base = Random(7).randbytes(SIZE)
        self.image = MemoryLeg(SIZE, "/b/data.img")
        self.image.data[:] = self.base
        self.leg = FaultLeg(self.image)
        self.directory = directory / "clones"
        limits = limits or EngineLimits()
        pair = Pair(PairRecord(1, "data", SIZE, limits), self.leg, self.leg, "sync")
        files = OverlayFiles(RealDisk(), str(self.directory), limits)
        (file,) = files.make([SIZE])
        self.overlay = Overlay(pair, self.leg, file, files, limit)

    def read(self, offset: int = 0, length: int = SIZE) -> bytes:
        buffer = bytearray(b"\xee" * length)
        self.overlay.read(offset, memoryview(buffer))
        return bytes(buffer)

    def extents(self, offset: int = 0, length: int = SIZE) -> list[Extent]:
        return self.overlay.extents(offset, length, lambda _: False)


@pytest.mark.parametrize("seed", range(40))
def test_any_story_reads_as_on_a_disk_and_leaves_the_secondary_alone(
    seed: int, tmp_path: Path
) -> None:
    random, clone = Random(seed), Clone(tmp_path)
    model = bytearray(clone.base)
    for _ in range(120):
        offset = random.randrange(SIZE)
        length = min(random.choice([1, 511, BLOCK, 3 * BLOCK + 7, SIZE]), SIZE - offset)
        if random.random() < 0.5:
            offset = offset // BLOCK * BLOCK
        end = offset + length
        kind = random.choice(["write", "write", "zero", "allocate", "trim", "read"])
        if kind == "write":
            data = random.randbytes(length)
            clone.overlay.write(offset, data)
            model[offset:end] = data
        elif kind == "trim":
            clone.overlay.trim(offset, length)
            first, stop = -(-offset // BLOCK) * BLOCK, end // BLOCK * BLOCK
            model[first:stop] = bytes(max(stop - first, 0))
        elif kind == "read":
            assert clone.read(offset, length) == bytes(model[offset:end])
        else:
            clone.overlay.zero(offset, length, kind == "allocate")
            model[offset:end] = bytes(length)
    assert clone.read() == bytes(model)
    assert clone.image.data == clone.base
    assert clone.extents()[-1][0] + clone.extents()[-1][1] == SIZE
    for offset, length, is_data in clone.extents():
        assert is_data or not any(model[offset : offset + length])


def test_it_is_in_no_directory_and_what_a_killed_daemon_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "clones").mkdir()
    (tmp_path / "clones" / "overlay").write_bytes(b"left")
    clone = Clone(tmp_path)
    assert os.listdir(clone.directory) == []
    clone.overlay.write(0, b"x")
    assert clone.read(0, 1) == b"x"


def test_the_limit_is_met_before_anything_is_changed_and_zeroes_give_room_back(
    tmp_path: Path,
) -> None:
    clone = Clone(tmp_path, limit=2 * BLOCK)
    clone.overlay.write(100, b"a")
    clone.overlay.write(BLOCK, b"b" * BLOCK)
    with pytest.raises(OSError, match="limit") as met:
        clone.overlay.write(2 * BLOCK - 1, b"cc")
    assert met.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="limit"):
        clone.overlay.zero(2 * BLOCK, BLOCK, allocate=True)
    assert clone.read(2 * BLOCK - 1, 2) == b"b" + clone.base[2 * BLOCK : 2 * BLOCK + 1]
    clone.overlay.write(BLOCK, b"d" * BLOCK)  # in blocks that it has
    clone.overlay.zero(3 * BLOCK, BLOCK, allocate=False)  # takes none
    clone.overlay.trim(BLOCK, BLOCK)
    clone.overlay.write(2 * BLOCK, b"e")
    assert clone.overlay.map.data_bytes == 2 * BLOCK


@pytest.mark.parametrize("allocate", [False, True])
def test_zeroes_over_many_pieces_are_few_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocate: bool
) -> None:
    clone = Clone(tmp_path)
    for block in range(0, SIZE // BLOCK, 2):
        clone.overlay.write(block * BLOCK, b"a" * BLOCK)
    calls: list[tuple[int, int]] = []
    zero = RealFile.zero

    def counted(file: RealFile, offset: int, length: int, allocate: bool) -> None:
        calls.append((offset, length))
        zero(file, offset, length, allocate)

    monkeypatch.setattr(RealFile, "zero", counted)
    clone.overlay.zero(100, SIZE - 200, allocate)
    assert clone.read(100, SIZE - 200) == bytes(SIZE - 200)
    assert calls == [(BLOCK, SIZE - 2 * BLOCK)]
    clone.overlay.zero(BLOCK, BLOCK, allocate=False)
    assert len(calls) == 1 + allocate  # there was data only if it takes the room of data


def test_room_is_left_on_the_disk_for_the_journal(tmp_path: Path) -> None:
    clone = Clone(tmp_path, limits=EngineLimits(clone_free_bytes_min=1 << 60))
    with pytest.raises(OSError, match="no room for clones") as met:
        clone.overlay.write(0, b"x")
    assert met.value.errno == errno.ENOSPC
    assert clone.read() == clone.base


def test_a_secondary_that_cannot_be_read_fails_what_needs_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    clone = Clone(tmp_path)
    clone.overlay.write(0, b"a" * BLOCK)
    clone.leg.fail("read_into")
    assert clone.read(0, BLOCK) == b"a" * BLOCK
    clone.overlay.write(BLOCK, b"b" * BLOCK)
    with pytest.raises(OSError, match="Input/output"):
        clone.overlay.write(2 * BLOCK, b"c")  # of a part of a block
    clone.leg.heal()
    assert clone.read(2 * BLOCK, BLOCK) == clone.base[2 * BLOCK : 3 * BLOCK]


def test_holes_of_the_secondary_are_holes_of_the_clone(tmp_path: Path) -> None:
    disk, limits = RealDisk(), EngineLimits()
    image = disk.create(str(tmp_path / "data.img"), SIZE)
    image.write(8 * BLOCK, b"s" * (2 * BLOCK))
    pair = Pair(PairRecord(1, "data", SIZE, limits), image, image, "sync")
    files = OverlayFiles(disk, str(tmp_path / "clones"), limits)
    overlay = Overlay(pair, image, files.make([SIZE])[0], files, SIZE)
    overlay.write(BLOCK, b"a" * BLOCK)
    overlay.zero(9 * BLOCK, BLOCK, allocate=False)
    assert overlay.extents(0, 16 * BLOCK, lambda _: False) == [
        (0, BLOCK, False),
        (BLOCK, BLOCK, True),
        (2 * BLOCK, 6 * BLOCK, False),
        (8 * BLOCK, BLOCK, True),
        (9 * BLOCK, 7 * BLOCK, False),
    ]
    assert overlay.extents(0, SIZE, lambda found: len(found) >= 2)[0] == (0, BLOCK, False)
