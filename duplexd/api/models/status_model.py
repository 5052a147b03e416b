"""The status: of the controller, of its volumes, groups and leases.

Scripts rely on these names; new fields are optional, so that a client of today reads the status of
an older daemon.
"""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, PairState
from duplexd.api.models.cut_model import Cut, CutStatus
from duplexd.api.models.drill_model import LastDrill
from duplexd.api.models.reader_model import ReaderStatus
from duplexd.api.models.rollback_model import RollbackStatus


class Journal(Answer):
    used_bytes: Bytes = Field(description="what its records take; most of it, in good times too")
    pinned_bytes: Bytes | None = Field(
        None,
        description="what cannot be written over; changes wait once that is all of it. null if"
        " that is not known",
    )
    size_bytes: Bytes
    oldest_sequence: int = Field(description="first sequence number that the journal still has")
    waiting_s: float = Field(
        0.0, description="how long its disk has not answered a write or a sync; changes wait"
    )
    no_room_s: float = Field(0.0, description="how long changes have waited for room in it")
    needed_by: list[str] = Field(
        default_factory=list, description="then: volumes whose secondaries need its oldest records"
    )


class StartProgress(Answer):
    text: str = Field(description='what the start is at, as "recovering, 40 % (...)"')
    fraction: float = Field(description="how much of the start is done, between 0 and 1")


class ControllerStatus(Answer):
    name: str
    sequence: int = Field(description="the last sequence number given out")
    synced: int | None = Field(
        None, description="the number up to which the journal is known to survive a power cut"
    )
    failed: str | None = Field(
        None, description="why no change is taken until a restart; null while changes are taken"
    )
    starting: StartProgress | None = Field(
        None,
        description="while the daemon starts: no volume is served, and nothing but the name is"
        " known; null once it serves",
    )
    version: str | None = Field(None, description="of duplexd")
    group_protocol: int | None = Field(
        None, description="version of the protocol between controllers and coordinators"
    )
    hold_max_s: float | None = Field(
        None, description="how long its clients' writes may be held, as configured"
    )
    nbd: list[str] = Field(default_factory=list, description="where it listens for NBD clients")
    refused: str | None = Field(
        None,
        description="why every change is refused for now, as the journal's disk is full; null while"
        " changes are taken",
    )
    journal: Journal


class Primary(Answer):
    path: str = Field(description="of the image that clients read and write")
    error: str = Field("", description="what is wrong with it; empty if nothing is known")
    error_time: float | None = Field(None, description="since when that is known")
    repaired_bytes: Bytes = Field(
        0, description="unreadable ranges that were rewritten from the secondary, since the start"
    )


class Rebuild(Answer):
    """Whether a SUSPENDED pair survives the loss of its primary without losing a change."""

    possible: bool = Field(
        description="`swap --roll-forward` can be done with the journal alone: it has every change "
        "after the cut, and leads to what the volume holds (not after `adopt`)"
    )
    from_sequence: int | None = Field(
        None, description="the first number that would be applied to the secondary"
    )


class Delay(Answer):
    """Of a delayed secondary: how far back `suspend --at` can go."""

    wanted_s: float = Field(description="`delay` of the configuration")
    back_s: float = Field(description="it can be suspended at any time up to so long ago")
    shortened: bool = Field(
        description="less than is wanted, because the journal could not hold more"
    )


class Secondary(Answer):
    usable: bool = Field(
        description="false: not a consistent copy of any point; ignore the other fields"
    )
    as_of_sequence: int | None = Field(
        None, description="it holds exactly the changes up to this number"
    )
    as_of_size: Bytes | None = Field(
        None, description="of the volume at that number; it may have grown since"
    )
    as_of_time: float | None = Field(None, description="when that was")
    cut: Cut | None = Field(None, description="the cut it is at; null unless SUSPENDED")
    suspended_time: float | None = Field(
        None,
        description="since when it is SUSPENDED; the cut may be of an earlier time; else null",
    )
    lag_bytes: Bytes = Field(0, description="changes in the journal that it has yet to apply")
    delay: Delay | None = Field(None, description="null unless it is delayed, and DUPLEX")
    path: str = Field("", description="of the image")
    error: str = Field("", description="what is wrong with it; empty if nothing is known")
    error_time: float | None = Field(None, description="since when that is known")


