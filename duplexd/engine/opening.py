"""Opening the images of volumes, so that one bad image is one bad image.

Each image is opened in a worker, those of different volumes at the same time, and is given up after
its time-out: a disk that hangs costs the start that time and nothing more. What cannot be opened
becomes an `AbsentLeg` with the reason. What follows from that is decided later, when it is known
what the journal has for each image (`recovery/degraded.py`).

Nothing is created for a volume that the journal knows, except a secondary that is new to it: an
image that is missing is missing, and an empty one in its place would be taken for the volume.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.core import pair_states
from duplexd.core.patience import Patience
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.images.open import TooShortError, open_leg
from duplexd.runtime.tasks import more_as_they_wait
from duplexd.runtime.watch import GivenUp, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.config.daemon_file import ControllerConfig, VolumeConfig
    from duplexd.core.pair import PairRecord
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.threads import Workers

T = TypeVar("T")

_BUSY_RETRY_SECONDS = 0.25
_PASSING = {errno.EBUSY, errno.ETIMEDOUT}
PRIMARY, SECONDARY = "primary", "secondary"  # the keys of a volume, and the two roles


class Images(NamedTuple):
    """The images of a volume by role. Those that cannot be used are `AbsentLeg`s.

    `primary_new`, `secondary_new`: created just now. `data`: the ranges of an older primary that
    hold data, if the secondary is new. `overwrites`: the secondary was there, and holds data that
    nothing is known of. `refused`: why the volume cannot be served, however good its images are.
    """

    primary: Leg
    secondary: Leg | None = None
    primary_new: bool = False
    secondary_new: bool = False
    data: Sequence[tuple[int, int]] = ()
    overwrites: bool = False
    refused: str = ""

    def close(self) -> None:
        """Close them. Does not sync."""
        self.primary.close()
        if self.secondary is not None:
            self.secondary.close()


class Place(NamedTuple):
    """Where the image of a role is: its path, and the key that names it in the configuration."""

    path: str
    key: str


def places(volume: VolumeConfig, swapped: bool) -> tuple[Place, Place | None]:
    """Where the primary and the secondary are. The configuration names two images; which of them
    has which role is in the journal.
    """
    first = Place(str(volume.primary), PRIMARY)
    second = Place(str(volume.secondary), SECONDARY) if volume.secondary else None
    return (second, first) if swapped and second is not None else (first, second)


def may_have(volume: VolumeConfig, known: PairRecord | None, role: str) -> int:
    """The most bytes that the image of a role may have, see `core/growth.py`. One that nothing is
    recorded of has not begun to grow: it is longer because it is another one.
    """
    if known is None:
        return volume.size
    recorded = known.primary_image if role == PRIMARY else known.secondary_image
    return max(volume.size, known.size, known.growing if recorded is not None else 0)


def why_absent(leg: Leg | None) -> str:
    """Why an image cannot be used, beginning with its path; "" if it can."""
    return f"{leg.path}: {leg.why}" if isinstance(leg, AbsentLeg) else ""


def absent(path: str, size: int, why: str) -> AbsentLeg:
    """An image that cannot be used; `why` may begin with its path."""
    return AbsentLeg(path, size, why.removeprefix(f"{path}: "))


class Opener:
    """Opens images. `patience`: how long an image may take for one system call; a reload replaces
    it.
    """

    def __init__(self, disk: Disk, workers: Workers, settings: ControllerConfig) -> None:
        self._disk = disk
        self._workers = workers
        self._errors: dict[str, Exception] = {}  # by path: why an image cannot be used
        self._refuse = settings.on_start_error == "refuse"
        self._closing: set[asyncio.Task[None]] = set()
        self.patience = Patience(settings.secondary_timeout, settings.primary_timeout)

    def seconds(self, role: str) -> float:
        """How long one call on the image of a role may take."""
        return self.patience.seconds(role)

    async def all(
        self,
        volumes: Mapping[str, VolumeConfig],
        known: Mapping[str, PairRecord],
        opened: dict[str, Images],
    ) -> None:
        """Open the images of all volumes, into `opened`: the caller closes them, whatever is
        raised. Raises what `refuse_absent` does.
        """

        async def one(name: str) -> None:
            opened[name] = await self.volume(name, volumes[name], known.get(name))

        await more_as_they_wait(volumes, one)
        self.refuse_absent(volumes, known, opened)

    def refuse_absent(
        self,
        volumes: Mapping[str, VolumeConfig],
        known: Mapping[str, PairRecord],
        opened: Mapping[str, Images],
    ) -> None:
        """With `on_start_error = "refuse"`: raises ConfigurationError or OSError of the first image
        that cannot be used.
        """
        if self._refuse:
            for name, volume in volumes.items():
                self._refuse_absent(name, volume, known.get(name), opened[name])

    def _refuse_absent(
        self, name: str, volume: VolumeConfig, known: PairRecord | None, images: Images
    ) -> None:
        """Raises the error of the first image that cannot be used, with its key."""
        if images.refused:
            raise ConfigurationError(images.refused)
        at, other = places(volume, known is not None and known.swapped)
        for place, leg in ((at, images.primary), (other, images.secondary)):
            if place is None or not (why := why_absent(leg)):
                continue
            state = f"; the pair is {known.state}" if known is not None else ""
            text, error = f"volumes.{name}.{place.key}: {why}{state}", self._errors.get(place.path)
            if isinstance(error, OSError):
                raise OSError(error.errno, text) from error
            raise ConfigurationError(text) from (error and error.__cause__)

    async def volume(self, name: str, volume: VolumeConfig, known: PairRecord | None) -> Images:
        """The images of a volume; raises for none of them."""
        refused = why_refused(name, volume, known)
        swapped = known is not None and known.swapped
        at, other = places(volume, swapped)
        if refused:
            return _nothing(volume, at, other, refused)
        if known is None and other is not None and await self.is_alone(at.path, other.path):
            return _nothing(volume, at, other, would_overwrite(name, at, other))
        # One that is to grow, or was to, may have begun to: images are as long as it, or longer.
        size = volume.size if known is None else known.size
        create, longest = known is None, may_have(volume, known, PRIMARY)
        primary, primary_new = await self.leg(at.path, size, PRIMARY, create, longest)
        if other is None:
            return Images(primary, None, primary_new)
        if known is None and (why := why_absent(primary)):  # nothing is made for it then
            return Images(primary, absent(other.path, size, why))
        fresh = known is None or known.state == pair_states.SIMPLEX
        longest = may_have(volume, known, SECONDARY)
        secondary, new = await self.leg(other.path, size, SECONDARY, fresh, longest)
        overwrites = fresh and not new and await self.holds_data(secondary)
        images = Images(primary, secondary, primary_new, new, overwrites=overwrites)
        if known is not None:  # the replay may yet put data where there is none now
            return images._replace(data=[(0, size)])
        if new and not primary_new:
            return await self._with_data(images)
        return images

    async def leg(
        self, path: str, size: int, role: str, create: bool, longest: int = 0
    ) -> tuple[Leg, bool]:
        """One image, and whether it was created just now; an `AbsentLeg` if it cannot be used. One
        that another program has is tried again for a moment: that passes. One that is there has
        `size` bytes, or up to `longest`, of which the first `size` are used. With `longest`, one
        that is not to be created is known: a device may be any longer.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds(SECONDARY)
        while True:
            watch: Watch[str] = Watch()
            sizes = size, longest
            call = partial(_open, self._disk, path, sizes, create, role == SECONDARY, watch)
            try:
                found = await self._patiently(path, watch, call, role)
            except (DuplexdError, OSError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if (
                    isinstance(cause, OSError)
                    and cause.errno == errno.EBUSY
                    and loop.time() < until
                ):
                    await asyncio.sleep(_BUSY_RETRY_SECONDS)
                    continue
                self._errors[path] = error
                gone = absent(path, size, _said(path, error))
                gone.short = error.place if isinstance(error, TooShortError) else ""
                return gone, False
            self._errors.pop(path, None)
            return found

    def refusal(self, leg: Leg) -> DuplexdError:
        """Why a new configuration cannot have this image: WrongStateError if that may pass, as of a
        disk that does not answer or an image that is in use; else only an edit helps.
        """
        error = self._errors.get(leg.path)
        cause = error if isinstance(error, OSError) else error and error.__cause__
        passes = isinstance(cause, OSError) and cause.errno in _PASSING
        return (WrongStateError if passes else ConfigurationError)(why_absent(leg))

    async def look(self, leg: Leg, role: str, look: Callable[[], T]) -> T:
        """What `look`, a blocking call on an image, finds. Raises OSError."""
        watch: Watch[str] = Watch()

        def watched() -> T:
            with watch.at(leg.path):
                return look()

        return await self._patiently(leg.path, watch, watched, role)

    async def close(self, leg: Leg) -> None:
        """Close an image that does not answer, however long that takes."""
        watch: Watch[str] = Watch()

        def close() -> None:
            with watch.at(leg.path):
                leg.close()

        with contextlib.suppress(OSError):
            await self._patiently(leg.path, watch, close, SECONDARY)

    def close_later(self, leg: Leg) -> None:
        """The same, by a task."""
        closing = asyncio.get_running_loop().create_task(self.close(leg))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def is_there(self, path: str, role: str) -> bool:
        """Whether anything is at a path. True where that cannot be said: opening it says why."""
        watch: Watch[str] = Watch()

        def look() -> bool:
            with watch.at(path):
                return self._disk.exists(path)

        try:
            return await self._patiently(path, watch, look, role)
        except OSError:
            return True

    async def is_alone(self, primary: str, secondary: str) -> bool:
        """Whether the secondary is there, but the primary is not."""
        watch: Watch[str] = Watch()

        def look() -> bool:
            with watch.at(primary):
                there = self._disk.exists(primary)
            with watch.at(secondary):
                return not there and self._disk.exists(secondary)

        try:
            return await self._patiently(primary, watch, look, PRIMARY)
        except OSError:
            return False  # opening them says what is wrong

    async def holds_data(self, leg: Leg) -> bool:
        """Whether an image that is to be copied to is not just a hole; of a block device that is
        not known. False for one that cannot be used: the copy finds that out.
        """
        if why_absent(leg):
            return False
        try:
            found = await self.look(leg, SECONDARY, lambda: leg.extents(0, leg.size))
        except OSError:
            return False
        return any(is_data for _, _, is_data in found)

    async def _with_data(self, images: Images) -> Images:
        watch: Watch[str] = Watch()
        primary = images.primary

        def look() -> list[tuple[int, int]]:
            with watch.at(primary.path):
                found = primary.extents(0, primary.size)
            return [(offset, length) for offset, length, is_data in found if is_data]

        try:
            data = await self._patiently(primary.path, watch, look, PRIMARY)
        except OSError as error:
            gone = absent(primary.path, primary.size, _said(primary.path, error))
            return images._replace(primary=gone)
        return images._replace(data=data)

    async def _patiently(self, path: str, watch: Watch[str], call: Callable[[], T], role: str) -> T:
        seconds = self.seconds(role)
        return await patiently(self._workers.of(path), watch, call, lambda _path: seconds)


def _open(
    disk: Disk,
    path: str,
    sizes: tuple[int, int],
    create: bool,
    copied_to: bool,
    watch: Watch[str],
) -> tuple[Leg, bool]:
    """Blocking. If it is given up, the image is closed again as soon as it is open."""
    opened: tuple[Leg, bool] | None = None
    watch.enter(path)
    try:
        if not create and not disk.exists(path):
            raise ConfigurationError(f"{path}: the image is missing")
        known = not create and sizes[1] > 0
        opened = open_leg(disk, path, *sizes, copied_to=copied_to, is_known=known)
    finally:
        try:
            watch.leave()
        except GivenUp:
            if opened is not None:
                opened[0].close()
            raise
    return opened


def _said(path: str, error: Exception) -> str:
    """What is wrong, beginning with the path."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return why if why.startswith(path) else f"{path}: {why}"


# ------------------------------------------------------------------------- volumes that are refused


def _nothing(volume: VolumeConfig, at: Place, other: Place | None, why: str) -> Images:
    secondary = absent(other.path, volume.size, why) if other is not None else None
    return Images(absent(at.path, volume.size, why), secondary, refused=why)


def why_refused(name: str, volume: VolumeConfig, known: PairRecord | None) -> str:
    """Why the configuration does not fit the volume that the journal knows."""
    if known is None:
        return ""
    if volume.size < known.size:
        return cannot_shrink(name, known.size, volume.size)
    if known.swapped and volume.secondary is None:
        return (
            f"volumes.{name}.secondary: the image under this key is the primary since the images "
            f"changed roles; put the key back, or give that image as volumes.{name}.primary"
        )
    halfway = known.rollback is not None and known.rollback.unfinished
    if halfway and known.state == pair_states.SIMPLEX and volume.secondary is not None:
        return (
            f"volumes.{name}.secondary: the volume is half-way through a restore or rollback, and "
            "what is copied now is a mixture; take the key out, finish that or give it up "
            "(--abandon), then add it again"
        )
    return ""


def cannot_shrink(name: str, size: int, wanted: int) -> str:
    """What to say of a configuration with a smaller size."""
    return (
        f"volumes.{name}.size: the volume has {size} bytes, and cannot shrink to {wanted}; "
        "put the size back"
    )


def would_overwrite(name: str, at: Place, other: Place) -> str:
    """Why a volume is refused whose secondary alone is there."""
    return (
        f"volumes.{name}: the secondary {other.path} exists, but the primary {at.path} does not; "
        "a first copy would overwrite the secondary. Put the primary back, or move the secondary "
        "away"
    )
