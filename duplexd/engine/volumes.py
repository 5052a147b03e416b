"""The volumes that are served, by name, by number and in groups; and how a volume is added.

Opening images and recording them are separate steps: an image is known to the journal only after
`introduce`, at rest. A crash in between leaves at most new, empty files. The next start finds them
as existing images, so that pair begins with a first copy, though there is nothing to copy.
"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import chain, islice
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.markers import Attach, Copy, Detach, NewVolume, Unread
from duplexd.core.pair import Pair, PairRecord
from duplexd.core.rollback_state import behind_door
from duplexd.errors import NotFoundError
from duplexd.limits import NAME_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.config.daemon_file import GroupConfig
    from duplexd.core.change_map import ChangeMap
    from duplexd.engine.opening import Images
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits

_COMPARED_MAX = 500


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

    def disks(self) -> dict[str, str]:
        """The paths of all images, also of those that are not there, and on which disk each is; ""
        if that is not known.
        """
        legs = [leg for pair in self.all() for leg in (pair.primary, pair.secondary)]
        return {leg.path: leg.device for leg in legs if leg is not None}

    def names(self) -> list[str]:
        """See `Backend.volume_names`."""
        return list(self.by_name)

    def find(self, name: str) -> Pair | None:
        """See `Backend.volume`."""
        if name == "" and len(self.by_name) == 1:
            return next(iter(self.by_name.values()))
        return self.by_name.get(name) or self._restored_by(name)

    def _restored_by(self, name: str) -> Pair | None:
        """The volume that a client which restores it calls so."""
        pair = self.by_name.get(behind_door(name))
        rollback = pair.record.rollback if pair is not None else None
        there = pair is not None and rollback is not None and rollback.admits(pair.name, name)
        return pair if there else None

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
                    f"{target!r}: no such volume or group;{self._meant(target)}"
                    " duplexctl status shows them"
                )
        return list(names)

    def _meant(self, target: str) -> str:
        """The name that this may be a typing error of. Of so many names only: it takes time."""
        names = islice(chain(self.groups, self.by_name), _COMPARED_MAX)
        close = get_close_matches(target[:NAME_CHARACTERS_MAX], names, 1, 0.5)
        return f" did you mean {close[0]!r}?" if close else ""

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


# ------------------------------------------------------------------------------------ one volume


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
        if pair.secondary is None and images.secondary is not None:
            pair.set_legs(pair.primary, images.secondary, mode)
    else:
        pair = Pair(known, images.primary, images.secondary, mode)
    secondary = pair.secondary
    ledger.use_secondary(pair.record, secondary.path if secondary is not None else "")
    if secondary is None and pair.record.readers:  # a start: nobody asks it to wait
        timeline.append(Unread(list(pair.record.readers), [pair.id]))
    if secondary is None and pair.state != pair_states.SIMPLEX:
        timeline.append(Detach([pair.id]))
    elif secondary is not None and pair.state == pair_states.SIMPLEX:
        if images.primary_new and images.secondary_new:
            timeline.append(Attach([pair.id]))
        else:
            changed = first_copy_map(pair, images)
            timeline.append(Copy({pair.id: changed}, pair_states.FIRST_COPY))
    pair.refresh()  # it is not served yet, so the timeline did not
    return pair


def unrecorded(name: str, mode: str, images: Images, number: int, limits: EngineLimits) -> Pair:
    """A volume that is shown, but neither served nor in the journal, under a `number` below 0."""
    record = PairRecord(number, name, images.primary.size, limits)
    return Pair(record, images.primary, images.secondary, mode)


def first_copy_map(pair: Pair, images: Images) -> ChangeMap:
    """What a first copy has to copy: for a newly created secondary only the primary's data."""
    if not images.secondary_new:
        return pair.record.full_map()
    changed = pair.new_map()
    for offset, length in images.data:
        changed.set(offset, length)
    return changed
