"""What `duplexd check` warns of: a configuration that is accepted, and will hurt.

None of it keeps a daemon from starting, so it changes no exit code. It is what is found out on the
bad day: that one disk has both images, that a group cannot be suspended, that there is no room for
what was promised to clients. Looks at paths only, and gives up those that hang.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.daemon import delay_room
from duplexd.runtime.free_space import room_of
from duplexd.runtime.hooks import AFTER, BEFORE, look_at
from duplexd.runtime.machine import is_memory
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.config.daemon_file import Config
    from duplexd.runtime.in_time import Patience

_NAMED_MAX = 6


class _Place(NamedTuple):
    """One image: its file system (0: it is a block device), and what it may still take there."""

    path: Path
    device: int
    missing_bytes: int
    free_bytes: int | None  # None: the file system does not say


def hazards(config: Config, patience: Patience) -> list[str]:
    """A line for each, by its key."""
    images = _images(config, patience)
    return [
        *_one_file_system(config, images),
        *_in_memory(config, images, patience),
        *_not_cut(config),
        *_hooks(config, patience),
        *_large_journal(config, patience),
        *_no_room(images),
        *delay_room.hazard(config, patience),
    ]


def _images(config: Config, patience: Patience) -> dict[Path, _Place]:
    paths = {
        path: volume.size
        for volume in config.volumes.values()
        for path in (volume.primary, volume.secondary)
        if path is not None
    }
    found = {}
    for path, size in paths.items():
        try:
            found[path] = patience.call(partial(_place, path, size))
        except OSError:
            continue  # what is wrong with it is found by who looks at the image
    return found


def _place(path: Path, size: int) -> _Place:
    """Of an image, or of the one that would be created there."""
    if path.exists():
        return _Place(path, *room_of(str(path)))
    room = room_of(str(path.parent))
    return _Place(path, room.device, size, room.free_bytes)


def _one_file_system(config: Config, images: dict[Path, _Place]) -> Iterator[str]:
    names = []
    for name, volume in config.volumes.items():
        first = images.get(volume.primary)
        second = images.get(volume.secondary) if volume.secondary else None
        if first and second and 0 < first.device == second.device:
            names.append(name)
    if names:
        more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        yield (
            f"volumes: both images of {', '.join(names[:_NAMED_MAX])}{more} lie on one file system:"
            " one disk that fails takes both; move one of them"
        )


def _in_memory(config: Config, images: dict[Path, _Place], patience: Patience) -> Iterator[str]:
    """As below /dev/shm, or on another tmpfs."""
    lost = [place for place in images.values() if place.device and is_memory(place.device)]
    if lost:
        more = f" and {len(lost) - 1} more images" if len(lost) > 1 else ""
        yield (
            f"volumes: {lost[0].path}{more} would lie in memory (tmpfs): a restart of the machine"
            " loses them; give paths on a disk"
        )
    state_dir = config.controller.state_dir
    try:
        if is_memory(patience.call(lambda: os.stat(_existing(state_dir)).st_dev)):
            yield (
                f"controller.state_dir: '{state_dir}' is in memory (tmpfs): a restart of the"
                " machine loses the journal; give a path on a disk"
            )
    except OSError:
        return


def _not_cut(config: Config) -> Iterator[str]:
    for name, group in config.groups.items():
        alone = [each for each in group.volumes if config.volumes[each].secondary is None]
        if alone:
            yield (
                f"groups.{name}: {', '.join(alone)} has no secondary, so the group cannot be"
                " suspended; give it one, or take it out of the group"
            )


def _hooks(config: Config, patience: Patience) -> Iterator[str]:
    """A hook that cannot be run fails every suspend of its group."""
    for name, group in config.groups.items():
        for hook, command in ((BEFORE, group.before_suspend), (AFTER, group.after_suspend)):
            if command is not None:
                key = f"groups.{name}.{hook}"
                with suppress(OSError):
                    if found := patience.call(partial(look_at, key, command[0])):
                        yield found


def _large_journal(config: Config, patience: Patience) -> Iterator[str]:
    """What it has already is not free, and is not needed again."""
    own = config.controller
    try:
        used, free = patience.call(lambda: _room_of_journal(own.state_dir))
    except OSError:
        return
    if free is not None and own.journal_size > used + free:
        yield (
            f"controller.journal_size: {format_size(own.journal_size)} is more than the file system"
            f" of state_dir has: {format_size(used + free)}; make it smaller, or make room"
        )


def _room_of_journal(state_dir: Path) -> tuple[int, int | None]:
    """Bytes that the journal has, and bytes that are free for it, if that is known."""
    there = _existing(state_dir)
    used = 0
    if (state_dir / "journal").is_dir():
        with os.scandir(state_dir / "journal") as entries:
            used = sum(entry.stat().st_size for entry in entries)
    return used, room_of(str(there)).free_bytes


def _existing(path: Path) -> Path:
    """It, or the nearest directory above that is there."""
    while not path.exists():
        path = path.parent
    return path


def _no_room(images: dict[Path, _Place]) -> Iterator[str]:
    by_device: dict[int, list[_Place]] = {}
    for image in images.values():
        if image.device:
            by_device.setdefault(image.device, []).append(image)
    for places in by_device.values():
        missing, free = sum(each.missing_bytes for each in places), places[0].free_bytes
        if free is not None and missing > free:
            count = len(places) - 1
            more = (
                f" and {'1 more image' if count == 1 else f'{count} more images'}" if count else ""
            )
            whose = "their" if count else "its"
            yield (
                f"{places[0].path}{more} may grow by {format_size(missing)},"
                f" but {whose} file system has {format_size(free)} free;"
                " make room, or clients will get errors"
            )
