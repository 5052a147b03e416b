"""Clones: the bodies that make and drop them, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, Request, Verdict
from duplexd.api.models.request_model import INTEGER_MAX, CutId, Targets
from duplexd.core.clone import NAME_PATTERN

CloneName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", description="what it is called")]


class CloneRequest(Request):
    """Make a clone of each target at a cut, or of none: writable, over its secondary."""

    targets: Targets
    cut: CutId
    name: CloneName
    limit_bytes: Annotated[int, Field(ge=0, le=INTEGER_MAX)] | None = Field(
        None,
        description="what each may hold of changes; null: as much as `clone_limit` allows",
    )
    while_connected: bool = Field(
        False,
        description="answer with lines, for as long as the clones are there: they end with the"
        " connection",
    )


class CloneDrop(Request):
    """End the clones of that name, of these targets."""

    targets: Targets
    name: CloneName


class CloneStatus(Answer):
    """A clone of a volume."""

    name: str
    volume: str
    export: str = Field(description="its name over NBD")
    cut: str
    size: Bytes
    limit_bytes: Bytes = Field(description="that it may hold of changes")
    used_bytes: Bytes = Field(description="that it holds, in whole blocks")
    connections: int
    since: float
    first_fault: str = Field(
        description="the first request of it that failed, and why; empty if none did. What is found"
        " on it says nothing of the cut then"
    )


class CloneMade(Answer):
    """POST /v1/clones. A restart of the daemon ends it."""

    name: str
    cut: str
    tag: str
    verdict: Verdict | None = Field(description="of the cut; null: in doubt")
    volumes: list[CloneStatus]


class CloneHeld(CloneMade):
    """First line of POST /v1/clones with `while_connected`."""

    event: Literal["made"]


class CloneStands(Answer):
    """A line at least every 0.25 s while the clones are there."""

    event: Literal["standing"]


class CloneEnded(Answer):
    """Last line: one of them has ended before its owner ended it."""

    event: Literal["ended"]
    reason: str


class CloneDropped(Answer):
    """POST /v1/clones/drop: their room is free again."""

    name: str
    volumes: list[str] = Field(description="those that had it")


class CloneList(Answer):
    """GET /v1/clones."""

    clones: list[CloneStatus]
