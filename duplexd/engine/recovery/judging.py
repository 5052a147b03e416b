"""Whether the images that are open are those that the journal wrote to (`core/identity.py`), before
anything is applied to them, or called current.

A secondary that is not is put aside: to its pair it is absent, until a resync takes whatever lies
at its path for the new one, and copies all of it. A primary that is not has lost what made it the
volume, or never was: it is put aside too, and only `adopt` takes it as it is.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.identity import away, doubted
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, absent, why_absent
from duplexd.engine.recovery.identify import Evidence
from duplexd.images.absent import AbsentLeg
from duplexd.images.probe import as_on_the_medium
from duplexd.known import known
from duplexd.runtime.tasks import more_as_they_wait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.core.identity import Judgement
    from duplexd.core.pair import PairRecord
    from duplexd.engine.opening import Opener
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.images.leg import Leg
    from duplexd.images.probe import Found

_ROLES = (PRIMARY, SECONDARY)


class Judged(NamedTuple):
    """The images of a volume, and what is wrong with each: "" for one that is what it should be.

    `exchanged`: each image lies where the other one should, so the roles follow. `unproven`:
    nothing says that the secondary is the image that it should be, or is not.
    """

    images: Images
    primary: str = ""
    secondary: str = ""
    exchanged: bool = False
    unproven: bool = False


class Judging:
    """`adopt`: images are taken as they are. `ahead`: the latest start that an image was used at,
    if the state directory does not know all of it.
    """

    def __init__(self, journal: ReadJournal, opener: Opener, adopt: bool = False) -> None:
        self._ledger = journal.ledger
        self._opener = opener
        self._adopt = adopt
        self._end = journal.tail.sequence
        self._evidence = Evidence(journal)
        self.ahead = 0

    async def all(
        self,
        opened: Mapping[str, Images],
        records: Mapping[str, PairRecord],
        modes: Mapping[str, str],
    ) -> dict[str, Judged]:
        """Judge the images of all volumes."""
        looked = await self._look_at(opened, records, modes)
        self.ahead = self._evidence.compare(found for _, both in looked for found in both)
        self._ledger.is_older(self.ahead, self._end)
        judged = await asyncio.gather(
            *(
                self._one(images, found, records.get(name), modes[name])
                for name, (images, found) in zip(opened, looked, strict=True)
            )
        )
        return dict(zip(opened, judged, strict=True))

    async def _look_at(
        self,
        opened: Mapping[str, Images],
        records: Mapping[str, PairRecord],
        modes: Mapping[str, str],
    ) -> list[tuple[Images, tuple[Found | None, Found | None]]]:
        """What is found of each volume, which the journal may not know yet."""
        found: dict[tuple[str, str], tuple[Found | None, Leg | None]] = {}

        async def one(side: tuple[str, str]) -> None:
            name, role = side
            images = opened[name]
            leg = images.primary if role == PRIMARY else images.secondary
            if images.refused:
                found[side] = None, leg
            else:
                found[side] = await self._look(records.get(name), leg, role, modes[name])

        await more_as_they_wait([(name, role) for name in opened for role in _ROLES], one)
        looked = []
        for name, images in opened.items():
            (ours, primary), (theirs, secondary) = (found[name, role] for role in _ROLES)
            primary = known(primary, "a leg that was looked at, or one that is absent")
            looked.append((images._replace(primary=primary, secondary=secondary), (ours, theirs)))
        return looked

    async def _one(
        self,
        images: Images,
        found: tuple[Found | None, Found | None],
        record: PairRecord | None,
        mode: str,
    ) -> Judged:
        if images.refused:
            if record is not None:  # what the journal has for its images they get later
                self._settle(record, mode, images, found, newer=False)
            return Judged(images)
        ours, theirs = found
        if record is None:
            new = [found and self._evidence.judge_new(found) for found in (ours, theirs)]
            return await self._conclude(images, new[0], new[1])
        said = self._evidence.judge(record, mode, ours, theirs)
        if theirs is not None and said[1] is not None:
            facts = self._evidence.facts(record, mode)[1]
            said = said[0], doubted(said[1], record, theirs, facts)
        judged = await self._conclude(images, *said)
        if not judged.exchanged:
            newer = any(each is not None and each.kind == "newer" for each in said)
            self._settle(record, mode, judged.images, (ours, theirs), newer)
        return judged

    async def _look(
        self, record: PairRecord | None, leg: Leg | None, role: str, mode: str
    ) -> tuple[Found | None, Leg | None]:
        """What is found; an image that cannot be looked at is absent."""
        if leg is None or why_absent(leg):
            return None, leg
        look = partial(self._evidence.look, record, leg, mode)
        try:
            if self._adopt and role == PRIMARY:
                await self._opener.look(leg, role, partial(as_on_the_medium, leg))
            return await self._opener.look(leg, role, look), leg
        except OSError as error:
            return None, await self._aside(leg, error.strerror or str(error))

    def _settle(
        self,
        record: PairRecord,
        mode: str,
        images: Images,
        found: tuple[Found | None, Found | None],
        newer: bool,
    ) -> None:
        """What later starts are to find of images that are not used now."""
        facts = self._evidence.facts(record, mode)
        recorded = [record.primary_image, record.secondary_image]
        for role, leg in enumerate((images.primary, images.secondary)):
            image, there = recorded[role], found[role]
            if image is not None and isinstance(leg, AbsentLeg):
                last_there = there is None or there.last_there
                recorded[role] = away(image, facts[role], last_there, newer)
                leg.settled = True
        self._ledger.use_images(record, recorded[0], recorded[1])

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
        unproven = theirs is not None and theirs.current and not theirs.proven
        return Judged(images, wrong[0], wrong[1], unproven=unproven)

    async def _aside(self, leg: Leg, why: str) -> Leg:
        await self._opener.close(leg)
        return absent(leg.path, leg.size, why)


def changed(why: str) -> OSError:
    """The error of an image that is not the one of the journal."""
    return OSError(errno.ESTALE, why)
