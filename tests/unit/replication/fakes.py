"""What replication asks of the engine (`replication/seams.py`), small: a journal in memory, markers
that are folded at once, secondaries that fail on demand. No batch runs unless a test begins one,
and workers call at once, so that whatever happens, happens in the order of the test's own lines.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.backend import WRITE
from duplexd.core import freeze
from duplexd.core.ledger import Ledger, Place
from duplexd.core.markers import Attach, Copy, Detach, Equal, MakeCut, NewVolume, encode
from duplexd.core.pair import Pair, refresh
from duplexd.core.pair_states import FIRST_COPY
from duplexd.errors import DuplexdError
from duplexd.limits import EngineLimits
from duplexd.replication.leg_calls import LegCalls
from duplexd.runtime.threads import Workers
from duplexd.units import KIB, MIB
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg
from tests.unit.journal.journals import new_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.markers import Marker

T = TypeVar("T")

SIZE = 1 * MIB
BLOCK = 4 * KIB
GRAIN = 64 * KIB
LIMITS = dataclasses.replace(
    EngineLimits(),
    record_bytes_max=64 * KIB,
    shared_piece_bytes=64 * KIB,
    follower_chunk_bytes=64 * KIB,
    staged_piece_bytes_max=64 * KIB,
    copied_mark_bytes=256 * KIB,
    copy_ahead_bytes_max=128 * KIB,
    staging_file_bytes_max=256 * KIB,
    follower_final_bytes=32 * KIB,
    async_lag_bytes_max=128 * KIB,
)


class FakeTimeline:
    """See `seams.Timeline`. `markers` are those that were appended. `busy`: a batch has the
    journal. `on_durable` is called by `durable`, which is the moment a power cut may come before.
    """

    def __init__(self, disk: SimDisk, segments: int = 8) -> None:
        self.writer = new_writer(disk, segments, 256 * KIB)
        self.ledger = Ledger(LIMITS)
        self.failed = ""
        self.on_written: list[Callable[[], None]] = []
        self.markers: list[Marker] = []
        self.pairs: dict[int, Pair] = {}
        self.busy = False
        self.on_durable: Callable[[], None] = _nothing
        self.refusal = 0  # an errno that markers are refused with
        self.refused: list[Marker] = []
        self._before_batch = 0
        self._steps: list[Callable[[], None]] = []

    def now_us(self) -> int:
        return 1_795_000_000_000_000

    @property
    def written(self) -> int:
        return self.writer.written

    @property
    def performed(self) -> int:
        return self._before_batch if self.busy else self.writer.written

    @property
    def log_position(self) -> int:
        return self.writer.log_position

    def when_at_rest(self, call: Callable[[], None]) -> None:
        if self.busy:
            self._steps.append(call)
        else:
            call()

    async def at_rest(self, call: Callable[[], T]) -> T:
        rest = asyncio.Event()
        self.when_at_rest(rest.set)
        await rest.wait()
        return call()

    def append(self, marker: Marker) -> int:
        assert not self.busy, "a marker beside a batch"
        if self.failed:
            raise OSError(5, self.failed)
        self.ledger.check(marker)
        if self.refusal:
            self.refused.append(marker)
            raise OSError(self.refusal, "no room in the journal")
        sequence = self.writer.write_marker(encode(marker), 1)
        self.ledger.apply(Place(sequence, 1), marker)
        if isinstance(marker, Equal):
            for number in marker.volumes:
                self.ledger.advance(self.ledger.pairs[number], sequence)
        refresh(self.pairs.values())
        self.markers.append(marker)
        self._grew()
        return sequence

    async def durable(self, sequence: int | None = None) -> None:
        await asyncio.sleep(0)
        if self.failed:
            raise DuplexdError(self.failed)
        self.on_durable()

    def _grew(self) -> None:
        for listener in self.on_written:
            listener()

    # ----------------------------------------------------------------------- what clients do

    def begin(self, pair: Pair, offset: int, data: bytes) -> Callable[[], None]:
        """A batch of one WRITE: it is journaled, and on the primary once the result is called."""
        self.busy, self._before_batch = True, self.writer.written
        self._journal(pair, offset, data)

        def finish() -> None:
            pair.primary.write(offset, data)
            self.busy = False
            self._grew()
            while self._steps:
                self._steps.pop(0)()

        return finish

    def write(self, pair: Pair, offset: int, data: bytes) -> int:
        """A WRITE, done; its number."""
        self.begin(pair, offset, data)()
        return self.written

    def _journal(self, pair: Pair, offset: int, data: bytes) -> None:
        self.writer.append(WRITE, pair.id, offset, len(data), data, 0, 1)
        self.writer.write()
        if pair.tracks:
            self.ledger.track(pair.record, WRITE, offset, len(data))


class Frozen(NamedTuple):
    """A call of `seams.Freeze`."""

    members: set[str]
    failed: str
    at: int
    error: OSError
    unusable: set[str]
    missed: dict[str, ChangeMap]


class FakeFreeze:
    """See `seams.Freeze`: keeps its calls, and suspends."""

    def __init__(self, timeline: FakeTimeline) -> None:
        self._timeline = timeline
        self.calls: list[Frozen] = []

    def __call__(
        self,
        members: Iterable[Pair],
        failed: Pair | None,
        at: int,
        error: OSError,
        unusable: Iterable[Pair],
        missed: Mapping[Pair, ChangeMap],
    ) -> None:
        members, torn = list(members), list(unusable)
        self.calls.append(
            Frozen(
                {pair.name for pair in members},
                failed.name if failed is not None else "",
                at,
                error,
                {pair.name for pair in torn},
                {pair.name: changed for pair, changed in missed.items()},
            )
        )
        ids = iter(f"frozen-{len(self.calls)}-{number}" for number in range(9))
        for marker in freeze.plan(members, failed, at, str(error), torn, missed, lambda: next(ids)):
            self._timeline.append(marker)


class FakeCheckpointer:
    """See `seams.Checkpointer`. `lost` is what `sync_secondaries` answers; `meanwhile` is called in
    it, once.
    """

    def __init__(self) -> None:
        self.copying = asyncio.Lock()
        self.kept_from: list[int] = []
        self.synced: list[list[str]] = []
        self.lost: dict[Pair, OSError] = {}
        self.meanwhile: Callable[[], None] = _nothing

    def keep_from(self, number: int) -> None:
        self.kept_from.append(number)

    async def sync_secondaries(self, pairs: Sequence[Pair]) -> dict[Pair, OSError]:
        self.synced.append([pair.name for pair in pairs])
        for pair in pairs:
            pair.copy_of.sync()
        meanwhile, self.meanwhile = self.meanwhile, _nothing
        meanwhile()
        return self.lost


class FakeEmit:
    """See `seams.Emit`: keeps the events."""

    def __init__(self) -> None:
        self.seen: list[dict[str, object]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.seen.append({"event": event, **fields})

    def named(self, event: str) -> list[dict[str, object]]:
        return [entry for entry in self.seen if entry["event"] == event]


class InlineWorkers(Workers):
    """See `runtime.threads.Workers`: calls in the next turn of the loop. `held`, while set, keeps
    calls waiting; `burst` is raised, once, in place of the next call.
    """

    def __init__(self) -> None:
        self.held: asyncio.Event | None = None
        self.burst: Exception | None = None

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        _running.add(task := asyncio.ensure_future(self._do(call, done)))
        task.add_done_callback(_running.discard)

    async def _do(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        if self.held is not None:
            await self.held.wait()
        burst, self.burst = self.burst, None
        try:
            if burst is not None:
                raise burst
            result = call()
        except Exception as error:  # noqa: BLE001  the submitter of the call gets it
            done(None, error)
        else:
            done(result, None)

    def close(self) -> None:
        """Nothing is left."""


_running: set[asyncio.Task[None]] = set()


class FakeGates:
    """See `seams.Gates`: how often each is closed."""

    def __init__(self) -> None:
        self.closed: Counter[Pair] = Counter()

    def close_gates(self, pairs: Iterable[Pair]) -> None:
        self.closed.update(pairs)

    def open_gates(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            assert self.closed[pair] > 0
            self.closed[pair] -= 1


class FakeClock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def boot_id(self) -> str:
        return "boot"


class Legs(NamedTuple):
    """The images of a pair: what they hold, and how to let the secondary fail."""

    primary: MemoryLeg
    secondary: MemoryLeg
    faults: FaultLeg

    @property
    def equal(self) -> bool:
        return self.primary.data == self.secondary.data


class World:
    """A journal, and pairs in it; `world.legs[pair]` are its images."""

    def __init__(self, segments: int = 8) -> None:
        self.disk = SimDisk(1)
        self.timeline = FakeTimeline(self.disk, segments)
        self.freeze = FakeFreeze(self.timeline)
        self.checkpointer = FakeCheckpointer()
        self.emit = FakeEmit()
        self.workers = InlineWorkers()
        self.calls = LegCalls(self.workers)
        self.gates = FakeGates()
        self.clock = FakeClock()
        self.legs: dict[Pair, Legs] = {}

    def pair(self, name: str = "data", mode: str = "async") -> Pair:
        """A new pair, DUPLEX, both images zeroes."""
        ledger = self.timeline.ledger
        number = ledger.next_id()
        self.timeline.append(NewVolume(number, name, SIZE))
        primary, secondary = MemoryLeg(SIZE, f"/a/{name}"), MemoryLeg(SIZE, f"/b/{name}")
        faults = FaultLeg(secondary)
        pair = Pair(ledger.pairs[number], primary, faults, mode)
        self.legs[pair] = Legs(primary, secondary, faults)
        self.timeline.pairs[number] = pair
        self.timeline.append(Attach([number]))
        return pair

    def to_copy(self, name: str = "data", content: bytes = b"") -> Pair:
        """A pair that is PENDING: all of it is to be copied, nothing of it was."""
        pair = self.pair(name)
        self.legs[pair].primary.data[: len(content)] = content
        self.timeline.append(Detach([pair.id]))
        self.timeline.append(Copy({pair.id: pair.record.full_map()}, FIRST_COPY))
        return pair

    def refuse_markers(self, error: int) -> list[Marker]:
        """The journal refuses markers from now on; returns the list of those."""
        self.timeline.refusal = error
        return self.timeline.refused

    def take_markers(self) -> None:
        """The journal has room again."""
        self.timeline.refusal = 0

    def suspend(self, *pairs: Pair, cut_id: str = "cut") -> int:
        """Cut; the number of the cut."""
        number = self.timeline.append(MakeCut(cut_id, "", [pair.id for pair in pairs]))
        for pair in pairs:
            if pair.mode == "sync":
                self.timeline.ledger.advance(pair.record, number)
        return number


async def until(true: Callable[[], bool], turns: int = 2000) -> None:
    """Let the loop run until it is true; fails if it never is."""
    for _ in range(turns):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come true")


async def turns(count: int = 30) -> None:
    """Let the loop run for a while: whatever is going to happen has happened then."""
    for _ in range(count):
        await asyncio.sleep(0)


def _nothing() -> None:
    """Nobody looks."""
