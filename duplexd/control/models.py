"""Every request, answer, problem and event of the control socket. Requests refuse unknown fields; everything else may gain some.

Imports nothing of the controller: duplexctl and other clients may use this module alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from duplexd.limits import (
    GRADE_CHARACTERS_MAX,
    HOLD_SECONDS_MAX,
    MEMBERS_MAX,
    NAME_CHARACTERS_MAX,
    TAG_CHARACTERS_MAX,
    VOLUMES_MAX,
)

PairState = Literal["SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED"]
Verdict = Literal["consistent", "void"]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Targets = Annotated[
    list[Name],
    Field(min_length=1, max_length=VOLUMES_MAX, description="names of volumes or groups; a group stands for its volumes"),
]
Bytes = Annotated[int, Field(ge=0)]
CutState = Literal["cut", "ready", "consistent", "void"]
CUT_ID_PATTERN = "^[0-9a-f]{16}$"
CutId = Annotated[str, Field(pattern=CUT_ID_PATTERN, description="id of a cut")]
Fence = Annotated[int | None, Field(description="the lease's newest fencing number; with an older one the command is refused")]
HoldSeconds = Annotated[float, Field(gt=0, le=HOLD_SECONDS_MAX)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


# Requests


class QuiesceRequest(Request):
    """Hold the writes of the targets."""

    targets: Targets
    hold_s: HoldSeconds | None = Field(None, description="the hold ends by itself after this many seconds; null: the controller's hold_max")
    cut: CutId | None = Field(None, description="hold for this cut of a group of controllers; all must be DUPLEX")


class SuspendRequest(Request):
    """Cut the targets at one point."""

    targets: Targets
    tag: str = Field("", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut")
    lease: Name | None = Field(None, description="the hold under which to cut; it ends with the cut")
    fence: Fence = None
    certificate: bool = Field(False, description="answer with what a certificate of the cut holds")


class ResyncRequest(Request):
    """Bring suspended secondaries back."""

    targets: Targets
    wait: bool = Field(False, description="answer with lines of progress until all are DUPLEX or one failed")


class VerifyRequest(Request):
    """Compare the legs."""

    targets: Targets
    progress: bool = Field(False, description="answer with lines of progress; the last line is the result")


class RenewRequest(Request):
    """Let a hold last longer. It gets a new fencing number: whoever knows only the old one has lost it."""

    hold_s: HoldSeconds = Field(description="from now on")
    fence: Fence = None


class CutRequest(Request):
    """Make the cut of a group of controllers under a lease that is held for it. The gates stay closed."""

    lease: Name
    fence: int
    tag: str = Field("", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut")
    group: str = Field("", max_length=NAME_CHARACTERS_MAX, description="name of the group, as the coordinator calls it")
    members: list[Name] = Field(min_length=1, max_length=MEMBERS_MAX, description="names of all controllers that take the cut together")


class OpenRequest(Request):
    """Open the gates after the cut."""

    lease: Name
    fence: int


class CutEmpty(Request):
    """What a coordinator says of a cut; nothing but its name is needed."""


class GradeRequest(Request):
    """What a canary found on the secondaries of a cut."""

    consistent: bool
    records: int = Field(ge=0, description="records that it looked at")
    detail: str = Field("", max_length=GRADE_CHARACTERS_MAX, description="the first things that it found")


# Status


class Journal(Answer):
    used_bytes: Bytes
    size_bytes: Bytes
    oldest_sequence: int = Field(description="first sequence number that the journal still has")


class ControllerStatus(Answer):
    name: str
    sequence: int = Field(description="the last sequence number given out")
    synced: int | None = Field(None, description="the number up to which the journal is known to survive a power cut")
    failed: str | None = Field(None, description="why no change is taken any more, until a restart")
    version: str | None = Field(None, description="of duplexd")
    group_protocol: int | None = Field(None, description="of what controllers and coordinators say to each other")
    hold_max_s: float | None = Field(None, description="how long its clients' writes may be held, as configured")
    nbd: list[str] = Field(default_factory=list, description="where it listens for NBD clients")
    journal: Journal


class Grade(Answer):
    """What a canary found on the secondaries of a cut."""

    consistent: bool
    records: int
    detail: str = ""


class Cut(Answer):
    """The point that a suspended secondary stands at."""

    id: str
    sequence: int
    time: float
    tag: str = ""
    verdict: Verdict | None = Field(
        None, description="null: the secondaries are still being brought there, or the group's other controllers are not known to be ready"
    )
    state: CutState | None = Field(None, description="ready: this controller may decide no more, its coordinator will")
    group: str | None = None
    members: list[str] = Field(default_factory=list, description="controllers that take it together; empty: this one alone")
    canary: Grade | None = None


class Secondary(Answer):
    usable: bool = Field(description="false: its bytes are of no moment in time, and the other fields say nothing")
    as_of_sequence: int | None = Field(None, description="it holds exactly the changes up to this number")
    as_of_time: float | None = Field(None, description="when that was")
    cut: Cut | None = Field(None, description="the cut it stands at; null unless SUSPENDED")
    lag_bytes: Bytes = Field(0, description="changes it has yet to take over from the journal")


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
    mode: str | None = Field(None, description='"sync" or "async"')
    connections: int = Field(0, description="NBD connections")
    sequence: int = Field(0, description="number of its last change")
    secondary: Secondary | None = Field(None, description="null for SIMPLEX")
    changed_bytes: Bytes = Field(0, description="what a resync would have to copy, rounded up to whole grains")
    copy_: Copy | None = Field(None, alias="copy", description="a first copy or resync that runs")


class GroupStatus(Answer):
    name: str
    volumes: list[str]
    state: str | None = Field(None, description="the state of its pairs, or MIXED")


class LeaseStatus(Answer):
    id: str
    volumes: list[str] = Field(default_factory=list)
    owner: str = ""
    hold_s: float
    remaining_s: float | None = None
    fence: int | None = Field(None, description="fencing number: rises with each lease and each renewal, also over restarts")
    cut: str | None = Field(None, description="the group's cut that it is held for")


class Status(Answer):
    """GET /v1/status."""

    controller: ControllerStatus
    volumes: list[VolumeStatus]
    groups: list[GroupStatus]
    leases: list[LeaseStatus]
    cuts: list[CutStatus] = Field(default_factory=list, description="those of groups of controllers that are not decided")


# Holds


class Held(Answer):
    """First line of a hold: every write that was under way has been answered, later ones wait."""

    event: Literal["held"]
    lease: LeaseStatus


class Holding(Answer):
    """A line at least every 0.25 s while the hold lasts."""

    event: Literal["holding"]
    remaining_s: float


class HoldEnded(Answer):
    """Last line of a hold."""

    event: Literal["ended"]
    lease: str
    reason: str = Field(description="released, suspended, deadline, owner gone, stopping, ...")
    verdict: Verdict = Field(description="void: it ended before its owner ended it, and nothing done under it may be relied on")


class Released(Answer):
    """DELETE /v1/leases/ID."""

    lease: str
    released: bool = Field(description="false: the hold had ended already")


# Suspend, resync, verify


class HoldPhase(Answer):
    seconds: float
    writes: int = Field(description="how many began to wait in it")


class HoldPhases(Answer):
    """draining: the gates are closed, what was in flight ends; held: until the cut; cut: until the gates are open."""

    draining: HoldPhase
    held: HoldPhase
    cut: HoldPhase


class VolumeWaits(Answer):
    name: str
    count: int = Field(description="writes that waited")
    max_s: float
    p50_s: float
    p99_s: float


class HoldFigures(Answer):
    """How long writes waited for a cut. Quantiles are good to 4.4 %."""

    seconds_max: float = Field(description="the longest that a write waited for the cut")
    writes_held: int
    p50_s: float | None = None
    p99_s: float | None = None
    held_s: float | None = Field(None, description="how long the gates were closed")
    hold_max_s: float | None = Field(None, description="how long they may be, as configured")
    within_limit: bool | None = None
    phases: HoldPhases | None = None
    volumes: list[VolumeWaits] = Field(default_factory=list, description="those that had to wait")
    buckets: list[list[int]] = Field(default_factory=list, description="[n, count] of waits of about 2**(n/16) microseconds")


class CutJournal(Answer):
    """Where a cut is in a controller's journal."""

    directory: str = Field(description="the state directory")
    identity: str = Field(description="of the journal, in hexadecimal")
    crc: int | None = Field(None, description="check-sum of the cut's record, which stands for all records before it")
    chain: int | None = Field(None, description="check-sum of the record before it")


