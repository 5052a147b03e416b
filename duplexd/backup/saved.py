"""What lies beside the images of a backup, as `manifest.json`. Pure.

It is written last, before the directory gets its name, so a directory that has one was a whole
backup. Fields may be added; `version` is raised when an older program would misread it. The text
is foreign input when it is read again: each field is converted here, once, and no file that it
names lies outside of the backup.

    version      1
    id           the name of the backup's directory
    targets      as the command named them
    tag, cut     of the suspend; `verdict` is `consistent`, or there would be no backup
    cut_time, started, finished   seconds since 1970
    program      which version wrote it
    controllers  name of each, and the sequence number of the cut there
    verify_cut   what `verify-cut` said of the cut: confirmed; recorded or unchecked where the
                 journal or the images could not be read on this machine; skipped
    volumes      {name, controller, volume, size, file, bytes, sha256} of each
    verify       what was compared with the cut: `full`, all that the images and those that they lie
                 on hold; or `changed`, what changed since the base
    base         of an incremental backup, the one in the same directory that its images lie on:
                 {id, sha256}, of its manifest, which has the check-sums of the images; else null
    certificate  as `suspend --certificate` writes it
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from duplexd.json_object import Json

VERSION = 1
FULL, CHANGED = "full", "changed"  # of `verify`
FILE = "manifest.json"
NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}")  # of the directory of a backup
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"(?:[A-Za-z0-9._-]+/)?[A-Za-z0-9._-]+\.qcow2")


class SavedVolume(NamedTuple):
    """An image. `size` is the volume's; `bytes` and `sha256` are those of the file."""

    name: str
    controller: str
    volume: str
    size: int
    file: str
    bytes: int
    sha256: str


class Base(NamedTuple):
    """The older backup that an incremental one needs. `sha256`: of its manifest."""

    id: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """See above."""

    id: str
    targets: tuple[str, ...]
    tag: str
    cut: str
    verdict: str
    cut_time: float
    started: float
    finished: float
    program: str
    controllers: dict[str, int]
    verify_cut: str
    volumes: tuple[SavedVolume, ...]
    certificate: Json
    base: Base | None = None
    verify: str = FULL

    @property
    def bytes(self) -> int:
        """Of all images."""
        return sum(volume.bytes for volume in self.volumes)

    def is_of(self, targets: tuple[str, ...], controllers: frozenset[str]) -> bool:
        """Whether a backup of these replaces it, when older ones are removed."""
        return set(self.targets) == set(targets) and frozenset(self.controllers) == controllers

    def json(self) -> Json:
        """As the file has it."""
        rows = [volume._asdict() for volume in self.volumes]
        base = self.base._asdict() if self.base is not None else None
        own = {**vars(self), "targets": list(self.targets), "volumes": rows, "base": base}
        return {"version": VERSION, **own}

    def text(self) -> str:
        """The content of the file."""
        return json.dumps(self.json(), indent=2, allow_nan=False) + "\n"


def parse(text: bytes) -> Manifest:
    """Raises ValueError for what is not a manifest of this version."""
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError(
                f"it is of version {found['version']!r}; this program reads version {VERSION}"
            )
        return _manifest(found)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it lacks a field, or has a wrong one: {error}") from None


def _manifest(found: Json) -> Manifest:
    volumes = tuple(_volume(row) for row in found["volumes"])
    if not volumes:
        raise ValueError("it has no volumes")
    return Manifest(
        id=str(found["id"]),
        targets=tuple(str(each) for each in found["targets"]),
        tag=str(found["tag"]),
        cut=str(found["cut"]),
        verdict=str(found["verdict"]),
        cut_time=_time(found["cut_time"]),
        started=_time(found["started"]),
        finished=_time(found["finished"]),
        program=str(found["program"]),
        controllers={str(name): int(each) for name, each in found["controllers"].items()},
        verify_cut=str(found["verify_cut"]),
        volumes=volumes,
        certificate=dict(found["certificate"]),
        base=_base(found.get("base")),
        verify=str(found.get("verify", FULL)),  # as it was done before there was a choice
    )


def _base(found: Json | None) -> Base | None:
    if found is None:
        return None
    base = Base(str(found["id"]), str(found["sha256"]))
    if not NAME.fullmatch(base.id) or not _SHA256.fullmatch(base.sha256):
        raise ValueError(f"base {base.id!r} does not name a backup and its check-sum")
    return base


def _time(value: object) -> float:
    """Seconds that are a date, as a list of backups shows them."""
    seconds = float(str(value))
    datetime.fromtimestamp(seconds, UTC)
    return seconds


def _volume(row: Json) -> SavedVolume:
    file = str(row["file"])
    if not _FILE.fullmatch(file) or ".." in file.split("/"):
        raise ValueError(f"{file!r} is not the name of an image of a backup")
    return SavedVolume(
        name=str(row["name"]),
        controller=str(row["controller"]),
        volume=str(row["volume"]),
        size=int(row["size"]),
        file=file,
        bytes=int(row["bytes"]),
        sha256=str(row["sha256"]),
    )


def image_file(name: str) -> str:
    """Where the image of a volume lies in a backup, by what the volume is called in targets.

    `alpha:data` is `alpha/data.qcow2`: names have no slash, so no two meet, and QEMU reads what is
    before a colon as a protocol.
    """
    return name.replace(":", "/") + ".qcow2"
