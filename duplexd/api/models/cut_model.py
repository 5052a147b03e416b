"""Cuts: verdicts, how long writes waited, what a certificate contains.

There are three views of a cut, because three readers ask: a volume's status says which cut its
secondary is at (`Cut`), a coordinator asks for a member's vote (`CutStatus`), a verifier needs to
find the cut in the journal and on disk (`CutProof`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, CutState, Verdict
from duplexd.api.models.drill_model import LastDrill


class Grade(Answer):
    """What a canary found on the secondaries of a cut."""

    consistent: bool
    records: int
    detail: str = ""


class Cut(Answer):
    """The cut that a suspended secondary is at."""

    id: str
    sequence: int
    time: float
    tag: str = ""
    verdict: Verdict | None = Field(
        None,
        description="null while secondaries are not durable there, or the cut is in doubt",
    )
    state: CutState | None = Field(None, description="ready: prepared; the coordinator decides")
    group: str | None = None
    members: list[str] = Field(
        default_factory=list, description="controllers of a group's cut; empty: this one alone"
    )
    mark: str | None = Field(None, description="id of the mark that it is at, if it is at one")
    canary: Grade | None = None
    why: str | None = Field(
        None,
        description="the failure that made it void or caused it; null after a restart",
    )


class HoldPhase(Answer):
    seconds: float
    writes: int = Field(description="how many began to wait in it")


class HoldPhases(Answer):
    """How long each phase lasted.

    draining: gates are closed, changes in flight end; held: until the cut; cut: until they open.
    """

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
        None, description="checksum of the cut's record, which covers all records before it"
    )
    chain: int | None = Field(None, description="checksum of the record before it")


class CutVolume(Answer):
    id: int = Field(description="number of the volume in the journal")
    name: str
    size: Bytes
    primary: str
    secondary: str
    drill: LastDrill | None = Field(None, description="the last one, if it was of this cut")


class CutMade(Answer):
    """POST /v1/cuts/CUT: the marker is in the journal, gates are closed, the cut is in doubt."""

    cut: str
    controller: str
    sequence: int
    time: float
    journal: CutJournal


class CutProof(CutMade):
    """What a certificate contains of a controller."""

    volumes: list[CutVolume]


class CutStatus(Answer):
    """A cut, as this controller knows it."""

    id: str
    controller: str
    kind: Literal["cut", "mark"] = Field(
        "cut", description="mark: a consistent point that no secondary was suspended at"
    )
    state: CutState
    verdict: Verdict | None = Field(description="null while it is in doubt")
    sequence: int
    time: float
    tag: str = ""
    group: str | None = None
    members: list[str] = Field(default_factory=list)
    mark: str | None = Field(None, description="id of the mark that it is at, if it is at one")
    volumes: list[str] = Field(description="those whose secondaries are at it")
    readers: list[str] = Field(
        default_factory=list, description="who reads them: names, and peers of connections"
    )
    canary: Grade | None = None
    why: str | None = Field(
        None,
        description="the failure that made it void or caused it; null after a restart",
    )
    hold: HoldFigures | None = Field(
        None, description="null for a cut of before the start of the daemon, or an old one"
    )
    images: list[CutVolume] = Field(
        default_factory=list, description="the images that were cut; in the answer of open only"
    )
    proof: CutProof | None = Field(
        None,
        description="what a certificate has of it, while secondaries are at it; of one cut that is"
        " asked for",
    )


class Standing(Answer):
    """POST /v1/cuts/CUT/stand: the secondaries are durable there, and this one has voted."""

    cut: str
    controller: str
    already: bool = Field(description="they were at this cut before the command")
    status: CutStatus | None = Field(description="null with `check`")


class CutList(Answer):
    """GET /v1/cuts."""

    cuts: list[CutStatus] = Field(description="the latest ones, by sequence number")


class CutReleased(Answer):
    """POST /v1/cuts/CUT/release."""

    lease: str | None = Field(
        description="the lease that was held for the cut; null if there was none"
    )
    released: bool


class HookRun(Answer):
    """What a hook of a group did."""

    hook: Literal["before_suspend", "after_suspend"]
    group: str
    status: Literal["ok", "failed", "timed-out", "stopped"] = Field(
        description="ok: exit code 0; timed-out, stopped: it was killed"
    )
    seconds: float
    exit_code: int | None = Field(
        None, description="negative: a signal; null: it could not be started"
    )
    output: str = Field("", description="the last 4 KiB of what it wrote to stdout and stderr")
    why: str = Field("", description="what went wrong")
    controller: str = Field("", description="the daemon that ran it")


class Suspended(Answer):
    """POST /v1/suspend: the secondaries are durable, and readable at their paths."""

    verdict: Verdict
    cut: str = Field(description="id of the cut")
    tag: str = ""
    mark: str | None = Field(None, description="id of the mark that it is at, if it is at one")
    controllers: dict[str, int] = Field(
        description="sequence number of the cut on each controller, by name"
    )
    volumes: list[str] = Field(description="the volumes that were cut")
    why: str | None = Field(None, description="if void: what failed, if that is known")
    hold: HoldFigures
    members: list[CutProof] = Field(
        default_factory=list, description="what a certificate contains, if it was asked for"
    )
    already: bool = Field(False, description="all of them were at this cut before the command")
    reader: str | None = Field(None, description="who keeps them at the cut, if that was asked for")
    hooks: list[HookRun] = Field(
        default_factory=list,
        description="of the groups that were named; look at each `status`: the verdict is not"
        " about them",
    )
