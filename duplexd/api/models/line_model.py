"""Answers of many lines: holds, resyncs, comparisons, events.

Each line is an object with an `event`, so that a reader can skip what it does not know.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, PairState, Problem, Verdict
from duplexd.api.models.status_model import LeaseStatus, Status


class Held(Answer):
    """First line of a hold: every write in flight has been answered, later ones wait."""

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
    verdict: Verdict = Field(
        description="void: it ended before its owner ended it; what was done under it is void, too"
    )


class CutAnnounced(Answer):
    """First line of POST /v1/suspend with `progress`; the last is the result, with `"event":
    "done"`. There is only the last one if no cut is made.
    """

    event: Literal["cut"]
    cut: str = Field(description="id of the cut that is made; it has no verdict yet")


class Released(Answer):
    """DELETE /v1/leases/ID."""

    lease: str
    released: bool = Field(description="false: the hold had ended already")


class ResyncVolume(Answer):
    name: str
    how: Literal["journal", "map", "copy", "already", "read"] = Field(
        description="replay the journal; copy changed grains in one step; first copy; nothing to"
        " do; not begun, because others read the cut"
    )


class ResyncRefused(Answer):
    name: str
    error: str


class ResyncStarted(Answer):
    """POST /v1/resync."""

    job: str
    volumes: list[ResyncVolume]
    refused: list[ResyncRefused] = Field(
        default_factory=list, description="with `partial`: those that were left out, and why"
    )
    readers: list[str] = Field(
        default_factory=list, description="with `reader`: who reads the cut still, if anybody"
    )


class ResyncProgressVolume(Answer):
    name: str
    state: PairState
    done_bytes: Bytes
    total_bytes: Bytes
    eta_s: float | None = None


class ResyncProgress(Answer):
    """A line of POST /v1/resync with `wait`.

    The first line is `{"event": "started", ...ResyncStarted}`.
    """

    event: Literal["progress"]
    volumes: list[ResyncProgressVolume]


class ResyncDoneVolume(Answer):
    name: str
    state: PairState
    reason: str | None = None
    copied_bytes: Bytes = 0
    error: str | None = Field(None, description="why it is not DUPLEX, if the resync failed")
    differs: str | None = Field(
        None, description="where its legs are known to differ, which no resync ends"
    )


class ResyncDone(Answer):
    """Last line of POST /v1/resync with `wait`."""

    event: Literal["done"]
    ok: bool = Field(description="all of them are DUPLEX, and none was refused")
    volumes: list[ResyncDoneVolume]
    refused: list[ResyncRefused] = Field(default_factory=list, description="as in the first line")


class VerifyProgress(Answer):
    """A line of POST /v1/verify with `progress`."""

    event: Literal["progress"]
    name: str
    done_bytes: Bytes
    total_bytes: Bytes


class VerifiedVolume(Answer):
    name: str
    equal: bool | None = Field(
        description="null: nothing was compared, as all of it may have changed since the cut"
    )
    compared_bytes: Bytes
    first_difference: int | None = Field(None, description="offset of the first byte that differs")
    why: str | None = Field(
        None, description="what else is wrong, such as an image that is not at its path"
    )
    differences: list[list[int]] = Field(
        default_factory=list, description="offset and length of each range that differs"
    )


class Verified(Answer):
    """POST /v1/verify; with `progress` this is the last line, with `"event": "done"`."""

    equal: bool | None = Field(description="null: none differs, and one was not compared")
    volumes: list[VerifiedVolume]


class Event(Answer):
    """A line of GET /v1/events: first `state`, with the status, then `synced`, then changes."""

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
