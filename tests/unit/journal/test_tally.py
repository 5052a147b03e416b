"""What a note of the last record, which no disk can take back, says of a journal that is read."""

from __future__ import annotations

import errno
from struct import unpack_from
from typing import TYPE_CHECKING

import pytest

from duplexd.core.ledger import Ledger
from duplexd.core.markers import Close, Open, encode
from duplexd.core.since import Since
from duplexd.engine.recovery.read import fold
from duplexd.journal.recover import Walk
from duplexd.journal.tally import PLACE, SIZE, Search, Tally, Verdict, note_last, pack, unpack
from duplexd.limits import EngineLimits
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import DIRECTORY, START, append, existing, new_writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.journal.writer import Writer

WHO, BOOT = bytes(range(16)), "11111111-2222-3333-4444-555555555555"
MARK = encode(Close())


def test_what_was_packed_is_read_by_its_own_controller_on_the_same_boot_only() -> None:
    tally = Tally(3, True, (1 << 64) - 1, 0xFFFFFFFF)
    content = pack(tally, WHO, BOOT)
    assert unpack(content, WHO, BOOT) == tally
    assert unpack(content, bytes(16), BOOT) is None
    assert unpack(content, WHO, BOOT.replace("1", "2")) is None
    assert unpack(content, WHO, "") is None
    assert unpack(content[:-1], WHO, BOOT) is None
    assert unpack(content + b"\0", WHO, BOOT) is None
    assert unpack(b"", WHO, BOOT) is None
    assert unpack(bytes(SIZE), bytes(16), BOOT) is None


def test_a_boot_that_does_not_fit_is_never_read() -> None:
    long = "b" * 41
    assert unpack(pack(Tally(1, True, 1, 1), WHO, long), WHO, long) is None


def test_the_number_is_stored_over_what_was_there() -> None:
    content = bytearray(pack(Tally(3, True, 1, 2), WHO, BOOT))
    note_last(memoryview(content)[PLACE:], 0, 7, 8)
    assert unpack(bytes(content), WHO, BOOT) == Tally(3, True, 7, 8)
    assert PLACE % 8 == 0, "one store"


def written(disk: SimDisk, markers: Sequence[bytes]) -> Writer:
    """A journal of these, each a batch of its own."""
    writer = new_writer(disk)
    for payload in markers:
        writer.write_marker(payload, 1)
    return writer


def judged(disk: SimDisk, tally: Tally) -> Verdict:
    """Of the journal on the disk, as a start reads it from its beginning."""
    ledger = Ledger(EngineLimits())
    search = Search(tally, 0, 0, 0)
    walk = Walk(existing(disk), START)
    fold(walk, ledger, Since(ledger, 0, 0), lambda _done: None, search)
    return search.verdict(ledger.starts, ledger.starts + 1)


def opened(boot: str) -> bytes:
    return encode(Open(boot))


FIRST, SECOND = opened("a"), opened("b")


def noted(markers: Sequence[bytes], starts: int, vouched: bool = True) -> Tally:
    """What a writer of these has noted at its end."""
    writer = written(SimDisk(), markers)
    number, crc = writer.sequence, writer.chain
    held = bytearray(SIZE)
    note_last(held, PLACE, number, crc)
    assert bytes(writer.tally[:12]) == bytes(held[PLACE : PLACE + 12])
    return Tally(starts, vouched, number, crc)


@pytest.mark.parametrize(
    ("journal", "told", "starts", "vouched", "expected"),
    [
        ([FIRST, MARK, MARK], [FIRST, MARK], 1, False, "whole"),
        ([FIRST, MARK], [FIRST, MARK], 1, False, "whole"),
        ([FIRST], [FIRST], 1, False, "whole"),
        ([FIRST], [FIRST, MARK], 1, True, "lost"),
        # killed before its start was noted: nobody was served
        ([FIRST, MARK, SECOND], [FIRST, MARK], 2, True, "unknown"),
        # a start that did not come to write its marker, with what it had found out
        ([FIRST, MARK], [FIRST, MARK], 2, True, "whole"),
        ([FIRST, MARK], [FIRST, MARK], 2, False, "lost"),
        ([FIRST, MARK, MARK], [FIRST, MARK], 2, True, "whole"),
        ([FIRST], [FIRST, MARK], 2, True, "lost"),
        # of a start that the journal does not know, and it has served
        ([FIRST, MARK], [FIRST, MARK, SECOND], 2, True, "lost"),
        ([FIRST, MARK], [FIRST, MARK], 3, True, "lost"),
        # of an earlier start
        ([FIRST, MARK, SECOND, MARK], [FIRST, MARK], 1, True, "unknown"),
        # the records were lost, and others have their numbers
        ([FIRST, MARK, MARK, MARK], [FIRST, SECOND, MARK], 1, True, "lost"),
        ([FIRST, SECOND, MARK], [FIRST, MARK, SECOND, MARK], 2, True, "lost"),
    ],
)
def test_it_vouches_for_its_own_start_and_its_own_records_alone(
    journal: list[bytes], told: list[bytes], starts: int, vouched: bool, expected: Verdict
) -> None:
    disk = SimDisk()
    written(disk, journal)
    assert judged(disk, noted(told, starts, vouched)) == expected


def test_a_checkpoint_may_end_at_the_record() -> None:
    assert Search(Tally(2, False, 9, 5), 9, 5, 2).verdict(2, 3) == "whole"
    assert Search(Tally(2, False, 9, 5), 9, 6, 2).verdict(2, 3) == "lost"
    assert Search(Tally(2, False, 8, 5), 9, 5, 2).verdict(2, 3) == "unknown"
    assert Search(None, 9, 5, 2).verdict(2, 3) == "unknown"


def test_a_start_that_found_itself_behind_has_not_the_next_number() -> None:
    """It died before its marker, so it served nobody."""
    tally = Tally(8, True, 9, 5)
    assert Search(tally, 9, 5, 2).verdict(2, 8) == "whole"
    assert Search(tally, 9, 5, 2).verdict(2, 3) == "lost"


def test_only_what_is_in_the_file_is_noted() -> None:
    disk = SimDisk()
    writer = written(disk, [FIRST])
    before = bytes(writer.tally)
    writer.append_marker(MARK, 1)
    writer.stage()
    assert bytes(writer.tally) == before, "staged, not written"
    disk.fail(DIRECTORY, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        writer.write()
    assert bytes(writer.tally) == before
    disk.heal(DIRECTORY)
    writer.write()
    assert judged(disk, now(writer)) == "whole"


def test_what_was_staged_is_noted_although_the_batch_behind_it_is_refused() -> None:
    disk = SimDisk()
    writer = written(disk, [FIRST])
    writer.append_marker(MARK, 1)
    writer.stage()
    disk.fail(DIRECTORY, errno.ENOSPC, after=1, times=1)
    with pytest.raises(OSError, match="No space"):
        append(writer, [b"x"])
    assert now(writer).number == writer.written == 2
    assert judged(disk, now(writer)) == "whole"


def test_a_batch_over_several_segments_is_noted_at_its_end() -> None:
    disk = SimDisk()
    writer = written(disk, [FIRST])
    for _ in range(40):
        writer.append_marker(MARK, 1)
    writer.write()
    assert writer.segment is not writer.ring.live[0]
    assert now(writer).number == writer.sequence
    assert judged(disk, now(writer)) == "whole"


def now(writer: Writer) -> Tally:
    return Tally(1, False, *unpack_from("@QI", writer.tally))
