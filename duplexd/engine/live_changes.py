"""Which changes of the configuration a reload can apply, and which it refuses.

A change is refused if it would remove something that a client, a lease, or a worker that writes to
a secondary is using; or if it replaces an image that is in use, because the journal's record of
that image would be wrong. The error names all such changes at once, by key, so that the file needs
to be corrected only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.leases import Leases
    from duplexd.engine.volumes import Volumes


class LiveChanges:
    """Decides, from the states as they are at the moment; changes nothing."""

    def __init__(self, volumes: Volumes, leases: Leases, archive: CutArchive) -> None:
        self._volumes = volumes
        self._leases = leases
        self._archive = archive

    def check(self, old: Config, new: Config) -> None:
        """Raises ConfigurationError that names every change that can't be made while running."""
        problems: list[str] = []
        for name, pair in self._volumes.by_name.items():
            volume = new.volumes.get(name)
            if pair.id < 0:  # not served since the start, and not recorded: it may become anything
                continue
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
            "stop the daemon, start it without a secondary, then add the new one"
        )
    return problems
