"""A tally of the journal that no disk can take back: the number of the last record in the file, in
memory that outlives the process and not the machine (`runtime/tally_file.py`).

After a kill the journal is whole as a rule: what was written is in the page cache. But a state
disk that failed and was mounted again, on the same boot, shows an older end, and looks the same. So
the writer notes number and crc of its last record after each batch, before that is answered. At the
next start the journal that was read has that very record, and nothing acknowledged is lost, or it
has not. The crc is chained (`format.py`): the same one under the same number stands for all before
it.

Which start wrote the tally is in it, too. A tally of an earlier start says nothing, since a later
one may have acknowledged more: so it counts only if no start came after the record that it names.
A start replaces it before it writes anything, and its own marker may then be missing: `vouched` is
what it had found out of those before it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from duplexd.journal.format import Record

Verdict = Literal["whole", "lost", "unknown"]

_MAGIC = b"duplexd1"
_BOOT_BYTES_MAX = 40
_HEAD = Struct(f"<8s16s{_BOOT_BYTES_MAX}sQQ")  # magic, controller, boot, start, vouched
_LAST: Final = Struct("@QI")  # number and crc; if a kill tears it, no record has both
PLACE = _HEAD.size  # of the last record in the file; whole words, so that it is stored at once
SIZE = PLACE + 16
note_last = _LAST.pack_into


class Tally(NamedTuple):
    """Of start `starts`; `vouched`: before it nothing was lost. The last record in the journal has
    number `number` and `crc`.
    """

    starts: int
    vouched: bool
    number: int
    crc: int


def pack(tally: Tally, controller: bytes, boot: str) -> bytes:
    """The content of the file. `boot` is not ""."""
    head = _HEAD.pack(_MAGIC, controller, boot.encode(), tally.starts, tally.vouched)
    return (head + _LAST.pack(tally.number, tally.crc)).ljust(SIZE, b"\0")


def unpack(content: bytes, controller: bytes, boot: str) -> Tally | None:
    """What it says of this controller, on this boot; None if that is nothing."""
    if len(content) != SIZE or not 0 < len(boot.encode()) <= _BOOT_BYTES_MAX:
        return None
    magic, whose, when, starts, vouched = _HEAD.unpack_from(content)
    if (magic, whose, when.rstrip(b"\0")) != (_MAGIC, controller, boot.encode()) or vouched > 1:
        return None
    return Tally(starts, bool(vouched), *_LAST.unpack_from(content, PLACE))


class Search:
    """For the record that a tally names, in a journal that is read from record `sequence` on, which
    has crc `chain`, after `starts` starts.
    """

    def __init__(self, tally: Tally | None, sequence: int, chain: int, starts: int) -> None:
        self._tally = tally
        self._from = sequence
        self._starts = -1  # how many there had been at that record; -1: it was not found
        self.number = -1 if tally is None else tally.number
        if self.number == sequence:
            self._met(chain, starts)

    def met(self, record: Record, starts: int) -> None:
        """The record with that number was read, and was folded: there are `starts` starts."""
        self._met(record.crc, starts)

    def _met(self, crc: int, starts: int) -> None:
        if self._tally is not None and crc == self._tally.crc:
            self._starts = starts

    def verdict(self, starts: int, coming: int) -> Verdict:
        """Whether the journal, all of which was read, has everything. It knows `starts` starts; the
        next one has number `coming`.
        """
        tally = self._tally
        if tally is None or tally.starts < starts:
            return "unknown"
        found = self._starts == starts  # and no start came after it
        if tally.starts == starts:
            if found:
                return "whole"
            # killed after its marker was written, and before that was noted; nobody was served
            early = self._starts >= 0 or tally.number < self._from
            return "unknown" if early else "lost"
        begun = tally.starts == coming  # its marker was not written, so it served nobody
        return "whole" if begun and found and tally.vouched else "lost"
