"""The steps of a backup, and what a run that is killed in each of them leaves behind. Pure.

A backup must survive a kill at any moment: the next run removes what the dead one left, and a
reader that nobody ends would keep the pairs suspended for ever. So each step is a value, each
lists what may be left of it, and tests kill a run at the beginning of every one of them. The order
follows from that: what tidies a step up is written down, durably, before the step begins.

    RECORD   the name of the reader, in the directory's record: written before the suspend
    READER   the reader itself, at the controllers: the pairs stay at the cut until it ends
    PARTIAL  a directory of images that is no backup: named NAME.partial until all is checked
    BACKUP   a whole backup: from the rename on it is listed, whatever happens after it
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

RECORD, READER, PARTIAL, BACKUP = "record", "reader", "partial", "backup"


class Step(Enum):
    """In order; the value is what a person reads. BASE is of incremental backups."""

    TIDY = "tidying up after earlier runs"
    BASE = "checking the backups that this one lies on"
    DUPLEX = "bringing the pairs to DUPLEX"
    SUSPEND = "suspending the pairs at one cut"
    COPY = "copying"
    COMPARE = "comparing the copies with the cut, and computing check-sums"
    PROVE = "checking the cut against the journal"
    CONFIRM = "asking whether the cut was left meanwhile"
    PUBLISH = "naming the backup"
    RELEASE = "ending the reader and resyncing"
    PRUNE = "removing older backups"


_NOTHING: frozenset[str] = frozenset()
_COPYING = frozenset({RECORD, READER, PARTIAL})

# What is there when a step begins, of those before it.
LEFT: dict[Step, frozenset[str]] = {
    Step.TIDY: _NOTHING,
    Step.BASE: _NOTHING,
    Step.DUPLEX: _NOTHING,
    Step.SUSPEND: frozenset({RECORD}),
    Step.COPY: _COPYING,
    Step.COMPARE: _COPYING,
    Step.PROVE: _COPYING,
    Step.CONFIRM: _COPYING,
    Step.PUBLISH: _COPYING,
    Step.RELEASE: frozenset({RECORD, READER, BACKUP}),
    Step.PRUNE: frozenset({BACKUP}),
}


class Watch(Protocol):
    """Who is shown what a run does."""

    def step(self, step: Step) -> None: ...
    def progress(self, name: str, done: int, total: int) -> None: ...
    def warn(self, text: str) -> None: ...
