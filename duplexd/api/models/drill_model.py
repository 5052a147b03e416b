"""Drills: the body that records one, what is answered, and what status says of the last one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Request
from duplexd.api.models.clone_model import CloneName
from duplexd.api.models.request_model import INTEGER_MAX, CutId, Targets

Outcome = Literal["passed", "failed"]


class DrillRequest(Request):
    """Record a drill that has ended, while the clones that it had are still there."""

    targets: Targets
    id: CutId = Field(description="of the drill; the same on all controllers that took part")
    cut: CutId
    clone: CloneName
    exit_code: int = Field(ge=0, le=255, description="of the application's check; 0: it passed")
    took_ms: int = Field(ge=0, le=INTEGER_MAX, description="how long it ran")


class DrillRecorded(Answer):
    """POST /v1/drills: a restart knows it, too."""

    id: str
    cut: str
    outcome: Outcome
    exit_code: int
    volumes: list[str]


class LastDrill(Answer):
    """The last drill of a volume that ended; see the page backup.md."""

    id: str = Field(description="of the drill; the same on all controllers that took part")
    cut: str = Field(description="id of the cut that was tried")
    outcome: Outcome
    exit_code: int = Field(description="of the application's check")
    time: float = Field(description="when it ended")
    took_s: float = Field(description="how long the check ran")
    passed_time: float | None = Field(
        None, description="when the last one that passed had ended; null if none has"
    )
