"""A small journal on a simulated disk, to be written, damaged and opened again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.journal.format import SEGMENT_HEADER_BYTES, WRITE, Record
from duplexd.journal.recover import Position, Tail, Walk
from duplexd.journal.segment import Ring
from duplexd.journal.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.sim.disk import SimDisk

DIRECTORY = "/state/journal"
CONTROLLER = bytes(range(16))
SEGMENT = SEGMENT_HEADER_BYTES + 2048
START = Position(0, 0, 1, SEGMENT_HEADER_BYTES)


class Found(NamedTuple):
    """What an opened journal holds."""

    ring: Ring
    records: list[Record]
    payloads: list[bytes]
    tail: Tail

    @property
    def sequences(self) -> list[int]:
        return [record.sequence for record in self.records]

    def writer(self) -> Writer:
        return Writer(self.ring, self.tail.sequence, self.tail.chain)


def new_ring(disk: SimDisk, segments: int = 4, segment_size: int = SEGMENT) -> Ring:
    """A ring with one live segment; the rest are spare."""
    disk.make_directory(DIRECTORY)
    ring = Ring(disk, DIRECTORY, CONTROLLER, segment_size, segments)
    ring.live.append(ring.grow())
    while ring.can_grow():
        ring.spares.append(ring.grow())
    return ring


def new_writer(disk: SimDisk, segments: int = 4, segment_size: int = SEGMENT) -> Writer:
    return Writer(new_ring(disk, segments, segment_size), 0, 0)


def append(writer: Writer, payloads: Iterable[bytes]) -> list[int]:
    """One batch of WRITEs; their numbers."""
    numbers = [
        writer.append(WRITE, 1, 4096 * place, len(data), data, 0, 1_000_000 + place)
        for place, data in enumerate(payloads)
    ]
    writer.write()
    return numbers


def existing(disk: SimDisk, controller: bytes = CONTROLLER) -> Ring:
    """The ring as a new process finds it, after the old one was killed."""
    disk.crash(power=False)
    ring = Ring(disk, DIRECTORY, controller, SEGMENT, 4)
    ring.open_existing()
    return ring


def reopen(disk: SimDisk, start: Position = START) -> Found:
    """Walk a journal that a killed process left."""
    walk = Walk(existing(disk), start)
    found = [(bytes(buffer[record.payload_start : record.end]), record) for buffer, record in walk]
    return Found(
        walk.ring,
        [record for _, record in found],
        [data for data, _ in found],
        walk.close(),
    )


def path(slot: int) -> str:
    return f"{DIRECTORY}/{slot:04d}.seg"


def patch(disk: SimDisk, name: str, offset: int, data: bytes) -> None:
    """Change a file behind everybody's back, durably."""
    disk.crash(power=False)
    file = disk.open(name)
    file.write(offset, data)
    file.sync()
    file.close()


def flip(disk: SimDisk, name: str, offset: int, bit: int = 0) -> None:
    patch(disk, name, offset, bytes([disk.read_file(name)[offset] ^ (1 << bit)]))
