"""Which changes of the configuration a reload can apply, and which it refuses.

A change is refused if it would take something away that a client, a lease, or a worker that writes
to a secondary is using: this passes, so it is WrongStateError, "try again". What no reload and no
restart can do, a smaller volume, is ConfigurationError: only an edit helps. The error names
all such changes at once, by key, so that the file needs to be corrected only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.engine.growing import why_not_grown
from duplexd.engine.opening import PRIMARY, SECONDARY, cannot_shrink, places
from duplexd.errors import ConfigurationError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.leases import Leases
    from duplexd.engine.opening import Place
    from duplexd.engine.volumes import Volumes
    from duplexd.replication.followers import Followers


class LegChange(NamedTuple):
    """What a new configuration says of the images of a volume that is served, by role: where each
    is from now on; None where that is as before. `secondary_gone`: there is to be none.
    """

    primary: Place | None = None
    secondary: Place | None = None
    secondary_gone: bool = False


def leg_change(pair: Pair, old: VolumeConfig, new: VolumeConfig) -> LegChange:
    """Compare two configurations of a volume."""
    swapped = pair.record.swapped
    before, other_before = places(old, swapped)
    if swapped and new.secondary is None:  # refused: it names the image that is the primary now
        return LegChange(secondary_gone=True)
    after, other_after = places(new, swapped)
    return LegChange(
        after if after.path != before.path else None,
        other_after if other_after is not None and other_after != other_before else None,
        other_before is not None and other_after is None,
    )


class LiveChanges:
    """Decides, from the states as they are at the moment; changes nothing."""

    def __init__(
        self,
        volumes: Volumes,
        leases: Leases,
        archive: CutArchive,
        followers: Followers,
        readers: CutReaders,
    ) -> None:
        self._readers = readers
        self._volumes = volumes
        self._leases = leases
        self._archive = archive
        self._followers = followers

    def check(self, old: Config, new: Config) -> None:
        """Raises ConfigurationError or WrongStateError that names every change that can't be made.
        Whether an image at another path is another image is looked up later.
        """
        final: list[str] = []
        passing: list[str] = []
        for name, pair in self._volumes.by_name.items():
            volume = new.volumes.get(name)
            if pair.id < 0:  # not served since the start, and not recorded: it may become anything
                continue
            if volume is None:
                passing += self._why_not_removed(pair)
            else:
                final += _why_never(pair, volume)
                final += _why_not_both(pair, old.volumes[name], volume)
                passing += self._why_not_now(pair, old.volumes[name], volume)
                passing += self._why_not_larger(pair, volume)
        if final or passing:
            error = ConfigurationError if final else WrongStateError
            raise error(_lines(new, [*final, *passing]))

    def check_replaced(self, new: Config, pairs: Sequence[Pair]) -> None:
        """Raises WrongStateError for those of these pairs that cannot get another secondary now."""
        if problems := [line for pair in pairs for line in self._why_secondary_stays(pair)]:
            raise WrongStateError(_lines(new, problems))

    def _why_not_removed(self, pair: Pair) -> list[str]:
        problems = []
        if pair.connections or self._leases.holds(pair):
            problems.append(
                f"volumes.{pair.name}: can't be removed while clients use it "
                f"({pair.connections} connected); disconnect them first"
            )
        if pair.state == pair_states.PENDING or self._is_unsettled(pair):
            problems.append(
                f"volumes.{pair.name}: can't be removed while its secondary is being written; "
                "wait until it is at its cut, or DUPLEX"
            )
        if read := self._readers.why_not(pair.id):
            problems.append(f"volumes.{pair.name}: can't be removed while {_reading(read)}")
        if pair.closed:
            problems.append(f"volumes.{pair.name}: can't be removed: {pair.closed}")
        return problems

    def _why_not_now(self, pair: Pair, old: VolumeConfig, new: VolumeConfig) -> list[str]:
        change = leg_change(pair, old, new)
        problems = self._why_secondary_stays(pair) if change.secondary_gone else []
        if change.secondary is not None and pair.closed:  # it would get what is half-way
            key = f"volumes.{pair.name}.secondary"
            problems.append(f"{key}: can't be added or replaced: {pair.closed}")
        if pair.mode == new.mode or pair.state == pair_states.SIMPLEX:
            return problems
        key = f"volumes.{pair.name}.mode"
        if pair.failed:
            problems.append(f"{key}: can't be changed: the volume is not served: {pair.failed}")
        elif pair.is_delayed:
            problems.append(
                f"{key}: can't be changed while the secondary is behind by its delay; "
                f"`duplexctl suspend {pair.name}`, reload, then `duplexctl resync {pair.name}`"
            )
        elif self._is_unsettled(pair):
            problems.append(
                f"{key}: can't be changed while the secondary is on its way to a cut; try again"
            )
        return problems

    def _why_not_larger(self, pair: Pair, new: VolumeConfig) -> list[str]:
        if new.size <= pair.size:
            return []
        why = why_not_grown(pair)
        if not why and self._is_written(pair):
            why = f"the secondary is being written ({pair.state}); try again when it has arrived"
        key = f"volumes.{pair.name}.size"
        return [f"{key}: can't grow from {pair.size} to {new.size} bytes now: {why}"] if why else []

    def _is_written(self, pair: Pair) -> bool:
        copied = pair.state == pair_states.PENDING or self._followers.began(pair) is not None
        return copied or self._is_unsettled(pair)

    def _why_secondary_stays(self, pair: Pair) -> list[str]:
        key = f"volumes.{pair.name}.secondary"
        if pair.failed:
            return [f"{key}: can't be changed: the volume is not served: {pair.failed}"]
        if self._is_written(pair):
            while_written = f"can't be replaced or removed while it is being written ({pair.state})"
            return [f"{key}: {while_written}; wait until it is at its cut, or DUPLEX"]
        if read := self._readers.why_not(pair.id):
            return [f"{key}: can't be replaced or removed while {_reading(read)}"]
        return [f"{key}: can't be replaced or removed: {pair.closed}"] if pair.closed else []

    def _is_unsettled(self, pair: Pair) -> bool:
        unsettled = pair.cut is not None and pair.cut.id in self._archive.unsettled
        return unsettled or self._followers.is_on_its_way(pair)


def not_the_same(pair: Pair, place: Place) -> str:
    """Why the primary cannot be the image at another path."""
    return (
        f"volumes.{pair.name}.{place.key}: {place.path} is not the image that the volume is served "
        f"from, {pair.primary.path}; move that one there, or let the images change roles with "
        f"`duplexctl swap {pair.name}` and replace the secondary"
    )


def _reading(read: str) -> str:
    return (
        f"{read}; wait until they have ended, or end one with `duplexctl release-reader`, a clone "
        "with `duplexctl drop-clone`"
    )


def _why_never(pair: Pair, new: VolumeConfig) -> list[str]:
    problems = []
    if new.size < pair.size:
        problems.append(cannot_shrink(pair.name, pair.size, new.size))
    if pair.record.swapped and new.secondary is None:
        problems.append(
            f"volumes.{pair.name}.{SECONDARY}: the image under this key is the primary since the "
            f"images changed roles; put the key back, and `duplexctl swap {pair.name}` first, or "
            f"stop the daemon and give that image as volumes.{pair.name}.{PRIMARY}"
        )
    return problems


def _why_not_both(pair: Pair, old: VolumeConfig, new: VolumeConfig) -> list[str]:
    change = leg_change(pair, old, new)
    other = change.secondary is not None or change.secondary_gone or new.mode != pair.mode
    if new.size <= pair.size or not other:
        return []
    why = "the volume grows and gets another secondary or mode; reload once for each"
    return [f"volumes.{pair.name}.size: {why}"]


def _lines(new: Config, problems: Sequence[str]) -> str:
    return "\n".join(f"{new.source}: {line}" for line in problems)
