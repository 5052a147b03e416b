"""Taking over a new configuration while running.

What can fail without a trace (images, checks) comes first; then everything is switched in one step at
rest. A step that fails half-way is in the journal in half, so the controller fails and a restart sorts
it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.markers import Remove
from duplexd.engine.volumes import Images, introduce, open_images
from duplexd.errors import ConfigurationError
from duplexd.images.open import open_leg
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.leases import Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.replication.async_follower import AsyncFollower
    from duplexd.runtime.disk import Disk


class Reload:
    """Reloads of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        leases: Leases,
        archive: CutArchive,
        async_follower: AsyncFollower,
        disk: Disk,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._leases = leases
        self._archive = archive
        self._async_follower = async_follower
        self._disk = disk

    async def reload(self, old: Config, new: Config) -> tuple[list[str], list[Pair]]:
        """Take over `new`; returns what changed, and the pairs that are new or have a new secondary.

        Raises ConfigurationError, with nothing changed.
        """
        timeline = self._timeline
        self._refuse_live(old, new)
        opened: dict[str, Images] = {}
        try:
            for name, volume in new.volumes.items():
                if self._needs_images(name, volume):
                    opened[name] = self._open(name, volume)
            if self._volumes.by_name.keys() - new.volumes.keys():
                # What was flushed to them has to survive a power cut: it is not replayed later.
                await self._checkpointer.checkpoint()
            # Nobody is at a leg that is about to be closed.
            async with self._checkpointer.no_syncs(), self._async_follower.stepping:
                changes, fresh = await timeline.at_rest(lambda: self._switch(old, new, opened))
        except Exception:
            for name, images in opened.items():
                self._close(name, images)
            raise
        await timeline.durable()
        await self._checkpointer.checkpoint()
        return changes, fresh

    def _needs_images(self, name: str, volume: VolumeConfig) -> bool:
        known = self._volumes.by_name.get(name)
        return known is None or (volume.secondary is not None and known.secondary is None)

    def _open(self, name: str, volume: VolumeConfig) -> Images:
        """Of a volume that is served, only a secondary can be new."""
        known = self._volumes.by_name.get(name)
        if known is None:
            return open_images(self._disk, volume, name, None)
        secondary, created = open_leg(self._disk, str(volume.secondary), volume.size)
        return Images(known.primary, secondary, False, created)

    def _close(self, name: str, images: Images) -> None:
        served = self._volumes.by_name.get(name)
        if served is None or images.primary is not served.primary:
            images.primary.close()
        if images.secondary is not None and (served is None or served.secondary is None):
            images.secondary.close()

    # ----------------------------------------------------------------------------- the checks

    def _refuse_live(self, old: Config, new: Config) -> None:
        """Raises ConfigurationError that names every change that can't be made while running."""
        problems: list[str] = []
        for name, pair in self._volumes.by_name.items():
            volume = new.volumes.get(name)
            if volume is None:
                problems += self._why_not_removed(pair)
            else:
                problems += _why_not_changed(name, old.volumes[name], volume)
        if problems:
            raise ConfigurationError("\n".join(f"{new.source}: {line}" for line in problems))

    def _why_not_removed(self, pair: Pair) -> list[str]:
        problems = []
        if pair.connections or self._leases.holds(pair):
            problems.append(
                f"volumes.{pair.name}: can't be removed while clients use it "
                f"({pair.connections} connected); disconnect them first"
            )
        unsettled = pair.cut is not None and pair.cut.id in self._archive.unsettled
        if pair.state == pair_states.PENDING or unsettled:
            problems.append(
                f"volumes.{pair.name}: can't be removed while its secondary is being written; "
                "wait until it is at its cut, or DUPLEX"
            )
        return problems

    # ----------------------------------------------------------------------------- the switch

    def _switch(
        self, old: Config, new: Config, opened: dict[str, Images]
    ) -> tuple[list[str], list[Pair]]:
        self._refuse_live(old, new)  # again: clients may have come meanwhile
        for name, pair in self._volumes.by_name.items():
            if name not in new.volumes and pair.primary_dirty:
                raise ConfigurationError(
                    f"{new.source}: volumes.{name}: was written to just now, "
                    "so it can't be removed yet; try again"
                )
        try:
            return self._switch_over(new, opened)
        except Exception as error:
            self._timeline.fail(f"a reload could not be finished: {error}")
            raise

    def _switch_over(self, new: Config, opened: dict[str, Images]) -> tuple[list[str], list[Pair]]:
        timeline, volumes = self._timeline, self._volumes
        changes: list[str] = []
        for name, images in opened.items():
            known = volumes.by_name.get(name)
            pair = introduce(timeline, name, new.volumes[name].mode, images, known)
            volumes.add(pair)
            changes.append(f"volume {name} {'has a secondary now' if known else 'added'}")
        for name in [name for name in volumes.by_name if name not in new.volumes]:
            pair = volumes.remove(name)
            timeline.append(Remove(pair.id))
            self._async_follower.forget(pair)
            pair.close()
            changes.append(f"volume {name} removed")
        groups = {name: list(group.volumes) for name, group in new.groups.items()}
        if groups != volumes.groups:
            changes.append("groups changed")
        volumes.assign_groups(new.groups)
        return changes, volumes.named(opened)


def _why_not_changed(name: str, old: VolumeConfig, new: VolumeConfig) -> list[str]:
    fixed = [
        key
        for key, before, after in (
            ("size", old.size, new.size),
            ("primary", old.primary, new.primary),
            ("mode", old.mode, new.mode),
        )
        if before != after
    ]
    problems = [
        f"volumes.{name}.{key}: can't be changed while running; stop the daemon first"
        for key in fixed
    ]
    if new.secondary != old.secondary and old.secondary is not None:
        problems.append(
            f"volumes.{name}.secondary: can't be changed or removed while running; "
            "stop the daemon first, start it without, then add it"
        )
    return problems


def copy_rate_change(old: int | None, new: int | None) -> list[str]:
    """What changed of the rate of copies (bytes a second, None for no limit)."""
    if old == new:
        return []
    if new is None:
        return ["copies go as fast as they can"]
    return [f"copies go at {format_size(new)} a second at most"]
