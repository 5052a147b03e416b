"""The bodies of requests. Their limits are those that the engine relies on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from duplexd.api.models.base import Name, Request
from duplexd.core.past_point import PastCut, PastPoint
from duplexd.limits import (
    GRADE_CHARACTERS_MAX,
    HOLD_SECONDS_MAX,
    MEMBERS_MAX,
    NAME_CHARACTERS_MAX,
    PATH_CHARACTERS_MAX,
    TAG_CHARACTERS_MAX,
    VOLUMES_MAX,
)

Targets = Annotated[
    list[Name],
    Field(
        min_length=1,
        max_length=VOLUMES_MAX,
        description="names of volumes or groups; a group means its volumes",
    ),
]
TIME_MAX = 253_402_300_799.0  # the end of the year 9999, which others can show
INTEGER_MAX = (1 << 63) - 1  # what others keep in 64 bits, and Prometheus in a float
CUT_ID_PATTERN = "^[0-9a-f]{16}$"
CutId = Annotated[str, Field(pattern=CUT_ID_PATTERN, description="id of a cut")]
Fence = Annotated[
    int | None,
    Field(
        ge=0,
        le=INTEGER_MAX,
        description="newest fencing number of the lease; an older one is refused",
    ),
]
HoldSeconds = Annotated[float, Field(gt=0, le=HOLD_SECONDS_MAX)]


class QuiesceRequest(Request):
    """Hold the writes of the targets."""

    targets: Targets
    hold_s: HoldSeconds | None = Field(
        None,
        description="the hold expires after this many seconds; null: the controller's hold_max",
    )
    cut: CutId | None = Field(
        None, description="hold for this cut of a group of controllers; all must be DUPLEX"
    )
    mark: bool = Field(
        False, description="that cut is a mark: it suspends nobody, and no state is needed for it"
    )


class AtSequence(Request):
    """A point of the past: a number."""

    sequence: int = Field(ge=0, le=INTEGER_MAX, description="of the sequence")


class AtTime(Request):
    """A point of the past: what was there at a time."""

    time: float = Field(ge=0, le=TIME_MAX, description="seconds since 1970")


class AtMark(Request):
    """A point of the past: a mark."""

    mark: Name = Field(description="id, or tag of the latest")


class SuspendRequest(Request):
    """Cut the targets at one point."""

    targets: Targets
    tag: str = Field(
        "", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut"
    )
    lease: Name | None = Field(
        None, description="the hold under which to cut; it ends with the cut"
    )
    fence: Fence = None
    certificate: bool = Field(False, description="answer with what a certificate of the cut holds")
    allow_existing: bool = Field(
        False, description="a cut that all targets are at already is an answer, too (`already`)"
    )
    reader: Name | None = Field(
        None, description="a reader of this name keeps the secondaries at the cut, until it ends"
    )
    progress: bool = Field(
        False, description="answer with lines: when the cut is made, then the result"
    )
    at: AtSequence | AtTime | AtMark | None = Field(
        None, description="suspend delayed secondaries at this point, which has passed"
    )
    onward: bool = Field(
        False, description="with `at`: SUSPENDED secondaries go on to it from their cut"
    )

    @property
    def past(self) -> PastCut | None:
        """The cut at a point of the past that it names."""
        if self.at is None:
            return None
        return PastCut(PastPoint(**self.at.model_dump()), self.onward)


class ResyncRequest(Request):
    """Bring suspended secondaries back."""

    targets: Targets
    wait: bool = Field(
        False, description="answer with lines of progress until all are DUPLEX or one failed"
    )
    partial: bool = Field(
        False, description="leave out what cannot be resynced, and say so; else nothing is started"
    )
    cut: CutId | None = Field(None, description="only if all targets are at this cut")
    reader: Name | None = Field(
        None, description="end this reader first; nothing is started while there are others"
    )
    force: bool = Field(False, description="end all readers of the secondaries first")


class VerifyRequest(Request):
    """Compare the legs."""

    targets: Targets
    progress: bool = Field(
        False, description="answer with lines of progress; the last line is the result"
    )


class SwapRequest(Request):
    """Let the two images of each pair change roles."""

    targets: Targets
    roll_forward: bool = Field(
        False,
        description="of a SUSPENDED pair: bring the secondary from its cut to the last change",
    )
    keep_to: str | None = Field(
        None,
        min_length=1,
        max_length=PATH_CHARACTERS_MAX,
        description="with `roll_forward`, of one volume: a new file, to which the secondary is"
        " copied first, as it is at its cut; for root and the daemon's own user only",
    )
    lose_changes: bool = Field(
        False,
        description="of a SUSPENDED pair: take the secondary as it is at its cut; later changes"
        " are lost",
    )
    accept_differences: bool = Field(
        False,
        description="swap also a pair whose legs are known to differ: clients get what the"
        " secondary holds there",
    )
    force: bool = Field(False, description="end all readers of the secondaries first")


class RepairRequest(Request):
    """Make the legs of pairs equal where they are known to differ."""

    targets: Targets
    source: Literal["primary", "secondary"] = Field(
        alias="from", description="role of the image that is right; the other gets its content"
    )
    dry_run: bool = Field(False, description="only say which ranges would be written")
    some: bool = Field(
        False, description="succeed also if no difference is recorded of any of the targets"
    )


class AdoptRequest(Request):
    """Take the primary images of volumes that are not served as they are."""

    targets: Targets


class RenewRequest(Request):
    """Extend a hold. It gets a new fencing number: a client with only the old one has lost it."""

    hold_s: HoldSeconds = Field(description="from now on")
    fence: Fence = None


class CutRequest(Request):
    """Make a group's cut under the lease that is held for it. The gates stay closed."""

    lease: Name
    fence: Annotated[int, Field(ge=0, le=INTEGER_MAX)]
    tag: str = Field(
        "", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut"
    )
    group: str = Field(
        "",
        max_length=NAME_CHARACTERS_MAX,
        description="name of the group, as the coordinator calls it",
    )
    members: list[Name] = Field(
        min_length=1,
        max_length=MEMBERS_MAX,
        description="names of all controllers of the group",
    )


