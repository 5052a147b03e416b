"""The images that a new configuration names: opened, or recognised, before anything is switched.

An image at another path may be the one that is open already: a disk that was mounted elsewhere, a
directory that was renamed. So the path is compared with the open image first, and only another
image is opened. A secondary may be any image that belongs to nobody else, because all of it is
copied; a primary may not, because nothing would bring the volume's content to it.

`look` finds out the same without creating anything, for `duplexd check`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.core.identity import Facts, judge
from duplexd.core.since import known
from duplexd.engine.live_changes import leg_change, not_the_same
from duplexd.engine.opening import (
    PRIMARY,
    SECONDARY,
    Images,
    absent,
    places,
    why_absent,
    would_overwrite,
)
from duplexd.engine.reopen import facts_of
from duplexd.errors import ConfigurationError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.images.probe import probe
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.image_record import Image
    from duplexd.core.pair import Pair
    from duplexd.engine.live_changes import LiveChanges
    from duplexd.engine.opening import Opener, Place
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg


class Prepared:
    """`opened`: images of new volumes, and of those that get another secondary, by name. `paths`:
    where an image in use is from now on. `gone`: the pairs that lose their secondary. `unused`:
    images that nothing uses any more after the switch.
    """

    def __init__(self) -> None:
        self.opened: dict[str, Images] = {}
        self.paths: dict[Leg, str] = {}
        self.gone: list[Pair] = []
        self.unused: list[Leg] = []


def legs_of(images: Images | Pair) -> list[Leg]:
    """The images that there are."""
    return [leg for leg in (images.primary, images.secondary) if leg is not None]


class NewImages:
    """Of one controller."""

    def __init__(
        self, timeline: Timeline, volumes: Volumes, opener: Opener, live_changes: LiveChanges
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._opener = opener
        self._live_changes = live_changes

    def known(self, name: str) -> Pair | None:
        """The volume, if it is in the journal."""
        pair = self._volumes.by_name.get(name)
        return None if pair is None or pair.id < 0 else pair

    async def prepare(self, old: Config, new: Config, prepared: Prepared) -> None:
        """Open what is new, into `prepared`: the caller closes it, whatever is raised. Raises
        ConfigurationError for images that cannot be used, WrongStateError.
        """
        for name, volume in new.volumes.items():
            pair = self.known(name)
            if pair is None:
                prepared.opened[name] = await to_its_end(self._open(name, volume))
                await self._refuse(name, prepared)
            else:
                await to_its_end(self._legs(pair, old, new, prepared, create=True))

    async def look(self, old: Config, new: Config) -> None:
        """Raises what `prepare` would; creates nothing, and leaves nothing open."""
        prepared = Prepared()
        try:
            for name, volume in new.volumes.items():
                pair = self.known(name)
                if pair is not None:
                    await to_its_end(self._legs(pair, old, new, prepared, create=False))
                elif name not in self._volumes.by_name:
                    await to_its_end(self._look_at_volume(name, volume))
        finally:
            await self.close(prepared)

    # --------------------------------------------------------------------------- new volumes

    async def _open(self, name: str, volume: VolumeConfig) -> Images:
        images = await self._opener.volume(name, volume, None)
        images = images._replace(primary=await self._judged(images.primary, PRIMARY))
        if images.secondary is None:
            return images
        return images._replace(secondary=await self._judged(images.secondary, SECONDARY))

    async def _refuse(self, name: str, prepared: Prepared) -> None:
        """A volume that was not served before because of its images just stays so."""
        images = prepared.opened[name]
        why = images.refused or why_absent(images.primary) or why_absent(images.secondary)
        if why and name in self._volumes.by_name:
            prepared.unused += legs_of(prepared.opened.pop(name))
            await self.close_unused(prepared)
        elif images.refused:
            raise ConfigurationError(images.refused)
        elif why:
            raise self._opener.refusal(next(leg for leg in legs_of(images) if why_absent(leg)))

    async def _look_at_volume(self, name: str, volume: VolumeConfig) -> None:
        at, other = places(volume, swapped=False)
        if other is not None and await self._opener.is_alone(at.path, other.path):
            raise ConfigurationError(would_overwrite(name, at, other))
        for place, role in ((at, PRIMARY), (other, SECONDARY)):
            if place is not None and await self._opener.is_there(place.path, role):
                leg, _ = await self._opener.leg(place.path, volume.size, role, create=False)
                leg = await self._judged(leg, role)
                await self._opener.close(leg)
                if why_absent(leg):
                    raise self._opener.refusal(leg)

    # ------------------------------------------------------------------- volumes that are served

    async def _legs(
        self, pair: Pair, old: Config, new: Config, prepared: Prepared, create: bool
    ) -> None:
        change = leg_change(pair, old.volumes[pair.name], new.volumes[pair.name])
        if change.secondary_gone:
            prepared.gone.append(pair)
        if change.primary is not None:
            if not await self._is_at(pair.primary, change.primary, PRIMARY):
                raise WrongStateError(not_the_same(pair, change.primary))
            prepared.paths[pair.primary] = change.primary.path
        place, before = change.secondary, pair.secondary
        if place is None:
            return
        if before is not None and await self._is_at(before, place, SECONDARY):
            prepared.paths[before] = place.path
            return
        self._live_changes.check_replaced(new, [pair])  # before an image is created in vain
        await self._secondary(pair, place, prepared, create)

    async def _is_at(self, leg: Leg, place: Place, role: str) -> bool:
        """Whether the image in use lies there. One that is absent is looked for there next time."""
        if isinstance(leg, AbsentLeg):
            return role == PRIMARY
        with suppress(OSError):
            return await self._opener.look(leg, role, lambda: leg.in_place(place.path))
        return False

    async def _secondary(self, pair: Pair, place: Place, prepared: Prepared, create: bool) -> None:
        """Where the primary has data is not asked: clients write until the switch. The copy finds
        the holes.
        """
        before, path = pair.secondary, place.path
        if not create and not await self._opener.is_there(path, SECONDARY):
            return
        leg, new = await self._opener.leg(path, pair.size, SECONDARY, create)
        recorded = pair.record.secondary_image
        if isinstance(before, AbsentLeg) and recorded and await self._is_current(leg, pair):
            await self._opener.close(leg)  # it is the one that was missing: a resync opens it
            prepared.paths[before] = path
            return
        overwrites = not new and await self._opener.holds_data(leg)
        images = Images(pair.primary, leg, False, new, [(0, pair.size)], overwrites)
        prepared.opened[pair.name] = images
        if why_absent(leg):
            raise self._opener.refusal(leg)
        judged = await self._judged(leg, SECONDARY)
        prepared.opened[pair.name] = images._replace(secondary=judged)
        if why := why_absent(judged):
            raise ConfigurationError(why)

    # ------------------------------------------------------------------------ whose image it is

    async def _is_current(self, leg: Leg, pair: Pair) -> bool:
        if why_absent(leg):
            return False
        recorded, facts = pair.record.secondary_image, facts_of(pair, pair.copy_of)
        return not await self._why_not(leg, SECONDARY, recorded, facts)

    async def _judged(self, leg: Leg, role: str) -> Leg:
        """An image that is new to the journal; absent, if it belongs to others."""
        if why_absent(leg):
            return leg
        why = await self._why_not(leg, role, None, Facts())
        if not why:
            return leg
        await self._opener.close(leg)
        return absent(leg.path, leg.size, why)

    async def _why_not(self, leg: Leg, role: str, recorded: Image | None, facts: Facts) -> str:
        """Why it is not the image that is recorded, or not one that may be taken; "" if it is."""
        timeline = self._timeline
        owner = timeline.writer.ring.controller.hex()
        ours = known(timeline.ledger, owner, timeline.written)
        offsets = recorded.offsets if recorded is not None else ()
        try:
            found = await self._opener.look(leg, role, lambda: probe(leg, offsets))
        except OSError as error:
            return error.strerror or str(error)
        judgement = judge(ours, recorded, found, facts)
        return "" if judgement.current else judgement.why

    async def close(self, prepared: Prepared) -> None:
        """Close what was opened and is not served; a step that failed half-way serves some of it.
        Each is closed in a worker, and given up there: closing may wait for a disk.
        """
        for name, images in prepared.opened.items():
            served = self._volumes.by_name.get(name)
            used = () if served is None else (served.primary, served.secondary)
            prepared.unused += [leg for leg in legs_of(images) if leg not in used]
        await self.close_unused(prepared)

    async def close_unused(self, prepared: Prepared) -> None:
        """Close what nothing uses any more."""
        while prepared.unused:
            await self._opener.close(prepared.unused.pop())
