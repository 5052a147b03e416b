"""The segment files of a journal, as they lie in a directory: which there are, and what is in one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import DamageError, NotFoundError
from duplexd.journal.format import SEGMENT_HEADER_BYTES, unpack_segment_header
from duplexd.limits import PROOF_TRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER_BYTES = 48
_PAUSE_S = 0.02


class RecycledError(Exception):
    """The daemon has taken a segment for new records while it was read."""


class Segment(NamedTuple):
    """A segment file; `number` is its place in the journal."""

    path: Path
    number: int
    controller: bytes

    def current(self) -> bool:
        """Whether the file still has this place."""
        found = _look(self.path)
        return found is not None and found.number == self.number

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the segment. Raises RecycledError if they may be of a later use of the file."""
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
    raise NotFoundError(f"{state_dir}: no journal is there, or it may not be read")


def find(directory: Path) -> list[Segment]:
    """All segments in order of their places. Raises DamageError for one that does not say where it belongs, and OSError."""
    found = [
        segment for path in sorted(directory.glob("*.seg")) if (segment := _look(path)) is not None
    ]
    _check_one_owner(found)
    return sorted(found, key=lambda segment: segment.number)


def _look(path: Path) -> Segment | None:
    """The segment in a file; None if it was never used, or is gone."""
    for _ in range(PROOF_TRIES):
        try:
            with path.open("rb", buffering=0) as file:
                data = file.read(_HEADER_BYTES)
                header = unpack_segment_header(data)
                if header is not None:
                    return Segment(path, header.number, header.controller)
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
