"""The answers about a restart in place."""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer


class Restarting(Answer):
    """POST /v1/restart: it begins now."""

    id: str = Field(description="that `last.id` of GET /v1/restart will be, once it is done")
    version: str = Field(description="of the program that takes over")
    previous_version: str = Field(description="of the program that answers")
    program: str = Field(description="the one that answers, as GET /v1/restart names it")


class LastRestart(Answer):
    """How this program came to serve."""

    id: str
    time: float = Field(description="when clients were served again, Unix time")
    pause_s: float = Field(description="how long clients were not served at a time")
    clients_kept: int = Field(description="connections of NBD clients that went on")
    clients_lost: int = Field(
        description="those that were closed: with TLS, too slow, or not allowed any longer"
    )
    previous_version: str = Field(description="of the program before this one")
    failed: str | None = Field(
        None,
        description="why the next program could not be started: the one before it goes on",
    )


class Restarted(Answer):
    """GET /v1/restart."""

    program: str = Field(description="changes with each program, in the same process or another")
    last: LastRestart | None = Field(description="null: the process was started anew")
