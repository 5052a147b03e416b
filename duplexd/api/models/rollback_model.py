"""Rollbacks: the request, the answer, and what status says of the last one of a volume."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, Request
from duplexd.api.models.request_model import CutId, Targets
from duplexd.limits import TAG_CHARACTERS_MAX


class RollbackRequest(Request):
    """Let volumes go back to the cut that their secondaries are at."""

    targets: Targets
    to: str = Field(
        "",
        max_length=TAG_CHARACTERS_MAX,
        description="the point, as in `volume@point`: the id or the tag of the cut, or latest;"
        " not needed to serve the volumes again",
    )
    step: Literal["whole", "check", "measure", "copy", "open", "abandon"] = Field(
        "whole",
        description="all of it; or only say whether it is possible; or how much differs; or close"
        " the volumes and copy; or serve them again after that; or serve them as they are",
    )
    id: CutId | None = Field(
        None,
        description="of the rollback, where several controllers take part in it; needed to serve"
        " the volumes again",
    )
    force: bool = Field(False, description="disconnect the clients of the volumes")
    progress: bool = Field(
        False, description="answer with lines of progress; the last line is the result"
    )


class RolledBackVolume(Answer):
    name: str
    served: bool = Field(description="clients may use it")
    compared_bytes: Bytes = Field(0, description="what changed since the cut, in whole grains")
    differing_bytes: Bytes = Field(0, description="of that, what differed, in blocks")
    written_bytes: Bytes = Field(0, description="what was written to the volume, by this run of it")


class RolledBack(Answer):
    """POST /v1/rollback; with `progress` this is the last line, with `"event": "done"`."""

    id: str = Field(description="of the rollback")
    cut: str = Field(description="id of the cut")
    tag: str = ""
    volumes: list[RolledBackVolume]


class RollbackProgress(Answer):
    """A line of POST /v1/rollback with `progress`."""

    event: Literal["progress"]
    name: str
    done_bytes: Bytes
    total_bytes: Bytes


class RollbackStatus(Answer):
    """The last rollback or restore of a volume. Until it is done or abandoned the volume is not
    served.
    """

    id: str
    cut: str = Field(description="id of the cut that it goes back to")
    backup: str | None = Field(
        None,
        description="of a restore: the backup of that cut that a client writes to the volume; it is"
        " running while that is connected",
    )
    state: Literal["running", "ready", "stopped", "done", "abandoned"] = Field(
        description="under way; copied, and to be opened; to be taken up again; over; given up:"
        " the volume was a mixture then"
    )
    time: float = Field(description="when it began, or was over")
    done_bytes: Bytes = Field(0, description="compared, since the daemon was started")
    total_bytes: Bytes = Field(0, description="what is to be compared")
    written_bytes: Bytes = Field(0, description="written, since the daemon was started")
    error: str | None = Field(None, description="why it stopped, if this daemon knows")
