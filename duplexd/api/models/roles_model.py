"""The answer of swap and adopt: which image of each volume is what clients read and write.

Both commands answer with the same object, because the operator has the same question after either:
what is served from where now, and what was given up for it.
"""

from __future__ import annotations

from pydantic import Field

from duplexd.api.models.base import Answer, Bytes, PairState


class Lost(Answer):
    """Acknowledged changes that no image holds now: given up by a swap, or by an adopt."""

    records: int | None = Field(None, description="how many; null if the journal does not say")
    first: int | None = Field(None, description="number of the first one")
    last: int | None = Field(None, description="number of the last one")
    bytes: Bytes = Field(0, description="what they changed")
    since: float | None = Field(None, description="time of the point that is left")


class RolesVolume(Answer):
    name: str
    state: PairState
    reason: str | None = None
    swapped: bool = Field(
        description="clients read and write the image of the key `secondary` of the configuration"
    )
    primary: str = Field(description="path of the image that clients read and write")
    secondary: str | None = Field(None, description="path of the other image; null for SIMPLEX")
    sequence: int = Field(description="the number at which this took effect")
    lost: Lost | None = Field(
        None, description="null if nothing was lost; of an adopt also if that is not known"
    )
    already: bool = Field(False, description="it was so before the command; nothing was done")
    taken: list[str] = Field(
        [], description="of an adopt: the roles whose images were taken, `primary`, `secondary`"
    )
    secondary_error: str | None = Field(
        None, description="of an adopt: why the secondary cannot be used; null if it can"
    )


class Roles(Answer):
    """POST /v1/swap and /v1/adopt."""

    volumes: list[RolesVolume]
