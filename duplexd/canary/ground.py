"""What is on a volume before a canary writes to it.

A wrong name in a groups file must not destroy a database. So a volume is read as a whole first, and
one byte that is neither zero nor in a record refuses it. That is why reserved volumes are small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.canary.record import MAGIC, RECORD_BYTES, TornError, parse
from duplexd.errors import WrongStateError
from duplexd.units import MIB, format_size

if TYPE_CHECKING:
    from duplexd.nbd_aio.nbd_disk import Disk

_READ_BYTES = 1 * MIB
_EMPTY = bytes(RECORD_BYTES)


async def check_reserved(nbd: Disk, title: str, bytes_max: int) -> None:
    """Raise WrongStateError unless the whole volume holds nothing but zeroes and records."""
    if nbd.size > bytes_max:
        raise WrongStateError(
            f"{title} has {format_size(nbd.size)}, but a volume reserved for a canary "
            f"has at most {format_size(bytes_max)}; reserve a small one"
        )
    for start in range(0, nbd.size, _READ_BYTES):
        data = await nbd.read(start, min(_READ_BYTES, nbd.size - start))
        for at in range(0, len(data), RECORD_BYTES):
            block = data[at : at + RECORD_BYTES]
            if block[: len(MAGIC)] != MAGIC and block != _EMPTY[: len(block)]:
                raise WrongStateError(
                    f"{title} holds other data than a canary's records at byte {start + at}; "
                    "reserve an empty volume for the canary "
                    "(--overwrite destroys the data, for test volumes)"
                )


async def newest_records(nbd: Disk, length: int) -> dict[tuple[int, int], int]:
    """By epoch and writer: the newest record in the volume's first `length` bytes."""
    newest: dict[tuple[int, int], int] = {}
    for start in range(0, length, _READ_BYTES):
        data = await nbd.read(start, min(_READ_BYTES, length - start))
        for at in range(0, len(data), RECORD_BYTES):
            try:
                record = parse(data[at : at + RECORD_BYTES])
            except TornError:
                continue
            if record is not None:
                key = record.epoch, record.writer
                newest[key] = max(record.number, newest.get(key, 0))
    return newest
