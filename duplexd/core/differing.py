"""Which blocks of a range have to be written so that it holds what another one holds. Pure.

Blocks and not bytes: what is written costs a record and a request each. Zeroes are told apart, so
that they can be written as zeroes and images stay sparse.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK_BYTES = 4096
_ZEROES = bytes(BLOCK_BYTES)


class Run(NamedTuple):
    """Blocks that follow one another, all of them zeroes or none; the last may be a shorter one."""

    offset: int
    length: int
    zeroes: bool


def differing(wanted: bytes, present: bytes) -> list[Run]:
    """The blocks of `wanted` where `present`, which is as long, has something else."""
    if wanted == present:
        return []
    found: list[Run] = []
    for at in range(0, len(wanted), BLOCK_BYTES):
        block = wanted[at : at + BLOCK_BYTES]
        if block == present[at : at + BLOCK_BYTES]:
            continue
        zeroes = block == _ZEROES[: len(block)]
        last = found[-1] if found else None
        if last is not None and last.offset + last.length == at and last.zeroes == zeroes:
            found[-1] = last._replace(length=last.length + len(block))
        else:
            found.append(Run(at, len(block), zeroes))
    return found
