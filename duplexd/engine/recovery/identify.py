"""Are the images that a start has opened the ones that the journal knows, as it left them?

    evidence = Evidence(journal)              # the journal is read, no leg is written yet
    found = evidence.look(record, leg, mode)  # in a worker, for each leg that is open
    evidence.judge(record, mode, primary, secondary)

What follows from a judgement that is not `current` is for others to do: a secondary is suspended
and compared, the volume of a primary goes on from its secondary or is not served. Nothing here
writes to an image: the checkpoint that ends the start marks those that it takes for its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.identity import Facts, Side, judge, judge_pair, latest_start, older
from duplexd.core.since import known
from duplexd.images.probe import probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.core.identity import Judgement
    from duplexd.core.pair import PairRecord
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.images.leg import Leg
    from duplexd.images.probe import Found


class Evidence:
    """What the journal says of all images, for the start that has read it."""

    def __init__(self, journal: ReadJournal) -> None:
        self._since = journal.since
        self._complete = journal.complete
        self._end = journal.tail.sequence
        self._known = known(journal.ledger, journal.ring.controller.hex(), self._end)
        self._older = False

    def look(self, record: PairRecord | None, leg: Leg, mode: str) -> Found:
        """Look at an image, of a volume that the journal may not know. Blocking. Raises OSError."""
        if record is None:
            return probe(leg, ())
        # Where either image was sampled: they may lie at each other's path.
        images = (record.primary_image, record.secondary_image)
        offsets = {offset for image in images if image is not None for offset in image.offsets}
        return probe(leg, sorted(offsets), self.facts(record, mode)[0].last)

    def judge(
        self, record: PairRecord, mode: str, primary: Found | None, secondary: Found | None
    ) -> tuple[Judgement | None, Judgement | None]:
        """Judge the images of a pair, by role; None where none was found."""
        of_primary, of_secondary = self.facts(record, mode)
        return judge_pair(
            record.name,
            self._known,
            Side(record.primary_image, primary, of_primary),
            Side(record.secondary_image, secondary, of_secondary),
        )

    def compare(self, found: Iterable[Found | None]) -> int:
        """Look at the marks of all images, before any is judged: one of them is enough to show that
        the state directory is an older copy, and then no image may be newer than its journal.
        Returns the latest start that an image was used at, if this state lacks some of it; else 0.
        """
        latest = max((latest_start(self._known, each) for each in found), default=0)
        self._older = latest > 0
        return latest

    def judge_new(self, found: Found) -> Judgement:
        """Judge an image of a volume, or of a role, that is new to the journal."""
        return judge(self._known, None, found, Facts())

    def facts(self, record: PairRecord, mode: str) -> tuple[Facts, Facts]:
        """What the journal says was written to each image since the checkpoint."""
        ours, theirs = self._since.facts(record, self._complete, mirrors=mode == "sync")
        return (older(ours), older(theirs)) if self._older else (ours, theirs)
