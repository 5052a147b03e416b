"""What the guest's `promises` wrote and was promised, and what a volume may then hold.

Its log has one line for each event: `write NUMBER BLOCK COUNT` before it asks, `flushed NUMBER`
when everything up to that write was flushed, `mark NAME`. A block of a write holds its number, all
over. The writes of a mark that were not flushed before it may be there or not.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

BLOCK_BYTES = 4096
_NUMBER = Struct("<Q")


class Moment(NamedTuple):
    """What is known at a mark. By block: the write that must be there, or a later one."""

    flushed: dict[int, int]
    later: dict[int, set[int]]


def moments(log: str) -> dict[str, Moment]:
    """By mark, in order."""
    found: dict[str, Moment] = {}
    flushed: dict[int, int] = {}
    later: dict[int, list[int]] = {}
    for line in log.splitlines():
        event, *words = line.split()
        if event == "write":
            number, first, count = map(int, words)
            for block in range(first, first + count):
                later.setdefault(block, []).append(number)
        elif event == "flushed":
            flushed.update({block: numbers[-1] for block, numbers in later.items()})
            later.clear()
        else:
            both = {block: set(numbers) for block, numbers in later.items()}
            found[words[0]] = Moment(dict(flushed), both)
    return found


def findings(content: bytes, moment: Moment) -> list[str]:
    """Blocks that hold what they must not."""
    found = []
    for block in range(len(content) // BLOCK_BYTES):
        data = content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
        number = _NUMBER.unpack_from(data)[0]
        wanted = moment.flushed.get(block, 0)
        if data != _NUMBER.pack(number) * (BLOCK_BYTES // _NUMBER.size):
            found.append(f"block {block} is torn")
        elif number != wanted and number not in moment.later.get(block, ()):
            found.append(f"block {block} holds write {number}; {wanted} was flushed")
    return found