class Differs(Answer):
    """Where the legs of a pair are known to differ; see the page health.md."""

    ranges: list[list[int]] = Field(description="offset and length of each; of many their span")
    bytes: Bytes = Field(description="how much that is")
    sequence: int = Field(description="the number at which that was found first")
    time: float = Field(description="when")
    text: str = Field(description="the same in words")


class Scrub(Answer):
    """The comparison of all of a pair in the background, see `[scrub]`."""

    done_time: float | None = Field(
        None, description="when the last one ended, or a copy made both images equal"
    )
    began_time: float | None = Field(None, description="of the one under way; null if none is")
    position: Bytes = Field(0, description="what comes before it is compared")
    error: str = Field("", description="what it could not read, until a pass has read all")
    wanted_time: float | None = Field(
        None, description="since when scrubs are wanted; null if they are not"
    )


class Copy(Answer):
    done_bytes: Bytes
    total_bytes: Bytes
    eta_s: float | None = None


class VolumeStatus(Answer):
    name: str
    size: Bytes
    state: PairState
    reason: str | None = Field(None, description="why it is in that state")
    held: bool = Field(description="its writes wait")
    mode: str | None = Field(None, description='"sync", "async" or "delayed"')
    connections: int = Field(0, description="NBD connections")
    sequence: int = Field(0, description="number of its last change")
    secondary: Secondary | None = Field(None, description="null for SIMPLEX")
    not_grown: str = Field(
        "", description="why it has fewer bytes than the configuration says; empty: it has not"
    )
    consistent_cut_time: float | None = Field(
        None, description="when it was last cut consistently by a command; null if not known"
    )
    changed_bytes: Bytes = Field(
        0, description="what a resync would have to copy, rounded up to whole grains"
    )
    copy_: Copy | None = Field(None, alias="copy", description="a first copy or resync that runs")
    served: bool = Field(True, description="false: NBD clients are refused; see `error`")
    error: str = Field("", description="why it is not served; empty if it is")
    failing: dict[str, str] = Field(
        default_factory=dict,
        description='what clients got last: the error of a "read", and of a "change", if it failed',
    )
    swapped: bool = Field(
        False,
        description="the image of the key `secondary` of the configuration has the role primary",
    )
    primary: Primary | None = None
    rebuild: Rebuild | None = Field(None, description="null unless SUSPENDED")
    rollback: RollbackStatus | None = Field(None, description="the last one; null for none")
    scrub: Scrub | None = Field(None, description="null for SIMPLEX")
    differs: Differs | None = Field(
        None, description="null unless a comparison found that the legs differ"
    )
    last_drill: LastDrill | None = Field(
        None, description="the last drill that ended; null for none"
    )
    readers: list[ReaderStatus] = Field(
        default_factory=list, description="who reads its secondary at the cut, and keeps it there"
    )


class GroupStatus(Answer):
    name: str
    volumes: list[str]
    state: str | None = Field(None, description="the state of its pairs, or MIXED")
    mark_every_s: float | None = Field(None, description="`mark_every`; null without it")
    last_mark_time: float | None = Field(
        None, description="of its last consistent mark, where it has `mark_every`"
    )


class LeaseStatus(Answer):
    id: str
    volumes: list[str] = Field(default_factory=list)
    owner: str = ""
    hold_s: float
    remaining_s: float | None = None
    fence: int | None = Field(
        None,
        description="fencing number: rises with each lease and each renewal, also over restarts",
    )
    cut: str | None = Field(None, description="the group's cut that it is held for")
    mark: str | None = Field(None, description="the group's mark that it is held for")


class Status(Answer):
    """GET /v1/status."""

    controller: ControllerStatus
    volumes: list[VolumeStatus]
    groups: list[GroupStatus]
    leases: list[LeaseStatus]
    cuts: list[CutStatus] = Field(
        default_factory=list,
        description="cuts and marks of groups of controllers that are in doubt",
    )
