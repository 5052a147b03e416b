"""The parts of the engine below the controller, wired as it wires them, for tests of one of them.

Two DUPLEX pairs of one group on legs in memory, and a small journal on a simulated disk. There is
no recovery, no checkpoint, no follower and no task here, and workers are moved by hand: whatever
happens, happens in the test's own calls.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, WRITE, Change
from duplexd.core.admission import Admission
from duplexd.core.ledger import Ledger
from duplexd.core.markers import Attach, NewVolume
from duplexd.core.pair import Pair, PairChange
from duplexd.engine.apply import Executor
from duplexd.engine.cut_archive import CutArchive
from duplexd.engine.events import Events
from duplexd.engine.failures import Failures
from duplexd.engine.hung_disks import HungDisks
from duplexd.engine.leases import Leases
from duplexd.engine.timeline import Timeline
from duplexd.engine.volumes import Volumes
from duplexd.engine.write_path import WritePath
from duplexd.limits import EngineLimits
from duplexd.replication.leg_calls import LegCalls
from duplexd.units import KIB
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg
from tests.support.hand_workers import HandWorkers
from tests.support.memory_leg import MemoryLeg
from tests.support.prompt_workers import PromptWorkers
from tests.unit.engine.cores import HandClock, Peer
from tests.unit.journal.journals import DIRECTORY, new_writer

if TYPE_CHECKING:
    from duplexd.json_object import Json

SIZE = 1024 * KIB
NAMES = ("data", "wal")
SMALL = dataclasses.replace(
    EngineLimits(),
    inline_batch_bytes_max=8 * KIB,
    batch_bytes_max=32 * KIB,
    change_cost_bytes=72,
    shared_cost_max=16 * KIB,
    shared_piece_bytes=4 * KIB,
    turn_cost=8 * KIB,
    zero_bytes_first=1024 * KIB,
    zero_bytes_max=1024 * KIB,
    marker_reserve_bytes=4 * KIB,
    record_bytes_max=4 * KIB,
    region_bytes_min=64 * KIB,
)


class Parts:
    """`wanted_room` counts the batches that did not fit. `seen` are the events. Regions are open
    already, so that a first write needs no worker; `close_regions` undoes that.
    """

    def __init__(
        self, limits: EngineLimits = SMALL, segment_bytes: int = 128 * KIB, segments: int = 4
    ) -> None:
        self.disk = SimDisk()
        self.clock = HandClock(self.disk)
        self.workers = HandWorkers()
        self.writer = writer = new_writer(self.disk, segments, segment_bytes)
        self.ledger = Ledger(limits)
        self.volumes = volumes = Volumes()
        self.executor = Executor(
            writer,
            volumes.group_of,
            HungDisks(volumes.by_number, LegCalls(self.workers)),
            PromptWorkers(),
            self.workers,
            limits.record_bytes_max,
        )
        self.timeline = timeline = Timeline(
            writer, self.ledger, volumes.by_number, self.executor, self.workers, self.clock
        )
        self.events = Events(self.clock)
        self.seen: list[Json] = []
        self.events.listeners.append(self.seen.append)
        self.archive = CutArchive("alpha", self.ledger, volumes, self.events, limits)
        self.failures = Failures(timeline, volumes, self.archive, self.events)
        self.admission = admission = Admission()
        self.wanted_room = 0
        self.write_path = WritePath(timeline, admission, self._want_room, self.clock, limits)
        self.leases = Leases(timeline, self.write_path, self.clock, self.events, limits)
        timeline.consequences = self.failures.after
        timeline.on_rest = self.write_path.kick
        timeline.on_failed.append(lambda _why: self.write_path.fail(errno.EIO))
        admission.on_open = self.write_path.kick_soon
        self.peer = Peer()
        self.images: dict[str, tuple[MemoryLeg, MemoryLeg]] = {}
        self.legs: dict[str, tuple[FaultLeg, FaultLeg]] = {}
        for name in NAMES:
            self._add(name)
        self.writer.write()  # what was staged
        volumes.groups = {"db": list(NAMES)}

    def _add(self, name: str) -> None:
        number = self.ledger.next_id()
        self.timeline.append(NewVolume(number, name, SIZE))
        images = MemoryLeg(SIZE, f"/a/{name}.img"), MemoryLeg(SIZE, f"/b/{name}.img")
        primary, secondary = FaultLeg(images[0]), FaultLeg(images[1])
        pair = Pair(self.ledger.pairs[number], primary, secondary, "sync")
        pair.groups = ["db"]
        self.volumes.add(pair)
        self.timeline.append(Attach([number]))
        self.images[name], self.legs[name] = images, (primary, secondary)
        pair.regions.touch(0, SIZE)

    def _want_room(self) -> None:
        self.wanted_room += 1
        self.admission.hold("no room")

    def refuse_swaps(self) -> None:
        """As `on_primary_error = "refuse"`."""
        self.executor.swaps = self.failures.swaps = False

    def close_regions(self) -> None:
        """As after a start: the first change of a region has to open it."""
        for pair in self.volumes.all():
            pair.regions.touched.clear()

    # ---------------------------------------------------------------------------- what clients do

    def pair(self, name: str = "data") -> Pair:
        return self.volumes.by_name[name]

    def change(
        self,
        name: str,
        offset: int,
        data: bytes | bytearray | memoryview = b"",
        kind: int = WRITE,
        length: int = 0,
        fua: bool = False,
        peer: Peer | None = None,
    ) -> PairChange:
        """One change, not submitted."""
        client = peer or self.peer
        size = length or len(data)
        return PairChange(client, 0, self.pair(name), kind, offset, size, data, fua)

    def submit(self, *changes: PairChange) -> None:
        """Submit changes of one wake-up."""
        self.write_path.submit(list[Change](changes))

    def send(
        self,
        name: str,
        offset: int,
        data: bytes | bytearray,
        fua: bool = False,
        peer: Peer | None = None,
    ) -> PairChange:
        """Submit one WRITE."""
        change = self.change(name, offset, data, fua=fua, peer=peer)
        self.submit(change)
        return change

    def flush(self) -> Change:
        """Submit a FLUSH."""
        change = self.change("data", 0, kind=FLUSH)
        self.write_path.flush(change)
        return change

    def answered(self, change: Change) -> bool:
        return any(answer is change for answer in self.peer.answers)

    # ------------------------------------------------------------------------------- what is there

    def content(self, name: str, offset: int, length: int) -> tuple[bytes, bytes]:
        """Of the primary, of the secondary."""
        primary, secondary = self.images[name]
        end = offset + length
        return bytes(primary.data[offset:end]), bytes(secondary.data[offset:end])

    def named(self, event: str) -> list[Json]:
        return [entry for entry in self.seen if entry["event"] == event]

    def fail_journal(self, operation: str, error: int = errno.EIO, times: int | None = 1) -> None:
        self.disk.fail(DIRECTORY, error, operation=operation, times=times)


async def turns(count: int = 20) -> None:
    """Let the loop run for a while."""
    for _ in range(count):
        await asyncio.sleep(0)
