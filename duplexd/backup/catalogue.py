"""What is in DEST: backups with their manifests, and directories that have lost theirs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.backup import programs, retention, saved
from duplexd.backup.background import in_background
from duplexd.backup.copies import sum_of
from duplexd.backup.destination import NAME, in_words
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from duplexd.backup.retention import Part
    from duplexd.backup.saved import Manifest, SavedVolume
    from duplexd.json_object import Json


@dataclass(frozen=True)
class Listed:
    """A directory with the name of a backup. `wrong`: what keeps it from being restored."""

    path: Path
    manifest: Manifest | None
    wrong: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Its name."""
        return self.path.name

    def json(self) -> Json:
        """Without the certificate, which is in its file."""
        found = self.manifest.json() if self.manifest is not None else {"id": self.id}
        found.pop("certificate", None)
        return {"path": str(self.path), **found, "wrong": list(self.wrong)}


def find(directory: str | Path) -> list[Listed]:
    """Those in a directory, oldest first. Raises DuplexdError if it cannot be read."""
    with in_words(directory):
        # absolute: QEMU reads what is before a colon as a protocol
        inside = Path(directory).absolute().iterdir()
        names = sorted(path for path in inside if NAME.fullmatch(path.name))
    return [_look(path) for path in names]


def _look(path: Path) -> Listed:
    try:
        found = saved.parse((path / saved.FILE).read_bytes())
    except OSError as error:
        return Listed(path, None, (f"{saved.FILE}: {error.strerror}",))
    except ValueError as error:
        return Listed(path, None, (f"{saved.FILE}: {error}",))
    if found.id != path.name:
        return Listed(path, None, (f"{saved.FILE} is that of {found.id}",))
    return Listed(path, found, tuple(_sizes(path, found)))


def _sizes(path: Path, found: Manifest) -> Iterator[str]:
    """What a look at the names shows already."""
    for volume in found.volumes:
        try:
            size = (path / volume.file).stat().st_size
        except OSError as error:
            yield f"{volume.file}: {error.strerror}"
            continue
        if size != volume.bytes:
            yield f"{volume.file} has {size} bytes instead of {volume.bytes}"


async def check(listed: Listed) -> Listed:
    """With what reading all of it shows."""
    found = listed.manifest
    if found is None or listed.wrong:
        return listed
    wrong = [text for volume in found.volumes for text in await _check(listed.path, volume)]
    return Listed(listed.path, found, tuple(wrong))


async def _check(path: Path, volume: SavedVolume) -> list[str]:
    file = path / volume.file
    try:
        _, sha256 = await in_background(partial(sum_of, file))
        if sha256 != volume.sha256:
            return [f"{volume.file}: its SHA-256 is not that of the manifest: it was changed"]
        await programs.run(["qemu-img", "check", "-q", "-f", "qcow2", str(file)])
    except DuplexdError as error:
        return [f"{volume.file}: {error}"]
    return []


def surplus(directory: Path, newest: Manifest, keep: Iterable[Part]) -> list[str]:
    """Backups of the same targets that are not to be kept, beside the one that was just made."""
    controllers = frozenset(newest.controllers)
    dated = [
        retention.Dated(each.id, datetime.fromtimestamp(each.manifest.cut_time, UTC))
        for each in find(directory)
        if each.manifest is not None
        and each.manifest.is_of(newest.targets, controllers)
        and not each.wrong
    ]
    return [name for name in retention.surplus(keep, dated) if name != newest.id]
