"""What changed between two cuts of volumes."""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, Verdict


class ChangePoint(Answer):
    """One end of an interval."""

    cut: str | None = Field(description="null: now")
    tag: str = ""
    sequence: int
    time: float | None = Field(None, description="null: now")
    verdict: Verdict | None = Field(
        None, description="null while it is in doubt, now, or where only its changes are remembered"
    )


class Extent(Answer):
    """Bytes that may have changed."""

    offset: Bytes
    length: Bytes


class VolumeChanges(Answer):
    """Of one volume. Blocks outside of the extents hold the same at both ends."""

    name: str
    size: Bytes = Field(description="at `until`; it may have grown since")
    grain_bytes: Bytes = Field(description="extents are rounded to it")
    since: ChangePoint
    until: ChangePoint
    changed_bytes: Bytes = Field(description="in all extents, also those of further answers")
    exact: bool = Field(description="false: more than what changed counts, and why says the reason")
    why: list[str]
    extents: list[Extent]
    next_offset: Bytes | None = Field(
        description="null: that is all; else ask for this volume again with this offset, and"
        " name the cuts by id"
    )


class Changes(Answer):
    """At most 8192 extents in all."""

    volumes: list[VolumeChanges]
