"""The scenario of `scenario.py` on disks that fail, are repaired and mounted again: the un-synced
writes of one file system, or of two, are lost, and the machine's boot id stays.
"""

from __future__ import annotations

from tests.sim import scenario
from tests.sim.scenario import Scenario

JOURNAL = "/state"
# What was on the disk that failed; the other file systems keep everything
LOST = ((JOURNAL,), ("/b",), (JOURNAL, "/b"), ("/a",), (JOURNAL, "/a"), ("/a", "/b"))


class RepairedDisk(Scenario):
    """Each scenario has one kind of loss, and a few kills without a loss between."""

    losses = 0.9
    flushes = 0.02  # what is synced cannot be lost

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.lost = LOST[seed % len(LOST)]

    def _note_states(self, power: bool) -> None:
        """Changes are lost only with the end of the journal."""
        super()._note_states(power and JOURNAL in self.lost)
        if power:
            self.kept = None

    def _crash(self, power: bool) -> None:
        self.machine.crash(False, self.lost if power else ())


def run(seed: int) -> None:
    """One seed; a failure names it, with the last operations."""
    scenario.run(seed, RepairedDisk)
