"""What a cut through the guest's writer must look like. Pure: files in, findings out.

The writer (guest/writer) begins a file only when the one before it has been fsynced, on whatever
volume that was. So the files of all volumes form one sequence, and at any moment all but the last
one begun are whole.
"""

from __future__ import annotations

from typing import NamedTuple

LOST, LATE, DEPENDENCY = "lost", "late", "dependency"

Files = dict[str, dict[int, bytes]]  # volume, number -> content


class Finding(NamedTuple):
    """One thing that must not be. `rule` is LOST, LATE or DEPENDENCY."""

    rule: str
    text: str


class Progress(NamedTuple):
    """How far the writer had come on each volume: the highest number begun, and the highest
    fsynced.
    """

    issued: dict[str, int]
    fsynced: dict[str, int]

    @classmethod
    def of_log(cls, log: str, volumes: list[str]) -> Progress:
        """From the last lines of the writer's log."""
        progress = cls(dict.fromkeys(volumes, 0), dict.fromkeys(volumes, 0))
        for line in log.splitlines():
            kind, volume, number = line.split()
            {"issued": progress.issued, "fsynced": progress.fsynced}[kind][volume] = int(number)
        return progress


def content(volume: str, number: int) -> bytes:
    """What the writer puts into a file."""
    size = 700 + number % 9 * 1500
    line = f"duplexd {volume} {number}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def check_cut(files: Files, fsynced: dict[str, int], issued: dict[str, int]) -> list[Finding]:
    """Findings about the files that the secondaries of one cut hold; none if the cut is good.

    `fsynced`: what the guest had reported before the suspend was asked for: must be there, whole.
    `issued`: what it had begun when the suspend had returned: nothing beyond it may be there.
    """
    lost = [
        Finding(
            LOST,
            f"{volume}/{number} was fsynced before the suspend and is "
            f"{_state(files, volume, number)}",
        )
        for volume in files
        for number in range(1, fsynced[volume] + 1)
        if not _whole(files, volume, number)
    ]
    late = [
        Finding(
            LATE,
            f"{volume}/{number} was begun after the suspend and is {_state(files, volume, number)}",
        )
        for volume, contents in files.items()
        for number in sorted(contents)
        if number > issued[volume]
    ]
    return lost + late + check_dependencies(files)


def check_dependencies(files: Files) -> list[Finding]:
    """Findings about files that are not whole although a later one exists, which was begun only
    when they were fsynced.
    """
    volumes = list(files)
    last = max(
        ((number, position) for position, volume in enumerate(volumes) for number in files[volume]),
        default=None,
    )
    if last is None:
        return []
    latest = f"{volumes[last[1]]}/{last[0]}"
    return [
        Finding(
            DEPENDENCY,
            f"{latest} exists, but {volume}/{number}, on which it depends, is "
            f"{_state(files, volume, number)}",
        )
        for number in range(1, last[0] + 1)
        for position, volume in enumerate(volumes)
        if (number, position) < last and not _whole(files, volume, number)
    ]


def _whole(files: Files, volume: str, number: int) -> bool:
    return files[volume].get(number) == content(volume, number)


def _state(files: Files, volume: str, number: int) -> str:
    found = files[volume].get(number)
    if found is None:
        return "missing"
    expected = content(volume, number)
    if found == expected:
        return "whole"
    return f"of {len(found)} bytes" if len(found) != len(expected) else "of other content"
