"""What the routes of health answer: alive, ready, well."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer
from duplexd.api.models.status_model import StartProgress


class Degraded(Answer):
    """A volume that lacks an image it should have, and why."""

    name: str
    served: bool = Field(description="false: NBD clients are refused")
    why: str


class Health(Answer):
    """GET /healthz and /readyz."""

    status: str
    controller: str | None = Field(None, description="its name; of /healthz")
    degraded: list[Degraded] | None = Field(
        None, description="of /readyz: volumes with a fault; empty if there is none"
    )
    starting: StartProgress | None = Field(None, description="of /healthz, while it starts")


class HealthFinding(Answer):
    """One thing that is not well."""

    kind: str = Field(description="which: the page health.md lists them")
    severity: Literal["error", "warning"] = Field(
        description="error: it costs service; warning: redundancy, or a backup"
    )
    volume: str = Field(description="empty if it is of the controller, or of a disk")
    text: str = Field(description="one line for people")
    since: float | None = Field(None, description="when it began, if that is known")
    about: str = Field("", description="what tells it from others of its kind and volume")


class Wellness(Answer):
    """GET /v1/health."""

    controller: str
    well: bool = Field(description="nothing is wrong that is known: there is no finding")
    volumes: int = Field(description="how many were looked at")
    findings: list[HealthFinding] = Field(description="errors first")
