"""A pair, in two halves: what the journal recorded, and what exists only while the daemon runs.

`PairRecord` is rebuilt from the checkpoint and the markers after it; only `Ledger` writes it, so
one file decides what a restart will find. `Pair` exists while the images are open: it is the volume
that the NBD server serves. It shows the fields of the record read-only, so that code can ask one
object and cannot change a recorded field by accident.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.backend import Change
from duplexd.core.change_map import ChangeMap
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.core.regions import DirtyRegions
from duplexd.core.scrub_state import Scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.backend import Reader
    from duplexd.core.change_history import ChangeHistory
    from duplexd.core.cut import Cut
    from duplexd.core.drill_record import Drill
    from duplexd.core.horizon import Horizon
    from duplexd.core.image_record import Image
    from duplexd.core.leg_differences import Differences
    from duplexd.core.rollback_state import Rollback
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits


ONLY_THE_MAP = 1 << 60  # in `tracked_bytes`: the journal lacks changes, so copy by map


class Lacks(NamedTuple):
    """The changes that are in the journal and not on a primary: how many, from the record `first`
    to `last`, and how many bytes they touch.
    """

    records: int = 0
    first: int = 0
    last: int = 0
    nbytes: int = 0


class Halfway(NamedTuple):
    """Why the secondary of a volume that is not served is not at a number, and what it may lack of
    the changes after `applied`. It may hold any of these, or part of one.
    """

    why: str
    missed: ChangeMap


class PairRecord:
    """What the journal recorded of a pair. Written by `Ledger` alone.

    `applied` is the number up to which the secondary holds every change of this volume, and none
    after it; of a pair that mirrors it is the tail, filled in when it stops. `usable`: whether
    recovery would bring the secondary to exactly `applied`; not during a first copy, after a power
    cut until both are equal, or after a torn write. `rebuildable`: see `rebuilding.py`.
    `changed`: grains changed since the cut (SUSPENDED), or still to copy (PENDING).
    `primary_at`: the number up to which the primary holds every change durably; that of the
    checkpoint, unless the primary was not there since.
    `secondary_at`: the same of the secondary; `applied` is ahead of it while the daemon runs.
    `swapped`: the image that the configuration calls `secondary` is the primary. `adopted`: another
    image has become the primary since the cut, so the journal does not lead from there to now.
    `unrecorded`: the number since the cut at which it was found to have changed without records; 0
    if it was not. Up to there the journal leads.
    `failed_us`: when a failure suspended it; the cut has the time of what is there, which may be
    earlier.
    `suspended_us`: when the pair became SUSPENDED; a resync that did not end, a failure meanwhile
    and a later cut leave it as it is. 0: it is not at a cut.
    `differs`: where the legs are known to differ. `scrub`: when they were compared last.
    `last_cut`: the latest that somebody asked for, whether it is at it or not; `good_cut_us`: the
    time of the latest before that one that is consistent. `history`: what changed between its cuts
    that are remembered; None if there is none. `readers`: who reads the secondary at its
    cut, by name, and since when (us since 1970), see `core/readers.py`. `rollback`, `drill`: the
    last one of each, see `core/rollback_state.py` and `core/drill_record.py`. `horizon`: how far a
    delayed secondary may go while it is DUPLEX; None where that is not limited. `lineage`: see
    `core/lineage.py`; 0: not known. `grown`: when the volume grew; `growing`: how
    long its images may be because it was about to, 0: no longer than it; see `core/growth.py`.
    """

    __slots__ = (
        "adopted", "applied", "changed", "copies", "copies_then", "cut", "differs", "drill",
        "failed_us", "good_cut_us", "growing", "grown", "history", "horizon", "id", "last_cut",
        "limits", "lineage", "name",
        "primary_at", "primary_image", "readers", "reason", "rebuildable", "regions", "removed",
        "rollback", "scrub", "secondary_at", "secondary_image", "secondary_path", "size", "staged",
        "staging", "state", "suspended_us", "swapped", "swaps", "tracked_bytes",
        "unrecorded", "usable",
    )  # fmt: skip

    def __init__(self, number: int, name: str, size: int, limits: EngineLimits) -> None:
        self.id = number
        self.name = name
        self.size = size
        self.limits = limits
        self.grown: tuple[tuple[int, int], ...] = ()  # at this number, from so many bytes
        self.growing = 0
        self.removed = False  # from the configuration
        self.state = SIMPLEX
        self.reason = ""
        self.usable = False
        self.rebuildable = False
        self.applied = 0
        self.primary_at = 0
        self.secondary_at = 0
        self.swapped = False
        self.swaps = 0  # that were folded, of this run
        self.copies = 0  # the same: begun
        self.copies_then = 0  # and of these, before the last swap
        self.cut: Cut | None = None
        self.last_cut: Cut | None = None
        self.good_cut_us = 0
        self.changed: ChangeMap | None = None
        self.tracked_bytes = 0  # written since the cut, counting each write
        self.failed_us = 0
        self.suspended_us = 0
        self.adopted = False
        self.horizon: Horizon | None = None
        self.unrecorded = 0
        self.history: ChangeHistory | None = None
        self.readers: dict[str, int] = {}
        self.rollback: Rollback | None = None
        self.drill: Drill | None = None
        self.lineage = 0
        self.differs: Differences | None = None
        self.scrub = Scrub()
        self.staging = ""  # UNCOMMITTED, or the job whose staging log may not be applied yet
        self.staged = 0  # how many records that log has
        self.regions = DirtyRegions(size, limits.region_bytes_min, limits.regions_max)
        self.secondary_path = ""  # "" if that is not known
        self.primary_image: Image | None = None  # by role; as the last checkpoint recorded them
        self.secondary_image: Image | None = None

    def secondary_is_at(self, number: int) -> None:
        """It holds exactly this, or will after a restart."""
        self.applied = self.secondary_at = number

    def leave_cut(self) -> None:
        """What was kept because of its cut is not needed any more."""
        self.cut, self.changed, self.tracked_bytes, self.staging = None, None, 0, ""
        self.adopted, self.unrecorded, self.failed_us, self.suspended_us = False, 0, 0, 0
        self.rebuildable = False
        self.readers.clear()

    def size_at(self, sequence: int) -> int:
        """How many bytes the volume had at a number."""
        return next((before for at, before in self.grown if sequence < at), self.size)

    def new_map(self) -> ChangeMap:
        """An empty change map of this volume."""
        limits = self.limits
        return ChangeMap(self.size, limits.change_grain_bytes_min, limits.change_grains_max)

    def full_map(self) -> ChangeMap:
        """A change map with every grain set, for when it is unknown what changed."""
        everything = self.new_map()
        everything.set_all()
        return everything

    def merged(self, more: ChangeMap) -> ChangeMap:
        """A new map with `changed` and `more`. Raises ValueError if `more` is of another volume;
        one that was made before this one grew is not.
        """
        both = self.new_map()
        both.merge(more)
        if self.changed is not None:
            both.merge(self.changed)
        return both

    def is_cut_after(self, sequence: int) -> bool:
        """Whether the latest cut that is remembered for what changed lies after that number. One of
        before would count what changed in between for nothing.
        """
        return self.history is not None and self.history.cuts[-1].sequence > sequence

    @property
    def tracks(self) -> bool:
        """Whether changes are noted: in `changed`, or in `history`."""
        return self.history is not None or self.lags

    @property
    def lags(self) -> bool:
        """Whether changes are noted in `changed`, because the secondary does not get them."""
        return self.state == SUSPENDED or (self.state == PENDING and self.usable)

    def limit(self, tail: int) -> int:
        """The last number that may reach the secondary."""
        if self.state == SUSPENDED and self.cut is not None:
            return self.applied if self.rebuildable else self.cut.sequence
        if self.state == DUPLEX and self.horizon is not None:
            return min(tail, self.horizon.number)
        return tail


class Pair:
    """A volume and its legs, while it is served; implements `backend.Volume`.

    `mirrors`: DUPLEX in sync mode, changes go to both legs in the same batch. `tracks`: see
    `PairRecord`; these and `size` are kept here because they are asked for often, and brought up to
    date (`refresh`) by the timeline after each marker.
    """

    __slots__ = (
        "clients", "connections", "copied_bytes", "copy_done", "copy_total", "failed", "failing",
        "groups", "halfway", "has_lost_writes", "id", "lacks", "mirrors", "mode", "name",
        "not_grown", "primary", "primary_dirty", "read_cached", "record", "regions",
        "repaired_bytes", "resync_error", "returning", "secondary", "secondary_dirty", "size",
        "tracks", "uncompared",
    )  # fmt: skip

    read_cached: Callable[[int, memoryview], bool]
    has_lost_writes: Callable[[], bool]

    def __init__(self, record: PairRecord, primary: Leg, secondary: Leg | None, mode: str) -> None:
        self.record = record
        self.id = record.id
        self.name = record.name
        self.size = record.size
        self.regions = record.regions
        self.connections = 0
        self.clients: dict[Reader, str] = {}  # those connected, and whose they are, for people
        self.failing: dict[str, int] = {}  # kept by the NBD server
        self.groups: list[str] = []
        self.failed = ""  # why it is not served: neither of its images is good and current
        self.halfway: Halfway | None = None  # its secondary, while it is not served
        self.lacks: Lacks | None = None  # its primary, while it is not served; None: not known
        self.returning = False  # a command is about to serve it again: no swap now
        self.not_grown = ""  # why it has fewer bytes than the configuration says
        self.repaired_bytes = 0  # of bad ranges of the primary, written anew from the secondary
        self.primary_dirty = False  # written to since its last sync
        self.secondary_dirty = False
        # Not served since an unclean stop: a change whose record was lost may be on its secondary
        self.uncompared = False
        self.copied_bytes = 0  # by the last copy or resync
        self.copy_done = 0
        self.copy_total = 0
        self.resync_error: str | None = None  # why the last copy or resync failed
        self.set_legs(primary, secondary, mode)

    def set_legs(self, primary: Leg, secondary: Leg | None, mode: str) -> None:
        """Use these images, for example after a reload that adds a secondary."""
        self.primary = primary
        self.secondary = secondary
        self.mode = mode
        self.read_cached = primary.read_cached
        self.has_lost_writes = primary.has_lost_writes
        self.refresh()

    def refresh(self) -> None:
        """Bring `mirrors`, `tracks` and `size` up to date after a change of state.

        A volume that is not served gets no changes, so a secondary that holds all holds them still.
        """
        if not self.record.usable:
            self.halfway, self.uncompared = None, False  # the journal says more
        self.size = self.record.size
        duplex = self.record.state == DUPLEX and self.halfway is None
        self.mirrors = duplex and self.mode == "sync" and self.secondary is not None
        self.tracks = self.record.tracks

    # ------------------------------------------------------------------------ as an NBD export

    @property
    def of(self) -> str:
        """See `Volume`, as the next ones."""
        return self.name

    @property
    def counted_as(self) -> str:
        """Its own name."""
        return self.name

    @property
    def read_only(self) -> bool:
        """It can be written to; who may do so is another matter."""
        return False

    def bitmaps(self) -> Mapping[str, str]:
        """None: what changes while it is read is of no use to who copies it."""
        return {}

    @property
    def lineage(self) -> str:
        """See `Volume`."""
        return f"{self.record.lineage:x}" if self.record.lineage else ""

    @property
    def closed(self) -> str:
        """Why no client may use it for now: a rollback or restore is not finished; "" if none."""
        begun = self.record.rollback
        return begun.closed if begun is not None else ""

    def closed_to(self, name: str) -> str:
        """See `Volume`: but to the client that restores it."""
        begun = self.record.rollback
        return "" if begun is None or begun.admits(self.name, name) else begun.closed

    def joined(self, reader: Reader, peer: str) -> None:
        """A client of a volume keeps no secondary where it is, but others from a rollback."""
        self.connections += 1
        self.clients[reader] = peer

    def left(self, reader: Reader) -> None:
        """See `joined`."""
        self.connections -= 1
        self.clients.pop(reader, None)

    # ------------------------------------------------------------------------ what is recorded

    @property
    def state(self) -> str:
        """SIMPLEX, PENDING, DUPLEX or SUSPENDED."""
        return self.record.state

    @property
    def reason(self) -> str:
        """Why it is in its state; "" where the state needs no reason."""
        return self.record.reason

    @property
    def usable(self) -> bool:
        """Whether the secondary holds exactly the changes up to `applied`. If it does not, but the
        record says so, a start can still bring it to a number from the journal.
        """
        return self.record.usable and self.halfway is None and not self.uncompared

    @property
    def can_roll_forward(self) -> bool:
        """Whether the journal, where it reaches back to `applied`, brings the secondary to the last
        change. While there is a primary, one that failed on that way is copied from it instead.
        """
        return self.usable or (self.record.rebuildable and bool(self.failed))

    @property
    def applied(self) -> int:
        """The last number that the secondary holds; of a pair that mirrors, ask the timeline."""
        return self.record.applied

    @property
    def cut(self) -> Cut | None:
        """The cut it is suspended at, or leaves by a resync."""
        return self.record.cut

    @property
    def changed(self) -> ChangeMap | None:
        """What a resync would have to copy."""
        return self.record.changed

    def limit(self, tail: int) -> int:
        """The last number that may reach the secondary."""
        return self.record.limit(tail)

    def new_map(self) -> ChangeMap:
        """An empty change map of this volume."""
        return self.record.new_map()

    # ----------------------------------------------------------------------------- its images

    @property
    def copy_of(self) -> Leg:
        """The secondary of a pair that has one."""
        if self.secondary is None:
            raise RuntimeError(f"{self.name} has no secondary")
        return self.secondary

    @property
    def is_delayed(self) -> bool:
        """Whether the secondary follows, but some time behind."""
        return self.record.state == DUPLEX and self.mode == "delayed"

    @property
    def can_lead(self) -> bool:
        """Whether the secondary may become the primary now, without anybody being asked."""
        return self.mirrors and self.record.differs is None

    def mirror_has(self, offset: int, length: int) -> bool:
        """Whether the secondary holds what the volume holds there."""
        differs = self.record.differs
        return self.mirrors and not (differs is not None and differs.overlaps(offset, length))

    @property
    def can_trim(self) -> bool:
        """Whether a trim does the same to both legs."""
        return self.primary.can_punch and (self.secondary is None or self.secondary.can_punch)

    @property
    def can_zero_fast(self) -> bool:
        """See `Volume`: a hole takes no time, whatever its length."""
        return self.can_trim

    def read_mirror(self, offset: int, buffer: memoryview) -> bool:
        """Read from the secondary; False if it can't be read, or may lack a change.

        It is current only while it gets every change in the same batch: before and after.
        """
        if not self.mirror_has(offset, len(buffer)) or self.secondary is None:
            return False
        try:
            self.secondary.read_into(offset, buffer)
        except OSError:
            return False
        return self.mirrors

    def close(self) -> None:
        """Close the images. Does not sync."""
        self.primary.close()
        if self.secondary is not None:
            self.secondary.close()


def refresh(pairs: Iterable[Pair]) -> None:
    """`Pair.refresh` for each."""
    for pair in pairs:
        pair.refresh()


class PairChange(Change):
    """A change of a volume that is a `Pair`: what the engine makes of every `Change`.

    The NBD server knows volumes by the protocol of `backend.py` alone; each one that it can name
    came from the engine, so its changes are of pairs. This class says so to the type checker.
    """

    __slots__ = ()

    volume: Pair
