"""Volumes grow while they are served: by a reload, or by a start that finds a larger size.

Both images are made longer and synced, then one marker gives the volume its size (`core/growth.py`
says why in this order). A kill in between leaves images that are longer than their volume; the next
start, or reload, takes them up from there. An error before the marker shortens them again.

Devices are filled with zeroes first, a piece at a time: that may take long, and keeps nobody. Files
follow in a moment. No checkpoint is taken meanwhile: it would record the times of images that are
about to change, or the regions of a volume that are about to get others.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duplexd.core.growth import GROWN_MAX, Grow, since_cut
from duplexd.core.pair import refresh
from duplexd.core.patience import SYNC
from duplexd.engine.opening import why_absent
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from duplexd.config.daemon_file import VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

    Sizes = Mapping[Pair, int]  # in bytes, of the volumes that grow

T = TypeVar("T")

_PIECE_BYTES = 256 << 20  # of a device, filled with zeroes at once


def why_not_grown(pair: Pair) -> str:
    """Why a volume cannot become larger now; "" if it can."""
    if pair.failed:
        return f"the volume is not served: {pair.failed}"
    if why := why_absent(pair.secondary):
        return f"its secondary cannot be used: {why}; resync, or take it out first"
    if pair.closed:
        return pair.closed
    if since_cut(pair.record) >= GROWN_MAX:
        return f"it has grown {GROWN_MAX} times since its cut; resync first"
    return ""


class Growing:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        legs: LegCalls,
        emit: Callable[..., None],
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._checkpointer = checkpointer
        self._legs = legs
        self._emit = emit

    def wanted(self, volumes: Mapping[str, VolumeConfig]) -> Sizes:
        """Which volumes are to be larger than they are."""
        return {
            pair: volumes[name].size
            for name, pair in self._volumes.by_name.items()
            if name in volumes and pair.id > 0 and volumes[name].size > pair.size
        }

    async def at_start(self, volumes: Mapping[str, VolumeConfig], grow: bool = True) -> None:
        """Before clients come, and up to the checkpoint that ends the start. A volume that cannot
        grow now is served as it is: a reload tries again. What an earlier try has left of one that
        is not to grow any more is cut off. Without `grow` all of that is left to the next start.
        Raises what a checkpoint does.
        """
        for pair, size in self.wanted(volumes).items() if grow else ():
            sizes = {pair: size}
            try:
                await self.fill_devices(sizes)
                async with self.longer(sizes):
                    await self._timeline.at_rest(partial(self.mark, sizes))
            except (DuplexdError, OSError) as error:
                pair.not_grown = why = _text(error)
                self._emit("volume-not-grown", volume=pair.name, error=why)
        for pair in self._volumes.all():
            if grow and pair.record.growing and pair.id > 0:
                with suppress(DuplexdError, OSError):  # it is tried again by the next start
                    await self._cut_off(pair)
        await self._checkpointer.checkpoint()

    async def _cut_off(self, pair: Pair) -> None:
        """The images become as long as their volume. Nothing of it lies beyond: no record does."""
        before = {pair: pair.record.growing}
        async with self._checkpointer.none():
            await self._timeline.at_rest(partial(self._append, before, done=False))
            await self._timeline.durable()
            for _, leg in _legs(before):
                longer = (await self._on(pair, leg, before, leg.stamp)).size > pair.size
                await self._on(pair, leg, before, partial(leg.resize, pair.size))
                await self._checkpointer.sync_leg(pair, leg)
                if longer and not leg.is_block:
                    self._emit("grow-undone", volume=pair.name, path=leg.path, size=pair.size)
            self._timeline.ledger.images_fit(pair.record)

    async def check(self, sizes: Sizes) -> None:
        """Raises WrongStateError for a volume that cannot grow now, ConfigurationError for a device
        that is too small.
        """
        for pair, size in sizes.items():
            _refuse(pair, size, why_not_grown(pair))
        for pair, leg in _legs(sizes):
            found = await self._on(pair, leg, sizes, leg.stamp) if leg.is_block else None
            if found is not None and found.size < sizes[pair]:
                raise ConfigurationError(
                    f"volumes.{pair.name}.size: the device {leg.path} has {found.size} bytes, and "
                    f"{sizes[pair]} are asked for; enlarge it first"
                )

    async def fill_devices(self, sizes: Sizes) -> None:
        """The first step. Raises what `check` does, and WrongStateError for a device that fails;
        what is filled lies beyond the volumes' ends.
        """
        await self.check(sizes)
        for pair, leg in _legs(sizes):
            while leg.is_block and leg.size < sizes[pair]:
                piece = min(leg.size + _PIECE_BYTES, sizes[pair])
                await self._on(pair, leg, sizes, partial(leg.resize, piece))

    @asynccontextmanager
    async def longer(self, sizes: Sizes) -> AsyncIterator[None]:
        """Around the step that calls `mark`. Raises WrongStateError or DuplexdError, with the
        images as they were; so they are again if that step does not come to `mark`.
        """
        if not sizes:
            yield
            return
        async with self._checkpointer.none():
            try:
                await self._timeline.at_rest(partial(self._append, sizes, done=False))
                await self._timeline.durable()
                for pair, leg in _legs(sizes):
                    if leg.size < sizes[pair]:
                        await self._on(pair, leg, sizes, partial(leg.resize, sizes[pair]))
                    await self._synced(pair, leg, sizes)
                yield
            finally:
                await self._shorten(sizes)

    def mark(self, sizes: Sizes) -> list[str]:
        """At rest: from now on the volumes have these sizes. Returns what to say of it. Raises
        WrongStateError, with nothing changed, where an image has failed meanwhile.
        """
        said = []
        for pair, leg in _legs(sizes):
            why = why_not_grown(pair) or why_absent(leg)
            if not why and leg.size < sizes[pair]:
                why = f"{leg.path}: another image has taken its place"
            _refuse(pair, sizes[pair], why)
        for pair, size in sizes.items():
            before, now = format_size(pair.size), format_size(size)
            said.append(f"volume {pair.name}: size is now {now}, and was {before}")
        if sizes:
            self._append(sizes, done=True)
            refresh(sizes)
        return said

    def _append(self, sizes: Sizes, done: bool) -> None:
        self._timeline.append(Grow({pair.id: size for pair, size in sizes.items()}, done))

    async def _synced(self, pair: Pair, leg: Leg, sizes: Sizes) -> None:
        try:
            await self._checkpointer.sync_leg(pair, leg)
        except OSError as error:
            _refuse(pair, sizes[pair], _text(error))

    async def _on(self, pair: Pair, leg: Leg, sizes: Sizes, call: Callable[[], T]) -> T:
        try:
            return await self._legs.on(pair, leg, SYNC, call)
        except OSError as error:
            _refuse(pair, sizes[pair], _text(error))
            raise

    async def _shorten(self, sizes: Sizes) -> None:
        """An image that cannot be is longer than its volume, until the next try or start."""
        for pair, leg in _legs(sizes):
            if leg.size > pair.size:
                with suppress(OSError):
                    await self._legs.on(pair, leg, SYNC, partial(leg.resize, pair.size))


def _legs(sizes: Sizes) -> Iterator[tuple[Pair, Leg]]:
    """The images of these volumes."""
    for pair in sizes:
        yield pair, pair.primary
        if pair.secondary is not None:
            yield pair, pair.secondary


def _refuse(pair: Pair, size: int, why: str) -> None:
    """Raises WrongStateError if there is a reason."""
    if why:
        raise WrongStateError(
            f"volumes.{pair.name}.size: the volume cannot grow from {pair.size} to {size} bytes "
            f"now: {why}"
        )


def _text(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
