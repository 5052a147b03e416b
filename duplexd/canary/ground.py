"""What lies on a volume before a canary writes to it: nothing, records of earlier canaries, or what must not be touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.canary.record import MAGIC, RECORD_BYTES, TornError, parse
from duplexd.errors import WrongStateError
from duplexd.limits import CANARY_VOLUME_BYTES_MAX
from duplexd.units import MIB, format_size

if TYPE_CHECKING:
    from duplexd.canary.nbd import NbdConnection

_READ_BYTES = 1 * MIB
_EMPTY = bytes(RECORD_BYTES)


async def check_reserved(nbd: NbdConnection, title: str) -> None:
    """Return if the whole volume holds nothing but zeroes and records. Raises WrongStateError that says what to do."""
    if nbd.size > CANARY_VOLUME_BYTES_MAX:
        raise WrongStateError(
            f"{title} has {format_size(nbd.size)}: a volume reserved for a canary has at most {format_size(CANARY_VOLUME_BYTES_MAX)}; reserve a small one"
        )
    for start in range(0, nbd.size, _READ_BYTES):
        data = await nbd.read(start, min(_READ_BYTES, nbd.size - start))
        for at in range(0, len(data), RECORD_BYTES):
            block = data[at : at + RECORD_BYTES]
            if block[: len(MAGIC)] != MAGIC and block != _EMPTY[: len(block)]:
                raise WrongStateError(
                    f"{title} holds something else than a canary's records at {start + at}; reserve an empty volume for the canary "
                    "(a test volume may be given up with --overwrite)"
                )


async def newest_records(nbd: NbdConnection, length: int) -> dict[tuple[int, int], int]:
    """The newest number of each epoch and writer that is on the volume's first `length` bytes."""
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