class StandRequest(Request):
    """Bring secondaries to a mark, as one of several controllers that all go there."""

    targets: Targets
    mark: CutId = Field(description="id of the mark")
    tag: str = Field(
        "", max_length=TAG_CHARACTERS_MAX, description="text that is kept with the cut"
    )
    group: str = Field(
        "", max_length=NAME_CHARACTERS_MAX, description="as the coordinator calls it"
    )
    members: list[Name] = Field(
        min_length=1,
        max_length=MEMBERS_MAX,
        description="names of all controllers of the group",
    )
    onward: bool = Field(False, description="SUSPENDED secondaries go on to it from their cut")
    check: bool = Field(False, description="only say whether they can")

    def past(self, cut_id: str) -> PastCut:
        """The cut that it names."""
        return PastCut(PastPoint(mark=self.mark), self.onward, cut_id, self.group, self.members)


class OpenRequest(Request):
    """Open the gates after the cut."""

    lease: Name
    fence: Annotated[int, Field(ge=0, le=INTEGER_MAX)]


class CutEmpty(Request):
    """A coordinator's command for a cut; it needs nothing but the path."""


class GradeRequest(Request):
    """What a canary found on the secondaries of a cut."""

    consistent: bool
    records: int = Field(ge=0, le=INTEGER_MAX, description="records that it looked at")
    detail: str = Field(
        "", max_length=GRADE_CHARACTERS_MAX, description="the first things that it found"
    )


class RestartRequest(Request):
    """Let another program take the daemon's place."""

    force: bool = Field(False, description="also where clones exist, which end")


class ReloadRequest(Request):
    """Read the configuration again."""

    check: bool = Field(False, description="say what would change, and change nothing")
    text: str | None = Field(
        None, description="with `check`: a configuration to check, instead of the daemon's file"
    )
    path: str | None = Field(
        None,
        max_length=PATH_CHARACTERS_MAX,
        description="where `text` lies: relative paths in it are relative to that",
    )