class CutVolume(Answer):
    id: int = Field(description="number of the volume in the journal")
    name: str
    size: Bytes
    primary: str
    secondary: str


class CutMade(Answer):
    """POST /v1/cuts/CUT: the marker is in the journal, the gates are closed, nothing is decided."""

    cut: str
    controller: str
    sequence: int
    time: float
    journal: CutJournal


class CutProof(CutMade):
    """What a certificate holds of a controller."""

    volumes: list[CutVolume]


class CutStatus(Answer):
    """A cut, as this controller knows it."""

    id: str
    controller: str
    state: CutState
    verdict: Verdict | None = Field(description="null while it is not decided")
    sequence: int
    time: float
    tag: str = ""
    group: str | None = None
    members: list[str] = Field(default_factory=list)
    volumes: list[str] = Field(description="those whose secondaries stand at it")
    canary: Grade | None = None
    hold: HoldFigures | None = Field(None, description="null: it was made before the daemon was started, or many were made since")
    images: list[CutVolume] = Field(default_factory=list, description="where what was cut lies; in the answer of open only")


class CutList(Answer):
    """GET /v1/cuts."""

    cuts: list[CutStatus] = Field(description="the latest ones, oldest first")


class CutReleased(Answer):
    """POST /v1/cuts/CUT/release."""

    lease: str | None = Field(description="the lease that was held for the cut; null if there was none")
    released: bool


