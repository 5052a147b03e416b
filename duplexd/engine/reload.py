"""Applying a new configuration while the daemon runs.

What can fail without side effects (checks, opening images) comes first; then everything is switched
in one step at rest: markers, volumes, groups, followers, settings. So no client sees half of a
configuration, and no follower passes a change of a volume that it does not know yet. If that step
fails, only some of its markers are in the journal, so the controller fails, and a restart recovers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.identity import Facts, judge
from duplexd.core.markers import Remove
from duplexd.core.since import known
from duplexd.engine.opening import PRIMARY, SECONDARY, Images, absent, why_absent
from duplexd.engine.volumes import introduce
from duplexd.errors import ConfigurationError
from duplexd.images.probe import probe
from duplexd.runtime.tasks import to_its_end
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.live_changes import LiveChanges
    from duplexd.engine.opening import Opener
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.replication.followers import Followers


class Reload:
    """Reloads of a controller. `on_switched` is called at the end of the step that takes a
    configuration over, with what changed: it is in force from then on, whatever comes after.
    """

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        followers: Followers,
        live_changes: LiveChanges,
        opener: Opener,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._followers = followers
        self._live_changes = live_changes
        self._opener = opener
        self.on_switched: Callable[[Config, list[str]], None] = _nobody

    async def reload(self, old: Config, new: Config) -> list[str]:
        """Apply `new`; returns what changed.

        Raises ConfigurationError, with nothing changed. After OSError or DuplexdError `new` is in
        force, but may not be durable yet.
        """
        timeline = self._timeline
        self._live_changes.check(old, new)
        opened: dict[str, Images] = {}
        try:
            for name, volume in new.volumes.items():
                if self._needs_images(name, volume):
                    opened[name] = await to_its_end(self._open(name, volume))
                    self._refuse(name, opened)
            if self._volumes.by_name.keys() - new.volumes.keys():
                # Flushed changes have to survive a power cut; those of a removed volume are not
                # replayed later.
                await self._checkpointer.checkpoint()
            # No worker may be using a leg that is about to be closed.
            async with self._checkpointer.no_syncs(), self._followers.stepping:
                changes = await timeline.at_rest(lambda: self._switch(old, new, opened))
        except BaseException:
            for name, images in opened.items():
                self._close(name, images)
            raise
        await timeline.durable()
        await self._checkpointer.checkpoint()
        return changes

    def _needs_images(self, name: str, volume: VolumeConfig) -> bool:
        pair = self._known(name)
        return pair is None or (volume.secondary is not None and pair.secondary is None)

    def _known(self, name: str) -> Pair | None:
        """The volume, if it is in the journal."""
        pair = self._volumes.by_name.get(name)
        return None if pair is None or pair.id < 0 else pair

    async def _open(self, name: str, volume: VolumeConfig) -> Images:
        """Of a volume that is served, only a secondary can be new. Where its primary has data is
        not asked: clients write until the switch. The copy finds the holes.
        """
        pair = self._known(name)
        if pair is None:
            images = await self._opener.volume(name, volume, None)
            images = images._replace(primary=await self._judged(images.primary, PRIMARY))
        else:
            path, size = str(volume.secondary), pair.size
            secondary, new = await self._opener.leg(path, size, SECONDARY, True)
            overwrites = not new and await self._opener.holds_data(secondary)
            images = Images(pair.primary, secondary, False, new, [(0, size)], overwrites)
        if images.secondary is None:
            return images
        return images._replace(secondary=await self._judged(images.secondary, SECONDARY))

    async def _judged(self, leg: Leg, role: str) -> Leg:
        """An image that is new to the journal; absent, if it belongs to others."""
        if why_absent(leg):
            return leg
        ledger, own = self._timeline.ledger, self._timeline.writer.ring.controller
        try:
            found = await self._opener.look(leg, role, lambda: probe(leg, ()))
            judgement = judge(known(ledger, own.hex()), None, found, Facts())
            why = "" if judgement.current else judgement.why
        except OSError as error:
            why = error.strerror or str(error)
        if not why:
            return leg
        await self._opener.close(leg)
        return absent(leg.path, leg.size, why)

    def _refuse(self, name: str, opened: dict[str, Images]) -> None:
        """Raises ConfigurationError for images that cannot be used. A volume that was not served
        before because of them just stays so.
        """
        images = opened[name]
        why = images.refused or why_absent(images.primary) or why_absent(images.secondary)
        if why and name in self._volumes.by_name and self._known(name) is None:
            opened.pop(name).close()
        elif why:
            raise ConfigurationError(why)

    def _close(self, name: str, images: Images) -> None:
        """Close those that are not served; a step that failed half-way serves some already."""
        served = self._volumes.by_name.get(name)
        if served is None or images.primary is not served.primary:
            images.primary.close()
        if images.secondary is not None and (
            served is None or images.secondary is not served.secondary
        ):
            images.secondary.close()

    # ----------------------------------------------------------------------------- the switch

    def _switch(self, old: Config, new: Config, opened: dict[str, Images]) -> list[str]:
        self._live_changes.check(old, new)  # again: clients may have come meanwhile
        for name, pair in self._volumes.by_name.items():
            if name not in new.volumes and pair.primary_dirty and not pair.failed:
                raise ConfigurationError(
                    f"{new.source}: volumes.{name}: was written to just now, "
                    "so it can't be removed yet; try again"
                )
        try:
            changes = self._switch_over(old, new, opened)
        except Exception as error:
            self._timeline.fail(f"the reload failed half-way: {error}; restart the daemon")
            raise
        self.on_switched(new, changes)
        return changes

    def _switch_over(self, old: Config, new: Config, opened: dict[str, Images]) -> list[str]:
        volumes = self._volumes
        changes = [self._bring_in(name, images, new) for name, images in opened.items()]
        changes += [self._remove(name) for name in list(volumes.by_name) if name not in new.volumes]
        groups = {name: list(group.volumes) for name, group in new.groups.items()}
        if groups != volumes.groups:
            changes.append("groups changed")
        volumes.assign_groups(new.groups)
        self._followers.adopt(volumes.named(opened))
        return changes + _copy_rate_change(old, new)

    def _bring_in(self, name: str, images: Images, new: Config) -> str:
        pair = self._known(name)
        mode = new.volumes[name].mode
        if pair is None and name in self._volumes.by_name:
            self._volumes.remove(name).close()  # it was not served, and not recorded
        self._volumes.add(introduce(self._timeline, name, mode, images, pair))
        added = f"volume {name}: secondary added" if pair else f"volume {name} added"
        if not images.overwrites or images.secondary is None:
            return added
        return f"{added}; the first copy overwrites the data in {images.secondary.path}"

    def _remove(self, name: str) -> str:
        pair = self._volumes.remove(name)
        if pair.id > 0:
            self._timeline.append(Remove(pair.id))
        self._followers.forget(pair)
        pair.close()
        return f"volume {name} removed"


def _copy_rate(config: Config) -> int | None:
    return config.controller.copy_rate


def _copy_rate_change(old: Config, new: Config) -> list[str]:
    before, rate = _copy_rate(old), _copy_rate(new)
    if before == rate:
        return []
    if rate is None:
        return ["copy_rate removed: copies are not limited"]
    return [f"copy_rate is now {format_size(rate)} per second"]


def _nobody(_config: Config, _changes: list[str]) -> None:
    """Nobody has settings to take."""
