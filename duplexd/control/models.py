"""Every request, answer, problem and event of the control socket. Requests refuse unknown fields; everything else may gain some.

Imports nothing of the controller: duplexctl and other clients may use this module alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from duplexd.limits import HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX, NAME_CHARACTERS_MAX, TAG_CHARACTERS_MAX, VOLUMES_MAX

PairState = Literal["SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED"]
Verdict = Literal["consistent", "void"]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Targets = Annotated[
    list[Name],
    Field(min_length=1, max_length=VOLUMES_MAX, description="names of volumes or groups; a group stands for its volumes"),
]
Bytes = Annotated[int, Field(ge=0)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


# Requests


class QuiesceRequest(Request):
    """Hold the writes of the targets."""

    targets: Targets
    hold_s: float = Field(HOLD_SECONDS_DEFAULT, gt=0, le=HOLD_SECONDS_MAX, description="the hold ends by itself after this many seconds")


class SuspendRequest(Request):
    """Cut the targets at one point."""

    targets: Targets
    tag: str = Field("", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut")
    lease: Name | None = Field(None, description="the hold under which to cut; it ends with the cut")


class ResyncRequest(Request):
    """Bring suspended secondaries back."""

    targets: Targets
    wait: bool = Field(False, description="answer with lines of progress until all are DUPLEX or one failed")


class VerifyRequest(Request):
    """Compare the legs."""

    targets: Targets
    progress: bool = Field(False, description="answer with lines of progress; the last line is the result")


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
    journal: Journal


class Cut(Answer):
    """The point that a suspended secondary stands at."""

    id: str
    sequence: int
    time: float
    tag: str = ""
    verdict: Verdict | None = Field(None, description="null: the secondaries are still being brought there and made durable")


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


class Status(Answer):
    """GET /v1/status."""

    controller: ControllerStatus
    volumes: list[VolumeStatus]
    groups: list[GroupStatus]
    leases: list[LeaseStatus]


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


class HoldFigures(Answer):
    seconds_max: float = Field(description="the longest that a write waited for the cut")
    writes_held: int


class Suspended(Answer):
    """POST /v1/suspend: the secondaries are durable and readable where they lie."""

    verdict: Verdict
    cut: str = Field(description="id of the cut")
    tag: str = ""
    controllers: dict[str, int] = Field(description="name of each controller, and the sequence number of the cut there")
    volumes: list[str] = Field(description="the volumes that were cut")
    hold: HoldFigures
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


Failed.model_rebuild()
