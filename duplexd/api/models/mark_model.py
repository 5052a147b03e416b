"""Marks: the body that makes one, and the points that are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, CutState, Request, Verdict
from duplexd.api.models.request_model import Targets
from duplexd.limits import TAG_CHARACTERS_MAX


class MarkRequest(Request):
    """Mark this point of the targets. Nobody is suspended, and no write waits."""

    targets: Targets
    tag: str = Field(
        "", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the mark"
    )


class PointStatus(Answer):
    """A cut or a mark that is kept."""

    id: str
    kind: Literal["cut", "mark"]
    state: CutState
    verdict: Verdict | None = Field(description="null while it is in doubt")
    sequence: int
    time: float
    tag: str = ""
    group: str | None = None
    members: list[str] = Field(
        default_factory=list, description="controllers of a group's point; empty: this one alone"
    )
    whole: bool = Field(True, description="it was made of all volumes that were asked for")
    within_reach: bool = Field(
        description="the secondaries of its volumes can be brought to it: each is there or before"
        " it, and the journal has all that lies between"
    )
    why: str | None = Field(None, description="why it is not within reach")


class PointList(Answer):
    """GET /v1/points."""

    points: list[PointStatus] = Field(description="cuts and marks, by sequence number")
