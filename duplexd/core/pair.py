"""A pair: a volume, its two legs, and all that is known of how they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.core import votes
from duplexd.core.state import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.limits import REGION_BYTES_MIN, REGIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Change
    from duplexd.core.change_map import ChangeMap
    from duplexd.images.leg import Leg


class Cut:
    """A marker at one position of the sequence: what a secondary stands at.

    `state` is one of `core/votes.py`; a cut of this controller alone is CONSISTENT or VOID at once. `members` names the controllers that take it together.
    """

    __slots__ = (
        "chain",
        "crc",
        "grade",
        "group",
        "hold",
        "id",
        "members",
        "names",
        "sequence",
        "state",
        "tag",
        "time_us",
        "told",
        "why",
    )

    def __init__(
        self,
        cut_id: str,
        sequence: int,
        time_us: int,
        tag: str,
        state: str,
        group: str = "",
        members: Sequence[str] = (),
        grade: dict[str, Any] | None = None,
    ) -> None:
        self.id = cut_id
        self.sequence = sequence
        self.time_us = time_us
        self.tag = tag
        self.state = state
        self.group = group
        self.members = tuple(members)
        self.grade = grade  # what a canary found
        # Of this run only: its volumes, the verdict that was told, how long writes waited for it, the crc of its record and of the one before that
        self.names: list[str] = []
        self.told: str | None = None
        self.hold: dict[str, Any] | None = None
        self.crc: int | None = None
        self.chain: int | None = None
        self.why = ""  # which secondary's failure made it void, or made it at all

    @property
    def verdict(self) -> str | None:
        """What may be claimed of it; None while that is not known."""
        return votes.verdict(self.state)

    def pack(self) -> list[Any]:
        """For the checkpoint: the arguments that make it again."""
        return [
            self.id,
            self.sequence,
            self.time_us,
            self.tag,
            self.state,
            self.group,
            list(self.members),
            self.grade,
        ]


class Pair:
    """A volume and its legs; implements `volume.Volume`.

    The upper half is rebuilt from the journal (`core/ledger.py`), the lower half is of this run only.
    """

    __slots__ = (
        "applied", "changed", "connections", "copied_bytes", "copy_done", "copy_total", "cut", "groups", "holds", "id", "mirrors", "mode", "name",
        "primary", "primary_dirty", "read_cached", "reason", "region_shift", "regions", "removed", "secondary", "secondary_dirty", "secondary_path", "size",
        "staged", "staging", "state", "touched", "tracked_bytes", "usable", "waiting",
    )  # fmt: skip

    primary: Leg  # given when the images are opened, before anything is served

    def __init__(self, number: int, name: str, size: int) -> None:
        self.id = number
        self.name = name
        self.size = size
        self.removed = False  # taken out of the configuration
        self.state = SIMPLEX
        self.reason = ""
        self.usable = False  # whether the secondary holds exactly the changes up to `applied`
        self.applied = 0
        self.cut: Cut | None = None
        self.changed: ChangeMap | None = None
        self.tracked_bytes = 0  # written since the cut, counting each write
        self.staging = (
            ""  # UNCOMMITTED, or the job whose committed staging log is not yet known to be applied
        )
        self.staged = 0  # how many records that log has
        self.regions: set[int] = set()  # where the legs may differ after a power cut
        self.region_shift = region_bytes(size).bit_length() - 1
        self.secondary_path = ""  # where the secondary was at the last checkpoint, and is now; "" if that is not known

        self.mode = "sync"
        self.groups: list[str] = []
        self.secondary: Leg | None = None
        self.connections = 0
        self.mirrors = False  # DUPLEX in sync mode: changes go to both legs in the same step
        self.touched: set[int] = set()  # regions changed since the last checkpoint
        self.primary_dirty = False
        self.secondary_dirty = False
        self.holds = 0  # leases that hold this volume; changes wait while there are any
        self.waiting: list[Change] = []
        self.copied_bytes = 0  # by the last copy or resync
        self.copy_done = 0
        self.copy_total = 0

    def set_legs(self, primary: Leg, secondary: Leg | None, mode: str) -> None:
        """Give the pair its images."""
        self.primary = primary
        self.secondary = secondary
        self.secondary_path = secondary.path if secondary is not None else ""
        self.mode = mode
        self.read_cached = primary.read_cached
        self.refresh()

    def refresh(self) -> None:
        """Bring `mirrors` up to date after a change of state."""
        self.mirrors = self.state == DUPLEX and self.mode == "sync" and self.secondary is not None

    def read_mirror(self, offset: int, buffer: memoryview) -> bool:
        """Read from the secondary; False if it can't be read, or does not get every change in the same step, before and after."""
        if not self.mirrors or self.secondary is None:
            return False
        try:
            self.secondary.read_into(offset, buffer)
        except OSError:
            return False
        return self.mirrors

    @property
    def tracks(self) -> bool:
        """Whether changes are noted in `changed`, because the secondary does not get them."""
        return self.state == SUSPENDED or (self.state == PENDING and self.usable)

    @property
    def can_trim(self) -> bool:
        """Whether a trim does the same to both legs."""
        return self.primary.can_punch and (self.secondary is None or self.secondary.can_punch)

    def limit(self, tail: int) -> int:
        """The last number that may reach the secondary."""
        return self.cut.sequence if self.state == SUSPENDED and self.cut is not None else tail

    def regions_of(self, offset: int, length: int) -> range:
        """The regions that a change touches."""
        return range(offset >> self.region_shift, ((offset + length - 1) >> self.region_shift) + 1)


def region_bytes(size_bytes: int) -> int:
    """How large a region of a volume is: a power of two."""
    region = REGION_BYTES_MIN
    while size_bytes > region * REGIONS_MAX:
        region *= 2
    return region
