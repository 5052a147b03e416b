"""The segment files of a journal: which there are, and what is in one.

The daemon recycles the oldest segment by writing a new header into its file. So a reader of a
segment looks at the header again afterwards: if it changed, the bytes may be of either use of the
file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import DamageError, NotFoundError
from duplexd.journal.format import SEGMENT_HEADER_BYTES, unpack_segment_header

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER_BYTES = 48
_PAUSE_S = 0.02


class RecycledError(Exception):
    """The daemon recycled a segment while it was read."""


class Segment(NamedTuple):
    """A segment file; `number` is its place in the journal. `tries`: to read its header."""

    path: Path
    number: int
    controller: bytes
    tries: int

    def current(self) -> bool:
        """Whether the file still has this place."""
        found = _look(self.path, self.tries)
        return found is not None and found.number == self.number

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the segment.

        Raises RecycledError if they may be from a later use of the file.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
        except FileNotFoundError as error:
            raise RecycledError from error
        if not self.current():
            raise RecycledError
        return data

    def read_whole(self) -> bytes:
        """All of it."""
        try:
            return self.read(0, self.path.stat().st_size)
        except FileNotFoundError as error:
            raise RecycledError from error


def journal_directory(state_dir: str) -> Path:
    """The directory with the segments. Raises NotFoundError if there is none."""
    for directory in (Path(state_dir) / "journal", Path(state_dir)):
        try:
            if any(directory.glob("*.seg")):
                return directory
        except OSError:
            continue
    raise NotFoundError(f"{state_dir}: no journal found there, or no permission to read it")


def find(directory: Path, tries: int) -> list[Segment]:
    """All segments, in the order of the journal.

    Raises DamageError for a bad header, and OSError.
    """
    paths = sorted(directory.glob("*.seg"))
    found = [segment for path in paths if (segment := _look(path, tries)) is not None]
    _check_one_owner(found)
    return sorted(found, key=lambda segment: segment.number)


def _look(path: Path, tries: int) -> Segment | None:
    """The segment in a file; None if it was never used, or is gone."""
    for _ in range(tries):
        try:
            with path.open("rb", buffering=0) as file:
                data = file.read(_HEADER_BYTES)
                header = unpack_segment_header(data)
                if header is not None:
                    return Segment(path, header.number, header.controller, tries)
                if not any(data) and not any(
                    os.pread(file.fileno(), 1 << 16, SEGMENT_HEADER_BYTES)
                ):
                    return None
        except FileNotFoundError:
            return None
        time.sleep(_PAUSE_S)  # the daemon may be writing it
    raise DamageError(f"{path}: the segment header is damaged")


def _check_one_owner(segments: Sequence[Segment]) -> None:
    if segments and any(segment.controller != segments[0].controller for segment in segments):
        raise DamageError(
            f"{segments[0].path.parent}: the segments belong to different controllers"
        )
