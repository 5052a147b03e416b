"""What came of a check, as `verify-cut --json` writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

CONFIRMED, REFUTED, UNCHECKED = "confirmed", "refuted", "unchecked"
FOUND, DROPPED, ABSENT, CONTRADICTED = "found", "dropped", "absent", "contradicted"


@dataclass
class VolumeReport:
    """Bytes are counted once in `checked_bytes`, however many things speak for them."""

    name: str
    size: int
    secondary: str = ""
    stands: bool = False  # the secondary is still where the cut left it
    by_journal_bytes: int = 0  # hold what the journal says that they held at the cut
    by_primary_bytes: int = 0  # equal the primary, which was not changed there since the cut
    checked_bytes: int = 0
    wrong_bytes: int = 0  # are not as they were at the cut
    undecided_bytes: int = (
        0  # are not now, but a daemon that is starting may still bring them there
    )
    unchecked: list[str] = field(default_factory=list)  # why the other bytes could not be checked

    @property
    def unchecked_bytes(self) -> int:
        """What nothing spoke for, nor against."""
        return self.size - self.checked_bytes - self.wrong_bytes


@dataclass
class MemberReport:
    """One controller. `record`: what became of the search for the cut's record in its journal."""

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
    undecided: list[str] = field(
        default_factory=list
    )  # what would contradict, were a daemon not about to change it
    unchecked: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The whole of it. What is wrong with the certificate itself is in `contradictions` and `void` here."""

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
        """REFUTED if anything contradicts the certificate; CONFIRMED if the cut's record was found and nothing does, or may; else UNCHECKED."""
        if (
            self.is_void
            or self.contradictions
            or any(member.contradictions for member in self.controllers)
        ):
            return REFUTED
        if self.undecided:
            return UNCHECKED
        return (
            CONFIRMED if any(member.record == FOUND for member in self.controllers) else UNCHECKED
        )

    @property
    def undecided(self) -> bool:
        """Whether there is anything that only a later check can tell."""
        return any(member.undecided for member in self.controllers)

    @property
    def complete(self) -> bool:
        """Whether there is nothing that could not be checked."""
        volumes = [volume for member in self.controllers for volume in member.volumes]
        found = all(member.record == FOUND and not member.unchecked for member in self.controllers)
        return found and all(not volume.unchecked_bytes for volume in volumes)

    def json(self) -> dict[str, Any]:
        """As an object that JSON can hold."""
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
