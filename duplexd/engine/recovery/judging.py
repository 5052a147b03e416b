"""Whether the images that are open are those that the journal wrote to (`core/identity.py`), before
anything is applied to them, or called current.

A secondary that is not is put aside: to its pair it is absent, until a resync takes whatever lies
at its path for the new one, and copies all of it. A primary that is not has lost what made it the
volume, or never was: it is put aside too, and only `adopt` takes it as it is.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.identity import Facts, Side, away, judge_pair
from duplexd.core.since import known
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, why_absent
from duplexd.images.absent import AbsentLeg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.core.identity import Judgement
    from duplexd.core.image import Image
    from duplexd.core.pair import PairRecord
    from duplexd.engine.opening import Opener
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.images.identity import Found
    from duplexd.images.leg import Leg


class Judged(NamedTuple):
    """The images of a volume, and what is wrong with each: "" for one that is what it should be.

    `exchanged`: each image lies where the other one should, so the roles follow.
    """

    images: Images
    primary: str = ""
    secondary: str = ""
    exchanged: bool = False


class Judging:
    """`complete`: no record of a change can be missing. `adopt`: images are taken as they are."""

    def __init__(
        self, journal: ReadJournal, opener: Opener, complete: bool, adopt: bool = False
    ) -> None:
        self._journal = journal
        self._opener = opener
        self._complete = complete
        self._adopt = adopt
        self._known = known(journal.ledger, str(journal.saved["controller"]))

    async def all(
        self,
        opened: Mapping[str, Images],
        records: Mapping[str, PairRecord],
        modes: Mapping[str, str],
    ) -> dict[str, Judged]:
        """Judge the images of all volumes."""
        judged = await asyncio.gather(
            *(
                self.one(name, images, records.get(name), modes[name])
                for name, images in opened.items()
            )
        )
        return dict(zip(opened, judged, strict=True))

    async def one(self, name: str, images: Images, record: PairRecord | None, mode: str) -> Judged:
        """Judge those of one volume, which the journal may not know yet."""
        if images.refused:
            return Judged(images)
        facts = Facts(), Facts()
        recorded: tuple[Image | None, Image | None] = None, None
        if record is not None:
            facts = self._journal.since.facts(record, self._complete, mode == "sync")
            recorded = record.primary_image, record.secondary_image
        offsets = {at for image in recorded if image is not None for at in image.offsets}
        found, images = await self._look(images, sorted(offsets), facts[0])
        sides = [Side(*each) for each in zip(recorded, found, facts, strict=True)]
        judged = await self._conclude(images, *judge_pair(name, self._known, sides[0], sides[1]))
        if record is not None and not judged.exchanged:
            self._settle(record, judged.images, sides)
        return judged

    def _settle(self, record: PairRecord, images: Images, sides: Sequence[Side]) -> None:
        """What later starts are to find of images that are not used now."""
        settled = []
        for leg, (recorded, found, facts) in zip(
            (images.primary, images.secondary), sides, strict=True
        ):
            if recorded is not None and isinstance(leg, AbsentLeg):
                recorded = away(recorded, facts, found is None or found.last_there)
                leg.settled = True
            settled.append(recorded)
        self._journal.ledger.use_images(record, settled[0], settled[1])

    async def _look(
        self, images: Images, offsets: list[int], facts: Facts
    ) -> tuple[tuple[Found | None, Found | None], Images]:
        """What is found; an image that cannot be looked at is absent."""

        async def look(leg: Leg | None, role: str) -> tuple[Found | None, Leg | None]:
            if leg is None or why_absent(leg):
                return None, leg
            try:
                return await self._opener.probe(leg, role, offsets, facts.last), leg
            except OSError as error:
                why = f"{leg.path}: {error.strerror or error}"
                await self._opener.close(leg)
                return None, AbsentLeg(leg.path, leg.size, why)

        (ours, primary), (theirs, secondary) = await asyncio.gather(
            look(images.primary, PRIMARY), look(images.secondary, SECONDARY)
        )
        assert primary is not None
        return (ours, theirs), images._replace(primary=primary, secondary=secondary)

    async def _conclude(
        self, images: Images, ours: Judgement | None, theirs: Judgement | None
    ) -> Judged:
        kinds = {judgement.kind for judgement in (ours, theirs) if judgement is not None}
        if "exchanged" in kinds and images.secondary is not None:
            primary, secondary = images.secondary, images.primary
            return Judged(images._replace(primary=primary, secondary=secondary), exchanged=True)
        wrong = [
            judgement.why if judgement is not None and not judgement.current else ""
            for judgement in (ours, theirs)
        ]
        if wrong[0] and not self._adopt:
            images = images._replace(primary=await self._aside(images.primary, wrong[0]))
        if wrong[1] and not self._adopt and images.secondary is not None:
            images = images._replace(secondary=await self._aside(images.secondary, wrong[1]))
        return Judged(images, wrong[0], wrong[1])

    async def _aside(self, leg: Leg, why: str) -> Leg:
        await self._opener.close(leg)
        return AbsentLeg(leg.path, leg.size, why)


def changed(why: str) -> OSError:
    """The error of an image that is not the one of the journal."""
    return OSError(errno.ESTALE, why)
