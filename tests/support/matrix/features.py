"""The features, clients as rows of functions, and what a cell says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.matrix.rig import Rig

WORKS, LACKS, DIFFERS = "works", "-", "differs"

UNIX, TCP, TLS12, TLS13 = "Unix socket", "TCP", "TLS 1.2", "TLS 1.3"
NAMES, LIST, EXPORT_NAME, READ_ONLY = "names", "list", "EXPORT_NAME", "read-only"
FLUSH, TRIM, TRIM_4G, ZEROES = "flush and FUA", "trim", "trim of 4 GiB - 512", "zeroes"
STRUCTURED, STATUS, EXTENDED = "structured reads", "block status", "64-bit lengths"
UNALIGNED, MIB_32, MIB_64 = "unaligned", "32 MiB requests", "64 MiB requests"
FOUR = "4 connections"
HOLD, STOP, KILL = "hold of 10 s", "daemon stopped", "daemon killed -9"
# FEATURES are tried one after the other on one daemon, UNDER_LOAD with all clients at once.
FEATURES = (
    UNIX, TCP, TLS12, TLS13, NAMES, LIST, EXPORT_NAME, READ_ONLY, FLUSH, TRIM, TRIM_4G, ZEROES,
    STRUCTURED, STATUS, EXTENDED, UNALIGNED, MIB_32, MIB_64, FOUR,
)  # fmt: skip
UNDER_LOAD = (HOLD, STOP, KILL)


@dataclass
class Client:
    """One column. `version`: as it says it itself. `notes`: why a feature is lacking or differs."""

    key: str
    name: str
    version: Callable[[], str]
    checks: dict[str, Callable[[Rig], None]] = field(default_factory=dict)
    notes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def can(self, feature: str) -> Callable[[Callable[[Rig], None]], Callable[[Rig], None]]:
        """Decorates what fails if the feature does not work."""
        assert feature in FEATURES

        def add(check: Callable[[Rig], None]) -> Callable[[Rig], None]:
            self.checks[feature] = check
            return check

        return add

    def lacks(self, why: str, *features: str) -> None:
        """The client has no such thing, or no way to ask for it."""
        self.notes |= dict.fromkeys(features, (LACKS, why))

    def differs(self, why: str, *features: str) -> None:
        """It works otherwise than the feature says; its check expects that."""
        self.notes |= dict.fromkeys(features, (DIFFERS, why))

    def measure(self, feature: str, rig: Rig) -> str:
        """The cell."""
        word, _why = self.notes.get(feature, (WORKS, ""))
        if word != LACKS:
            self.checks[feature](rig)
        return word
