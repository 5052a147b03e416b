"""The volumes that are served, by name, by number and in groups; and how a volume is added.

Opening images and recording them are separate steps: an image is known to the journal only after
`introduce`, at rest. A crash in between leaves at most new, empty files. The next start finds them
as existing images, so that pair begins with a first copy, though there is nothing to copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.markers import Attach, Copy, Detach, NewVolume
from duplexd.core.pair import Pair
from duplexd.errors import ConfigurationError, NotFoundError
from duplexd.images.open import open_leg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.config.daemon_file import GroupConfig, VolumeConfig
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import PairRecord
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Disk


class Images(NamedTuple):
    """The images of a volume, and which of them were created just now."""

    primary: Leg
    secondary: Leg | None = None
    primary_new: bool = False
    secondary_new: bool = False

    def close(self) -> None:
        """Close them. Does not sync."""
        self.primary.close()
        if self.secondary is not None:
            self.secondary.close()


class Volumes:
    """The configured volumes, in that order, and the groups they are in."""

    def __init__(self) -> None:
        self.by_name: dict[str, Pair] = {}
        self.by_number: dict[int, Pair] = {}
        self.groups: dict[str, list[str]] = {}

    def all(self) -> list[Pair]:
        """Every pair, in the order of the configuration."""
        return list(self.by_name.values())

    def add(self, pair: Pair) -> None:
        """Serve a volume, unless it is served."""
        self.by_name[pair.name] = self.by_number[pair.id] = pair

    def remove(self, name: str) -> Pair:
        """Stop serving a volume."""
        pair = self.by_name.pop(name)
        del self.by_number[pair.id]
        return pair

    def find(self, name: str) -> Pair | None:
        """See `Backend.volume`: "" is the first volume."""
        return next(iter(self.by_name.values()), None) if name == "" else self.by_name.get(name)

    def named(self, names: Iterable[str]) -> list[Pair]:
        """The pairs of these names. Raises KeyError."""
        return [self.by_name[name] for name in names]

    def resolve(self, targets: Iterable[str]) -> list[str]:
        """The volumes that targets (volumes and groups) name, each once, in order.

        Raises NotFoundError.
        """
        names: dict[str, None] = {}
        for target in targets:
            if target in self.by_name:
                names[target] = None
            elif target in self.groups:
                names.update(dict.fromkeys(self.groups[target]))
            else:
                raise NotFoundError(
                    f"{target!r}: no such volume or group; duplexctl status shows them"
                )
        return list(names)

    def assign_groups(self, groups: Mapping[str, GroupConfig]) -> None:
        """Take over the configured groups."""
        self.groups = {name: list(group.volumes) for name, group in groups.items()}
        for pair in self.by_name.values():
            pair.groups = [name for name, members in self.groups.items() if pair.name in members]

    def group_of(self, pair: Pair) -> set[Pair]:
        """The pair and all that share a group with it, as far as they are DUPLEX. Any thread."""
        names = {name for group in pair.groups for name in self.groups.get(group, [])}
        members = {self.by_name[name] for name in names if name in self.by_name}
        return {pair} | {member for member in members if member.state == pair_states.DUPLEX}


# ------------------------------------------------------------------------------------------ images


def open_images(disk: Disk, config: VolumeConfig, name: str, known: PairRecord | None) -> Images:
    """The images of a volume. Raises ConfigurationError, OSError, with nothing left open."""
    primary_path = str(config.primary)
    secondary_path = str(config.secondary) if config.secondary else ""
    if known is not None:
        _check_known(disk, config, name, known)
    if secondary_path and not disk.exists(primary_path) and disk.exists(secondary_path):
        raise ConfigurationError(
            f"volumes.{name}: the secondary {secondary_path} exists, but the primary "
            f"{primary_path} does not; a first copy would overwrite the secondary. Put the primary "
            "back, or move the secondary away"
        )
    primary, primary_new = open_leg(disk, primary_path, config.size)
    if not secondary_path:
        return Images(primary, None, primary_new)
    try:
        secondary, secondary_new = open_leg(disk, secondary_path, config.size)
    except Exception:
        primary.close()
        raise
    return Images(primary, secondary, primary_new, secondary_new)


def _check_known(disk: Disk, config: VolumeConfig, name: str, known: PairRecord) -> None:
    """Raises ConfigurationError where the configuration names images that the journal does not."""
    primary_path = str(config.primary)
    secondary_path = str(config.secondary) if config.secondary else ""
    if known.size != config.size:
        raise ConfigurationError(
            f"volumes.{name}.size: the volume has {known.size} bytes, not {config.size}; "
            "a volume can't be resized"
        )
    if not disk.exists(primary_path):
        raise ConfigurationError(
            f"volumes.{name}.primary: {primary_path} is missing, but the volume was in use; "
            "put the image back"
        )
    if not secondary_path or known.state == pair_states.SIMPLEX:
        return
    if not disk.exists(secondary_path):
        raise ConfigurationError(
            f"volumes.{name}.secondary: {secondary_path} is missing, but the pair was "
            f"{known.state}; put the image back, or leave `secondary` out, start, and then give a "
            "new one"
        )
    if known.secondary_path not in ("", secondary_path):
        raise ConfigurationError(
            f"volumes.{name}.secondary: {secondary_path} is not the secondary that the journal "
            f"knows: {known.secondary_path}, {known.state}. Restore that path, or leave "
            "`secondary` out, start, and then add the new one: it gets a first copy"
        )


def introduce(
    timeline: Timeline, name: str, mode: str, images: Images, known: Pair | PairRecord | None
) -> Pair:
    """Record in the journal what is new about a volume whose images are open. At rest."""
    ledger = timeline.ledger
    if known is None:
        number = ledger.next_id()
        timeline.append(NewVolume(number, name, images.primary.size))
        known = ledger.pairs[number]
    if isinstance(known, Pair):
        pair = known
        pair.set_legs(images.primary, images.secondary, mode)
    else:
        pair = Pair(known, images.primary, images.secondary, mode)
    secondary = images.secondary
    ledger.use_secondary(pair.record, secondary.path if secondary is not None else "")
    if secondary is None and pair.state != pair_states.SIMPLEX:
        timeline.append(Detach([pair.id]))
    elif secondary is not None and pair.state == pair_states.SIMPLEX:
        if images.primary_new and images.secondary_new:
            timeline.append(Attach([pair.id]))
        else:
            changed = first_copy_map(pair, images.secondary_new)
            timeline.append(Copy({pair.id: changed}, pair_states.FIRST_COPY))
    pair.refresh()  # it is not served yet, so the timeline did not
    return pair


def first_copy_map(pair: Pair, secondary_new: bool) -> ChangeMap:
    """What a first copy has to copy: for a newly created secondary only the primary's data."""
    if not secondary_new:
        return pair.record.full_map()
    changed = pair.new_map()
    for offset, length, is_data in pair.primary.extents(0, pair.size):
        if is_data:
            changed.set(offset, length)
    return changed
