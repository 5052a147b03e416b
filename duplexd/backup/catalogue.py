"""What is in DEST: backups with their manifests, and directories that have lost theirs.

An incremental backup is worth what the ones below it are worth: whatever is wrong with one of these
is wrong with it, too. So of each damage the backups are named that are lost by it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.backup import overlays, programs, proofs, retention, saved
from duplexd.backup.background import in_background
from duplexd.backup.destination import in_words
from duplexd.backup.saved import NAME
from duplexd.errors import DuplexdError, NotFoundError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from duplexd.backup.proofs import Proofs, Sum
    from duplexd.backup.retention import Part
    from duplexd.backup.saved import Manifest, SavedVolume
    from duplexd.json_object import Json


@dataclass(frozen=True)
class Listed:
    """A directory with the name of a backup. `wrong`: what keeps it from being restored; `sha256`:
    of its manifest. `below`: where that cannot be read, what its images lie on.
    """

    path: Path
    manifest: Manifest | None
    wrong: tuple[str, ...] = ()
    sha256: str = ""
    below: str = ""

    @property
    def id(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def base(self) -> saved.Base | None:
        """What it lies on."""
        return self.manifest.base if self.manifest is not None else None

    def images(self) -> list[Path]:
        """The files of its volumes."""
        rows = self.manifest.volumes if self.manifest is not None else ()
        return [self.path / volume.file for volume in rows]

    def json(self) -> Json:
        """Without the certificate, which is in its file."""
        found = self.manifest.json() if self.manifest is not None else {"id": self.id}
        found.pop("certificate", None)
        return {"path": str(self.path), **found, "wrong": list(self.wrong)}


def find(directory: str | Path) -> list[Listed]:
    """Those in a directory, oldest first. Raises DuplexdError if it cannot be read, NotFoundError
    if there is none.
    """
    # absolute: QEMU reads what is before a colon as a protocol
    above = Path(directory).absolute()
    with in_words(directory):
        try:
            paths = [path for path in above.iterdir() if NAME.fullmatch(path.name)]
        except FileNotFoundError:
            text = f"{directory}: there is no such directory; give the one that backups are in"
            raise NotFoundError(printable(text)) from None
    return _linked(sorted(map(_look, paths), key=_age))


def _age(listed: Listed) -> tuple[str, float, str]:
    """Names begin with the second of the cut; of two of one second the manifest decides."""
    name, manifest = listed.path.name, listed.manifest
    second, _, _ = name.partition("-")
    return second, manifest.cut_time if manifest is not None else 0.0, name


def _look(path: Path) -> Listed:
    def unknown(why: str) -> Listed:
        return Listed(path, None, (f"{saved.FILE}{why}",), below=overlays.lies_on(path))

    try:
        text = (path / saved.FILE).read_bytes()
        found = saved.parse(text)
    except OSError as error:
        return unknown(f": {error.strerror}")
    except ValueError as error:
        return unknown(f": {error}")
    if found.id != path.name:
        return unknown(f" is that of {found.id}")
    return Listed(path, found, tuple(_sizes(path, found)), hashlib.sha256(text).hexdigest())


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


# ------------------------------------------------------------------------------------- chains


def bases(found: Iterable[Listed]) -> dict[str, str]:
    """What each lies on. One without a manifest may be restored by hand: it keeps that, too."""
    named = {each.id: each.base.id if each.base is not None else each.below for each in found}
    return {name: base for name, base in named.items() if base}


def chain(listed: Listed, found: Iterable[Listed]) -> list[Listed]:
    """It and those that it needs, as far as they are there."""
    by_id = {each.id: each for each in found}
    return [by_id[name] for name in retention.chain(listed.id, bases(found)) if name in by_id]


def _linked(found: list[Listed]) -> list[Listed]:
    """With what is wrong below each."""
    by_id = {each.id: each for each in found}
    return [replace(each, wrong=each.wrong or tuple(_below(each, by_id))) for each in found]


def _below(listed: Listed, by_id: Mapping[str, Listed]) -> Iterator[str]:
    """The first thing that is wrong on the way down."""
    seen = {listed.id}
    while (base := listed.base) is not None:
        under = by_id.get(base.id)
        if under is None:
            yield f"it lies on {base.id}, which is not there"
        elif base.id in seen or (not under.wrong and under.sha256 != base.sha256):
            yield f"it lies on {base.id}, whose {saved.FILE} is another now"
        elif under.wrong:
            yield f"it lies on {base.id}, which cannot be restored"
        else:
            seen.add(base.id)
            listed = under
            continue
        return


# ------------------------------------------------------------------------------------ checking


async def check(found: Iterable[Listed]) -> list[Listed]:
    """With what reading all of them shows."""
    checked = [await _check(each, _whole) for each in found]
    kept = {
        above: proofs.forget(above) for above in {one.path.parent for one in checked if one.wrong}
    }
    return _linked(
        [
            replace(each, wrong=(*each.wrong, why))
            if each.wrong and (why := kept[each.path.parent])
            else each
            for each in checked
        ]
    )


async def check_sums(found: Iterable[Listed], proved: Proofs, whole: bool) -> list[Listed]:
    """The same of their check-sums alone, as the disk has them and not the page cache. If not
    `whole`, files that are as they were when they were `proved` are not read again.
    """

    async def look(path: Path, volume: SavedVolume) -> str:
        if not whole and proved.holds(path / volume.file, volume.sha256):
            return ""
        return await _sums(path, volume, proved.note)

    return _linked([await _check(each, look) for each in found])


async def _check(listed: Listed, look: Callable[[Path, SavedVolume], Awaitable[str]]) -> Listed:
    found = listed.manifest
    if found is None or listed.wrong:
        return listed
    wrong = [text for volume in found.volumes if (text := await look(listed.path, volume))]
    return replace(listed, wrong=tuple(wrong))


async def _whole(path: Path, volume: SavedVolume) -> str:
    if wrong := await _sums(path, volume):
        return wrong
    image = ["-f", "qcow2", str(path / volume.file)]
    try:
        await programs.run(["qemu-img", "check", "-q", *image])
        found = await programs.run(["qemu-img", "info", "--output", "json", *image])
    except DuplexdError as error:
        return f"{volume.file}: {error}"
    if (size := json.loads(found)["virtual-size"]) != volume.size:
        return f"{volume.file} is the image of a volume of {size} bytes instead of {volume.size}"
    return ""


async def _sums(
    path: Path, volume: SavedVolume, proved: Callable[[Path, Sum], None] | None = None
) -> str:
    file = path / volume.file
    try:
        await in_background(partial(proofs.to_disk, file))
        found = await in_background(partial(proofs.sum_of, file))
    except DuplexdError as error:
        return f"{volume.file}: {error}"
    if found.sha256 != volume.sha256:
        return f"{volume.file}: its SHA-256 is not that of the manifest: it was changed"
    if proved is not None:
        proved(file, found)
    return ""


def surplus(
    directory: Path, newest: Manifest, keep: Iterable[Part], unsound: Mapping[str, Listed]
) -> list[str]:
    """Backups of the same targets that are not to be kept, beside the one that was just made; in
    the order in which they may be removed. `unsound`: those that were found to be, by their names:
    no sound one goes because of them, nor because of one with a later time, made while a clock was
    ahead.
    """
    controllers = frozenset(newest.controllers)
    found = _linked([unsound.get(each.id, each) for each in find(directory)])
    dated = [
        retention.Dated(each.id, datetime.fromtimestamp(each.manifest.cut_time, UTC))
        for each in found
        if each.manifest is not None
        and each.manifest.is_of(newest.targets, controllers)
        and each.manifest.cut_time <= newest.cut_time
        and not each.wrong
    ]
    going = set(retention.surplus(keep, dated)) - {newest.id}
    staying = [each.id for each in found if each.id not in going]
    return retention.free(sorted(going), bases(found), staying)
