"""What an incremental backup lies on, and what it copies.

The base is the newest backup of the same targets whose cut the controllers remember, and whose
images, and those that they lie on, have their check-sums still: of files that nobody has written to
since they were read last, that is known without reading them (`proofs`). Where there is none, the
backup is a full one, and a warning says why. What changed since the base is what the controllers
say: more at times, never less.

What a run reads again is what its `verify` says. CHANGED: what changed, and it is compared with the
cut; so it takes as long as there are changes. FULL: all images below, and all that they hold
together with the new ones is compared with the cut, byte by byte, as a full copy is: then that the
controllers know all changes is not left to them.

Check-sums are computed before the suspend, and from the disk, so that no cut waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backup import catalogue
from duplexd.backup.overlays import Overlay
from duplexd.backup.saved import FULL
from duplexd.backup.side_by_side import DiffersError
from duplexd.errors import NotFoundError, UsageError, WrongStateError
from duplexd.known import known
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from duplexd.backup.catalogue import Listed
    from duplexd.backup.proofs import Proofs
    from duplexd.backup.sources import Source
    from duplexd.backup.steps import Watch
    from duplexd.client import Client
    from duplexd.client.results import Changes

_UNKNOWN = (NotFoundError, WrongStateError, UsageError)


class Increment:
    """Of one run. `base` is None where the backup is to be a full one. `unsound`: by their names,
    backups that `choose` found to be damaged.
    """

    def __init__(
        self,
        client: Client,
        targets: tuple[str, ...],
        full_every: int,
        verify: str,
        proved: Proofs,
        watch: Watch,
    ) -> None:
        self._client = client
        self._targets = targets
        self._full_every = full_every
        self._verify = verify
        self._proved = proved
        self._watch = watch
        self.base: Listed | None = None
        self._below: list[Path] = []
        self.unsound: dict[str, Listed] = {}

    @property
    def verify(self) -> str:
        """What of the backup is compared with the cut, CHANGED or FULL."""
        return self._verify if self.base is not None else FULL

    async def choose(self, directory: Path) -> None:
        """Find the base. Before the suspend."""
        found = catalogue.find(directory)
        ours = [each for each in reversed(found) if self._is_ours(each)]
        unsound: list[str] = []
        unknown: list[str] = []
        for each in ours:
            if each.wrong:
                unsound.append(f"{each.id}: {each.wrong[0]}")
                continue
            if (why := await self._unknown(each)) is not None:
                unknown.append(f"changes since {each.id} are not known: {why}")
                continue
            chain = catalogue.chain(each, found)
            if len(chain) >= self._full_every:  # it is time for a full one
                break
            checked = await catalogue.check_sums(chain, self._proved, self._verify == FULL)
            if not checked[0].wrong:
                self.base = each
                self._below = [image for one in chain for image in one.images()]
                break
            self.unsound |= {one.id: one for one in checked if one.wrong}
            unsound += [f"{one.id}: {one.wrong[0]}" for one in checked if one.wrong]
            found = [*checked, *(one for one in found if one not in chain)]
        else:
            none = "there is no older backup of these targets in DEST"
            self._warn("no older backup is sound" if unsound else (unknown or [none])[0])
        for text in dict.fromkeys(unsound):
            self._watch.warn(printable(f"a backup that cannot be built on: {text}"))

    def _is_ours(self, listed: Listed) -> bool:
        return listed.manifest is not None and set(listed.manifest.targets) == set(self._targets)

    async def _unknown(self, listed: Listed) -> str | None:
        """Why its cut is none to build on, if so; of a cut until now."""
        try:
            await self._changes(listed, None)
        except _UNKNOWN as error:
            return str(error)
        return None

    async def _changes(self, base: Listed, cut: str | None) -> Changes:
        """Raises NotFoundError for a cut that has another name's meaning now."""
        since = known(base.manifest, "it was looked at").cut
        changes = await self._client.changes(*self._targets, since=since, until=cut)
        if any(row["since"]["cut"] != since for row in changes.volumes):
            raise NotFoundError(f"{since!r} is the tag of another cut")
        return changes

    async def overlays(self, sources: Sequence[Source], cut: str) -> dict[str, Overlay]:
        """What to copy of each volume, but for those of which all counts as changed: these are
        copied as a whole. If that is so of all, there is no base.
        """
        base = self.base
        if base is None or base.manifest is None:
            return {}
        self.base = None
        try:
            changes = await self._changes(base, cut)
        except _UNKNOWN as error:
            self._warn(f"changes since {base.id} are not known any more: {error}")
            return {}
        old = {each.name: each for each in base.manifest.volumes}
        now = {(each.name, each.controller, each.volume, each.size) for each in sources}
        rows = {row["name"]: row for row in changes.volumes}
        if {each[:4] for each in old.values()} != now or rows.keys() != old.keys():
            self._warn(f"the volumes are others than those of {base.id}, or of another size")
            return {}
        found = {
            name: Overlay(
                base.path / old[name].file,
                known(base.manifest, "it was looked at").cut,
                [(each["offset"], each["length"]) for each in row["extents"]],
                row["changed_bytes"],
            )
            for name, row in rows.items()
            if row["changed_bytes"] < row["size"]
        }
        if not found:
            why = "; ".join(dict.fromkeys(why for row in rows.values() for why in row["why"]))
            self._warn(f"all counts as changed{f' ({why})' if why else ''}")
            return {}
        self.base = base
        return found

    def look_again(self) -> None:
        """Raises DiffersError if somebody wrote to an image below since it was looked at: what is
        copied is compared with the cut, and they are not.
        """
        if self.base is not None:
            for image in self._below:
                if not self._proved.stays(image):
                    raise DiffersError(f"{image}: somebody wrote to it while the backup was made")

    def give_up(self, why: str) -> None:
        """What was copied on the base is not the cut: it is to be a full backup."""
        base, self.base = self.base, None
        if base is not None:
            self._warn(f"what changed, on {base.id}, is not the cut: {why}")

    def _warn(self, why: str) -> None:
        self._watch.warn(printable(f"this is a full backup: {why}"))
