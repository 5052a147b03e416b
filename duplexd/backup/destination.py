"""DEST: the directory of the backups, locked by the run that works in it.

    .duplexd-backup.lock     locked with `flock`, so that it ends with the process
    .duplexd-backup.json     the record: readers that runs named, and perhaps did not end
    NAME/                    a backup: manifest.json, certificate.json, images
    NAME.partial/            one that is being written, or that nobody finished

Who has the lock knows that every other run is dead: what is in the record, or partial, is nobody's.
A directory gets its name by a rename, when all in it is durable; one that is to be removed loses it
in the same way first. So a kill or a power cut leaves a whole backup or none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup.saved import NAME
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.printable import printable
from duplexd.runtime import directory, owned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCK, RECORD = ".duplexd-backup.lock", ".duplexd-backup.json"
PARTIAL = ".partial"
_RECORD_VERSION = 1


class LeftReader(NamedTuple):
    """A reader that a run named. Until it is known to have ended it stays in the record, with what
    its targets were: a group may be another by then.
    """

    name: str
    targets: tuple[str, ...]
    volumes: tuple[str, ...]


@contextmanager
def in_words(path: str | Path) -> Iterator[None]:
    """Within, an OSError becomes a DuplexdError that names the path."""
    try:
        yield
    except OSError as error:
        at = error.filename or path
        full = "; make room there, or keep fewer backups" if error.errno == errno.ENOSPC else ""
        raise DuplexdError(printable(f"{at}: {error.strerror or error}{full}")) from None


class Destination:
    """An open one; see `opened`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    # ---------------------------------------------------------------------------- the record

    def left_readers(self) -> list[LeftReader]:
        """Those in the record."""
        path = self.path / RECORD
        with in_words(path):
            if not path.exists():
                return []
            text = path.read_bytes()
        try:
            found = json.loads(text)
            if found["version"] != _RECORD_VERSION:
                raise ValueError(f"version {found['version']!r}")
            return [
                LeftReader(
                    str(each["reader"]),
                    tuple(map(str, each["targets"])),
                    tuple(map(str, each["volumes"])),
                )
                for each in found["readers"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DuplexdError(
                f"{path}: not the record of a backup ({error}); `duplexctl status` shows readers"
                " that are left: end them with `duplexctl release-reader`, and remove this file"
            ) from None

    def note(self, reader: LeftReader) -> None:
        """A reader that is about to begin."""
        self._record([*self.left_readers(), reader])

    def forget(self, reader: LeftReader) -> None:
        """A reader that has ended."""
        self._record([each for each in self.left_readers() if each != reader])

    def _record(self, readers: list[LeftReader]) -> None:
        path = self.path / RECORD
        rows = [
            {"reader": name, "targets": list(targets), "volumes": list(volumes)}
            for name, targets, volumes in readers
        ]
        with in_words(path):
            if rows:
                value = {"version": _RECORD_VERSION, "readers": rows}
                directory.replace_file(str(path), json.dumps(value).encode())
            elif path.exists():
                directory.remove(str(path))

    # --------------------------------------------------------------------------- the backups

    def begin(self, name: str) -> Path:
        """A directory for a backup that nobody lists yet."""
        made = self.path / (name + PARTIAL)
        with in_words(made):
            made.mkdir(directory.DIRECTORY_MODE)
        return made

    def sync(self, name: str) -> None:
        """Make all that was written for it durable."""
        partial = self.path / (name + PARTIAL)
        with in_words(partial):
            _sync_tree(partial)

    def publish(self, name: str) -> Path:
        """Give it its name: from now on it is a backup. After `sync`."""
        partial, whole = self.path / (name + PARTIAL), self.path / name
        with in_words(partial):
            partial.rename(whole)
            directory.sync(str(self.path))
        return whole

    def discard_partial(self) -> None:
        """Remove what is no backup."""
        for path in self.path.glob("*" + PARTIAL):
            if NAME.fullmatch(path.name.removesuffix(PARTIAL)):
                with in_words(path):
                    shutil.rmtree(path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove backups; one that is half removed is no backup any more."""
        for name in names:
            with in_words(self.path / name):
                (self.path / name).rename(self.path / (name + PARTIAL))
                directory.sync(str(self.path))
                shutil.rmtree(self.path / (name + PARTIAL))

    def free_bytes(self) -> int:
        """What can still be written there."""
        with in_words(self.path):
            found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@contextmanager
def opened(path: str) -> Iterator[Destination]:
    """The directory, made if it is not there, and locked. Raises WrongStateError if another run has
    it; as root, DuplexdError if somebody else could exchange what qemu-img writes to.
    """
    full = os.path.abspath(path)
    with in_words(path):
        directory.make(full)
        owned.check_place(full)
        lock = owned.open_file(os.path.join(full, LOCK), os.O_RDWR | os.O_CREAT)
    try:
        with in_words(path):
            _lock(lock, path)
        yield Destination(full)
    finally:
        os.close(lock)


@contextmanager
def read_only(path: str) -> Iterator[None]:
    """Within, no run adds or removes backups; several may read them. Nothing is written there, and
    it may be a disk that cannot be: where there is no lock, no run works on it.

    Raises WrongStateError if one does; as root, DuplexdError if somebody else could exchange what
    is read.
    """
    full = os.path.abspath(path)
    with in_words(path):
        owned.check_place(full)
        try:
            lock = owned.open_file(os.path.join(full, LOCK), os.O_RDONLY)
        except FileNotFoundError:
            lock = -1
    try:
        if lock >= 0:
            with in_words(path):
                _lock(lock, path, fcntl.LOCK_SH)
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _lock(descriptor: int, path: str, how: int = fcntl.LOCK_EX) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        also = ", or one is being restored from there" if how == fcntl.LOCK_EX else ""
        raise WrongStateError(
            printable(
                f"{path}: another backup is being written there{also}; wait until it has ended"
            )
        ) from None


def _sync_tree(top: Path) -> None:
    for root, _, files in os.walk(top):
        for name in files:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        directory.sync(root)
