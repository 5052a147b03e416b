"""Restores: a step of one, and its answer. What is restored goes over NBD."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Request
from duplexd.api.models.request_model import CutId, Targets

_NAME_CHARACTERS_MAX = 64  # of a backup: a time and the id of a cut


class RestoreRequest(Request):
    """Let a client write a backup to volumes, which are closed to all others meanwhile."""

    targets: Targets
    backup: str = Field(
        min_length=1,
        max_length=_NAME_CHARACTERS_MAX,
        pattern=r"^[A-Za-z0-9-]+$",
        description="its name: that of its directory",
    )
    cut: CutId = Field(description="of which it was made")
    step: Literal["check", "close", "open"] = Field(
        "check",
        description="only say whether it is possible; or close the volumes: from then on only the"
        " export `volume@restore:id` can be used; or serve them again",
    )
    id: CutId | None = Field(
        None, description="of the restore, where several controllers take part; needed to open"
    )
    force: bool = Field(False, description="disconnect the clients of the volumes")


class RestoringVolume(Answer):
    name: str
    served: bool = Field(description="clients may use it")
    undo: str = Field(
        description="id of the consistent cut that its secondary is at, to which a rollback could"
        " go back now; empty if there is none"
    )


class Restoring(Answer):
    """POST /v1/restore."""

    id: str = Field(description="of the restore that goes on; empty for none")
    backup: str
    volumes: list[RestoringVolume]
