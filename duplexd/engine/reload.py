"""Applying a new configuration while the daemon runs.

What can fail without side effects (checks, opening images) comes first; then everything is switched
in one step at rest: markers, volumes, groups, followers, settings. So no client sees half of a
configuration, and no follower passes a change of a volume that it does not know yet. If that step
fails, only some of its markers are in the journal, so the controller fails, and a restart recovers.

    another secondary       DETACH, then COPY: the pair is PENDING. The image before is left at the
                            number of that step, or at its cut (`left_images.py`)
    no secondary            DETACH: the pair is SIMPLEX
    a larger size           both images are made longer, then GROW (`growing.py`)
    another path, the same  noted in the next checkpoint; a start recognises images by what they
    image                   are, and not by where they lie
    sync to async           the follower takes the pair over at the tail
    async to sync           the volume is held until its secondary has arrived at the tail
    delayed to another      refused while the pair is DUPLEX: its secondary is behind
    another delay           the secondary waits for longer, or is brought along
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.core.markers import Detach, Remove
from duplexd.engine.left_images import Left, left_by
from duplexd.engine.new_images import Prepared, legs_of
from duplexd.engine.opening import Images
from duplexd.engine.volumes import introduce
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.growing import Growing
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.left_images import LeftImages
    from duplexd.engine.live_changes import LiveChanges
    from duplexd.engine.new_images import NewImages
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.replication.followers import Followers


class _Arrived(NamedTuple):
    """Pairs that hold everything up to a number, and get no change while `hold` lasts."""

    at: dict[Pair, int]
    hold: Hold | None = None

    def has(self, pair: Pair) -> bool:
        """Another lease that holds the pair says nothing: changes may have come before it."""
        lasts = self.hold is not None and not self.hold.ended.done()
        return lasts and pair in self.at and pair.applied >= self.at[pair]


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
        leases: Leases,
        live_changes: LiveChanges,
        images: NewImages,
        left_images: LeftImages,
        growing: Growing,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._followers = followers
        self._leases = leases
        self._live_changes = live_changes
        self._images = images
        self._left_images = left_images
        self._growing = growing
        self.on_switched: Callable[[Config, list[str]], None] = _nobody

    async def check(self, old: Config, new: Config) -> None:
        """Raise what `reload` would raise now, as far as that can be seen without changing
        anything.
        """
        self._live_changes.check(old, new)
        await self._images.look(old, new)
        await self._growing.check(self._growing.wanted(new.volumes))

    async def reload(self, old: Config, new: Config) -> list[str]:
        """Apply `new`; returns what changed.

        Raises ConfigurationError, WrongStateError or LimitError, with nothing changed. After
        OSError or another DuplexdError `new` is in force, but may not be durable yet.
        """
        timeline, prepared, left = self._timeline, Prepared(), list[Left]()
        self._live_changes.check(old, new)
        try:
            await self._images.prepare(old, new, prepared)
            sizes = self._growing.wanted(new.volumes)
            await self._growing.fill_devices(sizes)
            if self._volumes.by_name.keys() - new.volumes.keys():
                # Flushed changes have to survive a power cut; those of a removed volume are not
                # replayed later.
                await self._checkpointer.checkpoint()
            # No worker may be using a leg that is about to be closed.
            async with (
                self._arrived(new, prepared) as arrived,
                self._growing.longer(sizes),
                self._checkpointer.no_syncs(),
                self._followers.stepping,
            ):
                changes = await timeline.at_rest(
                    lambda: self._switch(old, new, prepared, arrived, left, sizes)
                )
        except BaseException:
            await self._images.close(prepared)
            raise
        await self._images.close_unused(prepared)
        await timeline.durable()
        changes += await self._left_images.settle(left)
        await self._checkpointer.checkpoint()
        return changes

    @asynccontextmanager
    async def _arrived(self, new: Config, prepared: Prepared) -> AsyncIterator[_Arrived]:
        """Around the switch: pairs that are to mirror in each batch hold everything, and get no
        change meanwhile.
        """
        leaving = {*prepared.gone, *map(self._images.known, prepared.opened)}
        pairs = [
            pair
            for name, pair in self._volumes.by_name.items()
            if _becomes_sync(pair, new) and pair not in leaving and name in new.volumes
        ]
        if not pairs:
            yield _Arrived({})
            return
        await self._wait_for(pairs, self._timeline.written)  # most of it with nobody waiting
        hold = await self._leases.quiesce(pairs, self._leases.longest_allowed_s, "reload")
        try:
            hold.ended.add_done_callback(lambda _: self._followers.moved())
            last = self._timeline.written
            await self._wait_for(pairs, last, hold.ended.done)
            yield _Arrived(dict.fromkeys(pairs, last), hold)
        finally:
            self._leases.release(hold.id, ends.BY_OWNER)

    async def _wait_for(
        self, pairs: list[Pair], last: int, ended: Callable[[], bool] = lambda: False
    ) -> None:
        def there(pair: Pair) -> bool:
            return pair.state != pair_states.DUPLEX or bool(pair.failed) or pair.applied >= last

        await self._followers.until(lambda: ended() or all(map(there, pairs)))

    # ----------------------------------------------------------------------------- the switch

    def _switch(
        self,
        old: Config,
        new: Config,
        prepared: Prepared,
        arrived: _Arrived,
        left: list[Left],
        sizes: Mapping[Pair, int],
    ) -> list[str]:
        self._check_again(old, new, prepared, arrived)
        grown = self._growing.mark(sizes)
        try:
            changes = grown + self._switch_over(new, prepared, left)
        except Exception as error:
            self._timeline.fail(f"the reload failed half-way: {error}; restart the daemon")
            raise
        self.on_switched(new, changes)
        return changes

    def _check_again(self, old: Config, new: Config, prepared: Prepared, arrived: _Arrived) -> None:
        """Clients may have come meanwhile, and secondaries may have failed."""
        self._live_changes.check(old, new)
        replaced = [pair for name in prepared.opened if (pair := self._images.known(name))]
        self._live_changes.check_replaced(new, replaced)
        stays = {*replaced, *prepared.gone}
        for name, pair in self._volumes.by_name.items():
            key = f"{new.source}: volumes.{name}"
            if pair.returning and (name not in new.volumes or pair in stays):
                raise WrongStateError(
                    f"{key}: another command opens its images just now; try again when that has "
                    "ended"
                )
            if name not in new.volumes and pair.primary_dirty and not pair.failed:
                raise WrongStateError(
                    f"{key}: was written to just now, so it can't be removed yet; try again"
                )
            becomes_sync = name in new.volumes and _becomes_sync(pair, new) and pair not in stays
            if becomes_sync and not arrived.has(pair):
                raise WrongStateError(
                    f"{key}.mode: its secondary did not get to the last change while the "
                    "volume was held; try again with less load"
                )
        self._check_paths(new, prepared)

    def _check_paths(self, new: Config, prepared: Prepared) -> None:
        in_use = {leg for pair in self._volumes.all() for leg in (pair.primary, pair.secondary)}
        if prepared.paths.keys() - in_use:
            raise WrongStateError(f"{new.source}: an image failed meanwhile; try again")

    def _switch_over(self, new: Config, prepared: Prepared, left: list[Left]) -> list[str]:
        volumes, opened = self._volumes, prepared.opened
        changes = self._move(prepared)
        changes += [self._bring_in(name, new, prepared, left) for name in opened]
        changes += [self._detach(pair, new, left) for pair in prepared.gone]
        removed = [name for name in volumes.by_name if name not in new.volumes]
        changes += [self._remove(name, prepared, left) for name in removed]
        changes += self._change_modes(new)
        groups = {name: list(group.volumes) for name, group in new.groups.items()}
        if groups != volumes.groups:
            changes.append("groups changed")
        for pair in volumes.all():  # each is as large as the configuration says
            pair.not_grown = ""
        volumes.assign_groups(new.groups)
        self._followers.adopt(volumes.named(opened))
        return changes

    def _move(self, prepared: Prepared) -> list[str]:
        changes = []
        for pair in self._volumes.all():
            for leg in (pair.primary, pair.secondary):
                if leg is not None and (path := prepared.paths.get(leg)):
                    changes.append(f"volume {pair.name}: {leg.path} is now {path}, the same image")
                    leg.path = path
            if pair.secondary is not None:
                self._timeline.ledger.use_secondary(pair.record, pair.secondary.path)
        return changes

    def _bring_in(self, name: str, new: Config, prepared: Prepared, left: list[Left]) -> str:
        pair, mode = self._images.known(name), new.volumes[name].mode
        images = prepared.opened[name]
        if pair is None and name in self._volumes.by_name:  # not served, and not recorded
            prepared.unused += legs_of(self._volumes.remove(name))
        replaces = pair is not None and pair.secondary is not None
        if pair is not None:
            self._take_out(pair, left)
            images = images._replace(primary=pair.primary)
        self._volumes.add(introduce(self._timeline, name, mode, images, pair))
        what = "replaced by" if replaces else "added:"
        path = images.secondary.path if images.secondary is not None else ""
        added = f"volume {name}: secondary {what} {path}" if pair else f"volume {name} added"
        if not images.overwrites:
            return added
        return f"{added}; the first copy overwrites the data in {path}"

    def _detach(self, pair: Pair, new: Config, left: list[Left]) -> str:
        self._take_out(pair, left)
        introduce(
            self._timeline, pair.name, new.volumes[pair.name].mode, Images(pair.primary), pair
        )
        return f"volume {pair.name}: secondary removed; it is SIMPLEX"

    def _take_out(self, pair: Pair, left: list[Left]) -> None:
        """Leave the secondary, if there is one: the pair is SIMPLEX."""
        secondary, timeline = pair.secondary, self._timeline
        if secondary is None:
            return
        left.append(left_by(pair, secondary, timeline.writer.sequence))
        if pair.state != pair_states.SIMPLEX:
            timeline.append(Detach([pair.id]))
        self._followers.forget(pair)
        pair.set_legs(pair.primary, None, pair.mode)
        pair.secondary_dirty, pair.resync_error = False, None

    def _change_modes(self, new: Config) -> list[str]:
        """Of pairs whose secondaries stay; what is new has its mode already."""
        changes = []
        for pair in self._volumes.all():
            mode = new.volumes[pair.name].mode
            if mode == pair.mode:
                continue
            if pair.secondary is not None:
                changes.append(f"volume {pair.name}: mode is now {mode}")
            self._change_mode(pair, mode)
        return changes

    def _change_mode(self, pair: Pair, mode: str) -> None:
        ledger, sequence = self._timeline.ledger, self._timeline.writer.sequence
        if pair.mirrors:
            ledger.advance(pair.record, sequence)  # from here on it is followed for
        elif pair.state == pair_states.DUPLEX:
            self._followers.forget(pair)
        pair.set_legs(pair.primary, pair.secondary, mode)
        if pair.state == pair_states.DUPLEX:
            self._followers.adopt([pair])

    def _remove(self, name: str, prepared: Prepared, left: list[Left]) -> str:
        pair = self._volumes.remove(name)
        prepared.unused += legs_of(pair)
        if pair.id > 0:
            if (secondary := pair.secondary) is not None:
                left.append(left_by(pair, secondary, self._timeline.writer.sequence))
                prepared.unused.remove(secondary)  # it is closed once it is durable
            self._timeline.append(Remove(pair.id))
        self._followers.forget(pair)
        return f"volume {name} removed"


def _becomes_sync(pair: Pair, new: Config) -> bool:
    volume = new.volumes.get(pair.name)
    duplex = pair.state == pair_states.DUPLEX and not pair.failed
    return duplex and pair.mode == "async" and volume is not None and volume.mode == "sync"


def _nobody(_config: Config, _changes: list[str]) -> None:
    """Nobody has settings to take."""
