"""Which backup is meant by `DEST[@BACKUP]`, and which of its images is which volume's.

A restore writes over volumes, so nothing is guessed: a volume that is named gets the image of the
volume of that name; a group has to be what the backup is of, on the controllers that it is of.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from duplexd.backup.saved import FILE
from duplexd.core.point import LATEST
from duplexd.errors import NotFoundError, UsageError, WrongStateError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.backup.catalogue import Listed
    from duplexd.backup.saved import Manifest, SavedVolume
    from duplexd.json_object import Json

_LISTED = 5
_SKEW_SECONDS = 3600  # between the clocks of a controller and of this machine


def parse(text: str) -> tuple[str, str]:
    """The directory, and the id or tag of a backup, or `latest`. A directory of that very name
    comes first: names may have a `@`.
    """
    directory, at, wanted = text.rpartition("@")
    if not at or not directory or os.path.isdir(text):
        return text, LATEST
    if not wanted:
        raise UsageError(
            f"{printable(text)}: name a backup after the @: its id, its tag, or latest"
        )
    return directory, wanted


def choose(
    found: Sequence[Listed], wanted: str, rows: Sequence[Json], named: set[str], now: float
) -> Listed:
    """The backup of these volumes; `found` are all, oldest first. Raises NotFoundError if there is
    none, UsageError if several are meant, WrongStateError if it is not known which is the latest.
    """
    if wanted == LATEST:
        return _latest(found, rows, named, now)
    meant = [each for each in found if wanted in (each.id, each.manifest and each.manifest.tag)]
    if not meant:
        raise NotFoundError(
            f"no backup has the id or tag {printable(wanted)!r}; `duplexctl backups` lists them"
        )
    if len(meant) > 1:
        listed = ", ".join(each.id for each in meant[-_LISTED:])
        raise UsageError(
            f"several backups have the tag {printable(wanted)!r}: name one of {listed}"
        )
    return meant[0]


def _latest(found: Sequence[Listed], rows: Sequence[Json], named: set[str], now: float) -> Listed:
    for each in reversed(found):
        if each.manifest is None:
            raise WrongStateError(
                f"{each.id} may be the latest, but its {FILE} cannot be read; name the backup to"
                " restore, by its id"
            )
        if all(_image_of(row, each.manifest, named) for row in rows):
            if each.manifest.cut_time > now + _SKEW_SECONDS:
                raise WrongStateError(
                    f"{each.id} has a time that is still to come: a clock was ahead when it was"
                    " made, or is behind now, so it is not known which backup is the latest; name"
                    " the one to restore, by its id"
                )
            return each
    raise NotFoundError("no backup is of all of these volumes; `duplexctl backups` lists them")


def images(manifest: Manifest, rows: Sequence[Json], named: set[str]) -> dict[str, SavedVolume]:
    """The image of each volume, by what the volume is called in targets; `named` are those that
    were named, and not by a group.

    Raises NotFoundError if one has none, WrongStateError if it does not fit.
    """
    found = {str(row["name"]): _image_of(row, manifest, named) for row in rows}
    if missing := [name for name, image in found.items() if image is None]:
        there = ", ".join(image.name for image in manifest.volumes[:_LISTED])
        raise NotFoundError(
            printable(f"backup {manifest.id} has no {', '.join(missing)}: it has {there}")
        )
    chosen = {name: image for name, image in found.items() if image is not None}
    _check_sizes(manifest, rows, chosen)
    others = left_out(manifest, chosen)
    if others and not {str(row["name"]) for row in rows} <= named:
        raise WrongStateError(
            printable(
                f"backup {manifest.id} is of {', '.join(others)} as well: the group is another one."
                " Name the volumes to restore, one by one; they will not be at one point with those"
            )
        )
    return chosen


def left_out(manifest: Manifest, chosen: Mapping[str, SavedVolume]) -> list[str]:
    """The volumes of a backup that are not restored from it."""
    taken = set(chosen.values())
    return [image.name for image in manifest.volumes if image not in taken]


def elsewhere(rows: Sequence[Json], chosen: Mapping[str, SavedVolume]) -> list[str]:
    """What is to be known of images that are of a volume of another controller."""
    return [
        printable(
            f"{row['name']} gets the image of {image.volume} of controller {image.controller}"
        )
        for row in rows
        if (image := chosen[row["name"]]).controller != row["controller"]
    ]


def _image_of(row: Json, manifest: Manifest, named: set[str]) -> SavedVolume | None:
    same = [image for image in manifest.volumes if image.volume == row["volume"]]
    for image in same:
        if image.controller == row["controller"]:
            return image
    return same[0] if len(same) == 1 and row["name"] in named else None


def _check_sizes(
    manifest: Manifest, rows: Sequence[Json], chosen: Mapping[str, SavedVolume]
) -> None:
    wrong = [
        f"{row['name']} has {row['size']} bytes, and had {image.size}"
        for row in rows
        if (image := chosen[row["name"]]).size != row["size"]
    ]
    if wrong:
        raise WrongStateError(
            printable(f"backup {manifest.id} is of volumes of another size: {'; '.join(wrong)}")
        )
