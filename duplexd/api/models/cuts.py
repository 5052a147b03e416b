"""What cuts say: verdicts, how long writes waited, what a certificate holds."""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, CutState, Verdict


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
        None,
        description="null: the secondaries are still being brought there, or the group's other controllers are not known to be ready",
    )
    state: CutState | None = Field(
        None, description="ready: this controller may decide no more, its coordinator will"
    )
    group: str | None = None
    members: list[str] = Field(
        default_factory=list, description="controllers that take it together; empty: this one alone"
    )
    canary: Grade | None = None
    why: str | None = Field(
        None,
        description="the failure of a secondary that made it void, or made it; null also after a restart",
    )


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
    buckets: list[list[int]] = Field(
        default_factory=list, description="[n, count] of waits of about 2**(n/16) microseconds"
    )


class CutJournal(Answer):
    """Where a cut is in a controller's journal."""

    directory: str = Field(description="the state directory")
    identity: str = Field(description="of the journal, in hexadecimal")
    crc: int | None = Field(
        None, description="check-sum of the cut's record, which stands for all records before it"
    )
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
    why: str | None = Field(
        None,
        description="the failure of a secondary that made it void, or made it; null also after a restart",
    )
    hold: HoldFigures | None = Field(
        None, description="null: it was made before the daemon was started, or many were made since"
    )
    images: list[CutVolume] = Field(
        default_factory=list, description="where what was cut lies; in the answer of open only"
    )


class CutList(Answer):
    """GET /v1/cuts."""

    cuts: list[CutStatus] = Field(description="the latest ones, oldest first")


class CutReleased(Answer):
    """POST /v1/cuts/CUT/release."""

    lease: str | None = Field(
        description="the lease that was held for the cut; null if there was none"
    )
    released: bool


class Suspended(Answer):
    """POST /v1/suspend: the secondaries are durable and readable where they lie."""

    verdict: Verdict
    cut: str = Field(description="id of the cut")
    tag: str = ""
    controllers: dict[str, int] = Field(
        description="name of each controller, and the sequence number of the cut there"
    )
    volumes: list[str] = Field(description="the volumes that were cut")
    why: str | None = Field(None, description="if void: what failed, if that is known")
    hold: HoldFigures
    members: list[CutProof] = Field(
        default_factory=list, description="what a certificate holds, if it was asked for"
    )
    already: bool = Field(False, description="all of them stood at this cut before the command")
