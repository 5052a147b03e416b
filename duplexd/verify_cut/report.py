"""The result of a check, as `verify-cut --json` writes it. docs/verify-cut.md has the fields.

The outcome is computed, never stored: one contradiction anywhere refutes the certificate, and
absence of evidence is reported as such and never as confirmation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.json_object import Json

CONFIRMED, REFUTED, UNCHECKED = "confirmed", "refuted", "unchecked"
RECORDED = "recorded"
FOUND, DROPPED, ABSENT, CONTRADICTED = "found", "dropped", "absent", "contradicted"


@dataclass
class VolumeReport:
    """One volume. A byte counts once in `checked_bytes`, however many witnesses confirm it."""

    name: str
    size: int
    secondary: str = ""
    stands: bool = False  # the secondary is still as the cut left it
    by_journal_bytes: int = 0  # hold what the journal says they held at the cut
    by_primary_bytes: int = 0  # equal the primary, which did not change there since the cut
    checked_bytes: int = 0
    data_bytes: int = 0  # of the secondary are in no hole, and
    checked_data_bytes: int = 0  # of these were checked
    whole_journal: bool = False  # checked by every change before the cut that the journal has
    wrong_bytes: int = 0  # differ from what they were at the cut
    undecided_bytes: int = 0  # differ now, but a starting daemon may still write them
    unchecked: list[str] = field(default_factory=list)  # why other bytes could not be checked

    @property
    def unchecked_bytes(self) -> int:
        """Bytes that no witness confirmed or contradicted."""
        return self.size - self.checked_bytes - self.wrong_bytes

    @property
    def confirmed(self) -> bool:
        """Whether enough was checked: most of its data, or, where the primary is no witness, all
        that the journal has written to it. A few bytes or holes that agree confirm nothing.
        """
        if self.whole_journal and self.by_journal_bytes > 0:
            return True
        return 2 * self.checked_data_bytes >= self.data_bytes and self.checked_bytes > 0


@dataclass
class MemberReport:
    """One controller.

    `record`: what was found of the cut in its journal. `undecided`: what would contradict, but that
    a daemon may be about to change it.
    """

    name: str
    record: str = ABSENT
    journal: str = ""
    first_sequence: int = 0
    last_sequence: int = 0
    ready: bool = False
    agreed: bool = False
    volumes: list[VolumeReport] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


@dataclass
class Report:
    """All controllers. `contradictions` and `void` here are about the certificate itself."""

    cut: str
    group: str
    verdict: str  # the certificate's
    contradictions: list[str] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    controllers: list[MemberReport] = field(default_factory=list)

    @property
    def is_void(self) -> bool:
        """Whether anything says that the cut is void."""
        return bool(self.void) or any(member.void for member in self.controllers)

    @property
    def outcome(self) -> str:
        """REFUTED if anything contradicts the certificate.

        Else UNCHECKED, if no journal has the record of the cut or something is undecided; CONFIRMED
        if each volume of the controllers that have it is; else RECORDED.
        """
        if (
            self.is_void
            or self.contradictions
            or any(member.contradictions for member in self.controllers)
        ):
            return REFUTED
        found = [member for member in self.controllers if member.record == FOUND]
        if self.undecided or not found:
            return UNCHECKED
        volumes = [volume for member in found for volume in member.volumes]
        checked = bool(volumes) and all(volume.confirmed for volume in volumes)
        return CONFIRMED if checked else RECORDED

    @property
    def undecided(self) -> bool:
        """Whether there is anything that only a later check can decide."""
        return any(member.undecided for member in self.controllers)

    @property
    def complete(self) -> bool:
        """Whether everything could be checked."""
        volumes = [volume for member in self.controllers for volume in member.volumes]
        found = all(member.record == FOUND and not member.unchecked for member in self.controllers)
        return found and all(not volume.unchecked_bytes for volume in volumes)

    def json(self) -> Json:
        """As a JSON object."""
        value = {
            "outcome": self.outcome,
            "is_void": self.is_void,
            "complete": self.complete,
            **asdict(self),
        }
        for member, shown in zip(self.controllers, value["controllers"], strict=True):
            for volume, row in zip(member.volumes, shown["volumes"], strict=True):
                row["unchecked_bytes"] = volume.unchecked_bytes
        return value
