"""A batch: the journal first, then the legs; long writes in parts."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import TRIM, WRITE, ZERO, Change
from duplexd.core.pair import Pair
from duplexd.core.pair_states import DUPLEX
from duplexd.engine.apply import Batch, parts, perform, record_bytes
from duplexd.limits import RECORD_BYTES_MAX
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg
from tests.unit.engine.cores import Peer
from tests.unit.journal.journals import append, new_writer, path, reopen

if TYPE_CHECKING:
    from duplexd.journal.writer import Writer

SIZE = 1 << 20


class Bench:
    """Two DUPLEX pairs of one group, on legs in memory, and a journal."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.writer: Writer = new_writer(self.disk, segment_size=1 << 16)
        self.pairs = [Pair(1, "data", SIZE), Pair(2, "wal", SIZE)]
        self.images = {pair.name: (MemoryLeg(SIZE), MemoryLeg(SIZE)) for pair in self.pairs}
        self.legs: dict[str, tuple[FaultLeg, FaultLeg]] = {}
        for pair in self.pairs:
            pair.state = DUPLEX
            self.legs[pair.name] = tuple(FaultLeg(image) for image in self.images[pair.name])  # type: ignore[assignment]
            pair.set_legs(*self.legs[pair.name], "sync")

    def change(
        self, number: int, offset: int, data: bytes, kind: int = WRITE, length: int = 0
    ) -> Change:
        return Change(Peer(), 0, self.pairs[number], kind, offset, length or len(data), data)

    def perform(self, changes: list[Change], regions: dict[int, list[int]] | None = None) -> Batch:
        batch = Batch(changes, regions or {}, 0)
        perform(batch, self.writer, lambda _pair: set(self.pairs))
        return batch

    def content(self, name: str, offset: int, length: int) -> list[bytes]:
        return [bytes(image.data[offset : offset + length]) for image in self.images[name]]


def test_every_change_gets_a_number_and_reaches_both_legs() -> None:
    bench = Bench()
    changes = [
        bench.change(0, 0, b"one"),
        bench.change(1, 8, b"two"),
        bench.change(0, 0, b"", ZERO, 2),
    ]
    batch = bench.perform(changes)
    assert [change.sequence for change in changes] == [1, 2, 3]
    assert (batch.failures, batch.primary_errors) == ([], [])
    assert bench.content("data", 0, 3) == [b"\0\0e"] * 2
    assert bench.content("wal", 8, 3) == [b"two"] * 2


def test_a_journal_that_refuses_leaves_the_legs_alone() -> None:
    bench = Bench()
    bench.disk.fail(path(0), errno.EIO, operation="writev")
    with pytest.raises(OSError, match="error"):
        bench.perform([bench.change(0, 0, b"lost")])
    assert all(leg.calls["write"] == 0 for legs in bench.legs.values() for leg in legs)


def test_new_regions_are_durable_before_a_leg_is_touched() -> None:
    bench = Bench()
    unsynced: list[int] = []
    for legs in bench.legs.values():
        for leg in legs:
            leg.delay = lambda _operation: unsynced.append(bench.disk.unsynced(path(0)))
    batch = bench.perform([bench.change(0, 0, b"x")], {1: [0]})
    assert batch.regions_sequence == 1
    assert unsynced
    assert set(unsynced) == {0}
    assert bench.writer.synced == 2


def test_behind_a_failed_secondary_its_group_gets_nothing_more() -> None:
    bench = Bench()
    bench.legs["data"][1].fail("write", errno.EIO)
    batch = bench.perform(
        [bench.change(1, 0, b"before"), bench.change(0, 0, b"fails"), bench.change(1, 0, b"after!")]
    )
    (failure,) = batch.failures
    assert (failure.pair.name, failure.sequence, failure.torn) == ("data", 2, False)
    assert bench.content("data", 0, 5) == [b"fails", bytes(5)]
    assert bench.content("wal", 0, 6) == [b"after!", b"before"]


@pytest.mark.parametrize(("healable", "torn"), [(True, False), (False, True)])
def test_what_a_torn_write_left_is_healed_from_the_primary(healable: bool, torn: bool) -> None:
    bench = Bench()
    bench.perform([bench.change(0, 0, b"a" * 9000)])
    bench.legs["data"][1].tear(errno.EIO, times=1 if healable else None)
    (failure,) = bench.perform([bench.change(0, 0, b"b" * 9000)]).failures
    assert failure.torn == torn
    assert bench.content("data", 0, 9000)[0] == b"b" * 9000
    assert (bench.content("data", 0, 9000)[1] == b"a" * 9000) == healable


def test_a_primary_that_fails_is_told_with_its_error_and_the_rest_goes_on() -> None:
    bench = Bench()
    bench.legs["data"][0].fail("write", errno.ENOSPC, times=1)
    changes = [bench.change(0, 0, b"fails"), bench.change(0, 100, b"goes")]
    batch = bench.perform(changes)
    assert [change.error for change in changes] == [errno.ENOSPC, 0]
    assert [change for change, _ in batch.primary_errors] == [changes[0]]


def test_record_bytes_is_what_the_journal_grows_by() -> None:
    bench = Bench()
    changes = [bench.change(0, 0, b"x" * 1000), bench.change(0, 0, b"", TRIM, 4096)]
    before = bench.writer.position
    bench.perform(changes)
    assert bench.writer.position - before == record_bytes(changes)


# ---------------------------------------------------------------------------------------------------------------- long writes


@pytest.mark.parametrize("length", [1, RECORD_BYTES_MAX])
def test_a_write_that_fits_is_one_record(length: int) -> None:
    change = Change(Peer(), 0, Pair(1, "data", 8 << 20), WRITE, 0, length, bytes(length))
    assert parts(change) == [change]


def test_a_long_zero_is_one_record() -> None:
    change = Change(Peer(), 0, Pair(1, "data", 8 << 20), ZERO, 0, 8 << 20)
    assert parts(change) == [change]


def test_a_longer_write_is_several_records_and_one_answer() -> None:
    peer, data = Peer(), bytes(range(256)) * ((2 * RECORD_BYTES_MAX + 4096) // 256)
    whole = Change(peer, 7, Pair(1, "data", 8 << 20), WRITE, 4096, len(data), data, fua=True)
    pieces = parts(whole)
    assert [piece.length for piece in pieces] == [RECORD_BYTES_MAX, RECORD_BYTES_MAX, 4096]
    assert [piece.offset for piece in pieces] == [
        4096,
        4096 + RECORD_BYTES_MAX,
        4096 + 2 * RECORD_BYTES_MAX,
    ]
    assert b"".join(bytes(piece.data) for piece in pieces) == data
    assert all(piece.fua for piece in pieces)
    for number, piece in enumerate(pieces, 11):
        piece.sequence = number
        assert peer.answers == []
        piece.error = errno.EIO if number == 12 else 0
        piece.client.finished(piece)
    assert peer.answers == [whole]
    assert (whole.sequence, whole.error) == (13, errno.EIO)


def test_the_journal_of_a_batch_is_read_back_as_it_was_given() -> None:
    disk = SimDisk()
    append(new_writer(disk), [b"first", b"second"])
    assert reopen(disk).payloads == [b"first", b"second"]
