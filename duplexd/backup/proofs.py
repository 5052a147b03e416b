"""Which images of a DEST were read whole and found right, and what their files looked like then.

An incremental backup lies on older images. If each run read all of these, it would take as long as
a full backup. So DEST has a record: the check-sum of each image, and inode, length and times of its
file, taken before it was read. While these are the same, nobody has written to the file. They do
not show that a disk returns other bytes than were written to it: whatever reads the images again
does, and if it finds that, it removes the record (`forget`), so that the next run reads all.

The record only saves reading: an image that is not in it is read, and a record that cannot be read
is an empty one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup.destination import in_words
from duplexd.runtime import directory

if TYPE_CHECKING:
    from pathlib import Path

RECORD = ".duplexd-backup-proofs.json"
_VERSION = 1
# Two changes within a tick of the kernel's clock may leave the same times. Ticks are of 10 ms at
# most, so an image that was changed as shortly before is looked at again, and if its file system
# has another clock, it is not noted.
_TICK_SECONDS = 0.02


class Look(NamedTuple):
    """What a file looks like. Its device is no part of it: numbers of devices may be others after a
    boot.
    """

    inode: int
    length: int
    modified_ns: int
    changed_ns: int


class Sum(NamedTuple):
    """What was read of a file; `look` is from before."""

    bytes: int
    sha256: str
    look: Look
    read_ns: int  # when the look was taken, since 1970


def to_disk(path: Path) -> None:
    """Make a file durable, and forget what of it is in memory: reads after this are of the disk."""
    with in_words(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def sum_of(path: Path) -> Sum:
    """Read a file. Raises DuplexdError."""
    with in_words(path), path.open("rb") as file:
        look, now_ns = _look(os.fstat(file.fileno())), time.time_ns()
        if not _is_settled(look, now_ns):
            time.sleep(_TICK_SECONDS)
            look, now_ns = _look(os.fstat(file.fileno())), time.time_ns()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Sum(file.tell(), digest, look, now_ns)


def _look_at(path: Path) -> Look:
    """Of an open file: NFS asks its server then, and does not rely on what it has in memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _look(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _look(found: os.stat_result) -> Look:
    return Look(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_settled(look: Look, now_ns: int) -> bool:
    return look.changed_ns + _TICK_SECONDS * 1e9 <= now_ns


class Proofs:
    """Of one DEST. Files are named by their paths."""

    def __init__(self, above: Path) -> None:
        self._above = above
        self._before = _read(above)
        self._noted: dict[str, tuple[str, Look]] = {}
        self._relied: dict[str, Look] = {}

    def holds(self, file: Path, sha256: str) -> bool:
        """Whether it was read with this check-sum, and nobody has written to it since."""
        with suppress(OSError):
            look = _look_at(file)
            if self._before.get(self._name(file)) == (sha256, look):
                self._relied[self._name(file)] = look
                return True
        return False

    def stays(self, file: Path) -> bool:
        """Whether it still looks as when this run asked, or read it."""
        with suppress(OSError):
            return self._relied.get(self._name(file)) == _look_at(file)
        return False

    def note(self, file: Path, found: Sum) -> None:
        """It was read, and is what it has to be."""
        self._relied[self._name(file)] = found.look
        if _is_settled(found.look, found.read_ns):
            self._noted[self._name(file)] = (found.sha256, found.look)

    def save(self) -> None:
        """With those in the record by now, of files that are there. Raises DuplexdError."""
        known = _read(self._above) | self._noted
        rows = {
            name: {"sha256": sha256, **look._asdict()}
            for name, (sha256, look) in known.items()
            if (self._above / name).exists()
        }
        path = self._above / RECORD
        with in_words(path):
            value = {"version": _VERSION, "images": rows}
            directory.replace_file(str(path), json.dumps(value).encode())

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self._above))


def forget(above: Path) -> str:
    """An image was found damaged: what the record says of files is not to be relied on. Returns
    what is to be done by hand where it cannot be removed, as in a DEST that is read-only here.
    """
    try:
        if (above / RECORD).exists():  # a file system that is read-only says so first
            (above / RECORD).unlink(missing_ok=True)
    except OSError as error:
        return (
            f"{above / RECORD} cannot be removed ({error.strerror}): remove it, or the next"
            " incremental backup may be built on what is damaged"
        )
    return ""


def _read(above: Path) -> dict[str, tuple[str, Look]]:
    try:
        found = json.loads((above / RECORD).read_bytes())
        if found["version"] != _VERSION:
            return {}
        return {
            str(name): (str(row["sha256"]), Look(*(int(row[field]) for field in Look._fields)))
            for name, row in found["images"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
