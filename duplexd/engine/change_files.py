"""The change maps that are frozen, in files of the state directory (`journal/change_file.py`).

A map is written by the first checkpoint after its cut, before the checkpoint file names it. Until
then it is in memory only, and a restart computes it again from the journal. So the checkpoint file
alone says which maps there are: a file that it does not name is left from a crash, or belongs to a
cut that is forgotten, and is removed after the next checkpoint.

A file that cannot be written fails no checkpoint, because the journal would fill: its map stays in
memory, the next checkpoint tries again, and a restart before that counts its interval as
everything. So does an interval whose file is missing or damaged.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.change_history import UNREADABLE, Taken
from duplexd.core.change_map import ChangeMap
from duplexd.errors import DamageError
from duplexd.journal import change_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from duplexd.core.change_history import KnownCut
    from duplexd.json_object import Json
    from duplexd.runtime.disk import Disk


class Wanted(NamedTuple):
    """The intervals of a volume that are to be united: into `changed`, a map that nobody else has.
    `why`: what is known to make it too large.
    """

    volume: int
    changed: ChangeMap
    intervals: Sequence[KnownCut]
    why: tuple[str, ...] = ()


class ChangeFiles:
    """Blocking; one thread at a time stores, any number read."""

    def __init__(self, disk: Disk, state_dir: str) -> None:
        self._disk = disk
        self._directory = f"{state_dir}/changes"
        self._named: set[str] | None = None  # by the last checkpoint; None: not known yet
        self.refused: list[str] = []  # what the last checkpoint could not write, and why

    def store(self, saved: Json) -> Json:
        """What a checkpoint took, with each map in a file that could be written. Only a checkpoint
        file that is durable makes them valid.
        """
        stored: dict[str, str] = {}
        self.refused = []
        for cut, maps in _pending(saved["changes"]).items():
            packed = change_file.pack(cut.sequence, maps)
            try:
                self._write(packed)
                stored[cut.id] = packed.name
            except OSError as error:
                path = f"{self._directory}/{packed.name}"
                self.refused.append(f"{path}: {error.strerror or error}")
        if not stored:
            return saved
        taken = {number: _named(each, stored) for number, each in saved["changes"].items()}
        return {**saved, "changes": taken}

    def _write(self, packed: change_file.Packed) -> None:
        self._disk.make_directory(self._directory)
        path = f"{self._directory}/{packed.name}"
        self._disk.replace_file(path, packed.data)

    def remove_others(self, saved: Json) -> None:
        """Remove the files that this checkpoint, which is durable, does not name."""
        named = {known.file for taken in saved["changes"].values() for known in taken.cuts}
        if named == self._named:
            return
        with suppress(OSError):  # the next one tries again
            names = self._disk.list(self._directory) if self._is_there() else []
            for name in set(names) - named:
                self._disk.remove(f"{self._directory}/{name}")
            self._named = named

    def _is_there(self) -> bool:
        return self._disk.exists(self._directory)

    def unite(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The unions, with why each may be too large. Each file is read once."""
        read: dict[str, dict[int, bytes]] = {}
        return [self._united(each, read) for each in wanted]

    def _united(self, wanted: Wanted, read: dict[str, dict[int, bytes]]) -> Wanted:
        changed, why = wanted.changed, dict.fromkeys(wanted.why)
        for known in wanted.intervals:
            why.update(dict.fromkeys(known.why))
            try:
                changed.merge(known.changed or self._map(known.file, wanted.volume, read))
            except (OSError, ValueError, DamageError):
                changed.set_all()
                why[UNREADABLE] = None
        return wanted._replace(why=tuple(why))

    def _map(self, name: str, volume: int, read: dict[str, dict[int, bytes]]) -> ChangeMap:
        if not name:
            raise DamageError("the map was never stored")
        if name not in read:
            data = self._disk.read_file(f"{self._directory}/{name}")
            read[name] = change_file.unpack(name, data)
        if volume not in read[name]:
            raise DamageError(f"{name}: nothing of volume {volume}")
        return ChangeMap.from_bytes(read[name][volume])


def stored_in(saved: Json) -> dict[int, dict[str, str]]:
    """The names of files in what a checkpoint took, by volume and the id of a cut."""
    return {number: _files(taken.cuts) for number, taken in saved["changes"].items()}


def _files(cuts: Iterable[KnownCut]) -> dict[str, str]:
    return {known.id: known.file for known in cuts if known.file}


def _pending(changes: Mapping[int, Taken]) -> dict[KnownCut, dict[int, bytes]]:
    """The maps that are in memory only, by cut and volume."""
    found: dict[str, tuple[KnownCut, dict[int, bytes]]] = {}
    for number, taken in changes.items():
        for known in taken.cuts:
            if known.changed is not None:
                own = found.setdefault(known.id, (known._replace(changed=None, why=()), {}))
                own[1][number] = known.changed.to_bytes()
    return dict(found.values())


def _named(taken: Taken, stored: Mapping[str, str]) -> Taken:
    cuts = tuple(
        known._replace(file=stored[known.id])
        if known.changed is not None and known.id in stored
        else known
        for known in taken.cuts
    )
    return taken._replace(cuts=cuts)
