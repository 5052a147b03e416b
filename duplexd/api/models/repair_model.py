"""The answer of a repair: which places of which volumes, from which image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes


class RepairedVolume(Answer):
    name: str
    from_: Literal["primary", "secondary"] = Field(
        alias="from", description="role of the image whose content was taken"
    )
    path: str = Field(description="of that image")
    ranges: list[list[int]] = Field(description="offset and length of each place")
    bytes: Bytes = Field(description="how much that is")
    repaired: bool = Field(description="false with `dry_run`: nothing was changed")


class Repaired(Answer):
    """POST /v1/repair."""

    volumes: list[RepairedVolume]
    no_difference: list[str] = Field(
        default_factory=list, description="volumes of which none is recorded; nothing was done"
    )
