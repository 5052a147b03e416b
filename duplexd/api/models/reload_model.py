"""The answer of a reload: what the daemon does otherwise from now on."""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer


class Reloaded(Answer):
    """POST /v1/reload."""

    applied: bool = Field(description="false if it was only checked")
    changes: list[str] = Field(
        description="what changed, or would change, for people; empty if nothing"
    )