class Suspended(Answer):
    """POST /v1/suspend: the secondaries are durable and readable where they lie."""

    verdict: Verdict
    cut: str = Field(description="id of the cut")
    tag: str = ""
    controllers: dict[str, int] = Field(description="name of each controller, and the sequence number of the cut there")
    volumes: list[str] = Field(description="the volumes that were cut")
    hold: HoldFigures
    members: list[CutProof] = Field(default_factory=list, description="what a certificate holds, if it was asked for")
    already: bool = Field(False, description="all of them stood at this cut before the command")


class ResyncVolume(Answer):
    name: str
    how: Literal["journal", "map", "copy", "already"] = Field(
        description="walks the journal on; copies the changed grains in one step; first copy; nothing to do"
    )


class ResyncStarted(Answer):
    """POST /v1/resync."""

    job: str
    volumes: list[ResyncVolume]


class ResyncProgressVolume(Answer):
    name: str
    state: PairState
    done_bytes: Bytes
    total_bytes: Bytes
    eta_s: float | None = None


class ResyncProgress(Answer):
    """A line of POST /v1/resync with `wait`. The first line is `{"event": "started", ...ResyncStarted}`."""

    event: Literal["progress"]
    volumes: list[ResyncProgressVolume]


class ResyncDoneVolume(Answer):
    name: str
    state: PairState
    reason: str | None = None
    copied_bytes: Bytes = 0


class ResyncDone(Answer):
    """Last line of POST /v1/resync with `wait`."""

    event: Literal["done"]
    ok: bool = Field(description="all of them are DUPLEX")
    volumes: list[ResyncDoneVolume]


class VerifyProgress(Answer):
    """A line of POST /v1/verify with `progress`."""

    event: Literal["progress"]
    name: str
    done_bytes: Bytes
    total_bytes: Bytes


class VerifiedVolume(Answer):
    name: str
    equal: bool
    compared_bytes: Bytes
    first_difference: int | None = Field(None, description="offset of the first byte that differs")


class Verified(Answer):
    """POST /v1/verify; with `progress` this is the last line, with `"event": "done"`."""

    equal: bool
    volumes: list[VerifiedVolume]


# Events


class Event(Answer):
    """A line of GET /v1/events: first `state` (with the whole status), then `synced`, then changes as they happen."""

    event: str
    time: float | None = None
    sequence: int | None = None
    volume: str | None = None
    volumes: list[str] | None = None
    status: Status | None = Field(None, description="of the event `state` only")


class Failed(Answer):
    """Last line of a stream that failed after its first line."""

    event: Literal["failed"]
    problem: Problem


# The rest


class Problem(Answer):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="one line that says what to do")
    exit_code: int = Field(description="what duplexctl exits with")


class Health(Answer):
    """GET /healthz and /readyz."""

    status: str
    controller: str | None = Field(None, description="its name; of /healthz")


Status.model_rebuild()
Failed.model_rebuild()
