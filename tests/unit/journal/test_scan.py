"""The decision table for the end of the journal: every combination, against ARCHITECTURE.md."""

from __future__ import annotations

import itertools
from pathlib import Path

from duplexd.journal.format import RECORD_HEADER_BYTES, WRITE, crc32c, pack_record
from duplexd.journal.scan import DAMAGE, END, TORN, Beyond, judge, records

ARCHITECTURE = Path(__file__).parents[3] / "ARCHITECTURE.md"
LAST = 10


def table() -> dict[str, str]:
    """What the document says: by its first column, the first word of the second."""
    _, _, rest = ARCHITECTURE.read_text().partition(
        "| what the scan meets after the last valid record |"
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in rest.split("\n\n")[0].splitlines()[2:]
    ]
    return {row[0]: row[1].split()[0].rstrip(":") for row in rows}


NOTHING, BROKEN, LATER, CLAIMED = table()


def row(broken: bool, later: bool, synced: int, durable: int) -> str:
    """Which row of the table speaks of this."""
    if max(synced, durable) > LAST:
        return CLAIMED
    if later:
        return LATER
    return BROKEN if broken else NOTHING


def test_the_document_has_the_rows_that_are_tested() -> None:
    assert NOTHING.startswith("nothing")
    assert BROKEN.startswith("a broken record")
    assert LATER.endswith("none claims the gap was synced")
    assert CLAIMED.endswith("claim the gap was synced")
    assert set(table().values()) == {"end", "torn", "damage"}


def test_every_combination_gets_the_verdict_of_the_table() -> None:
    numbers = (0, LAST - 1, LAST, LAST + 1, LAST + 5)
    for broken, later, synced, durable in itertools.product(
        (False, True), (False, True), numbers, numbers
    ):
        beyond = Beyond()
        beyond.broken, beyond.later, beyond.synced = broken, later, synced
        expected = table()[row(broken, later, synced, durable)]
        assert judge(beyond, LAST, durable) == expected, (broken, later, synced, durable)


def test_the_verdicts_are_the_words_of_the_document() -> None:
    assert (END, TORN, DAMAGE) == ("end", "torn", "damage")


# What is seen behind the end


JOURNAL = 0x01020304


def chain_of(
    count: int, first: int = 1, journal: int = JOURNAL, synced: int = 0, payload: bytes = b"payload"
) -> list[bytes]:
    """Records that follow each other."""
    found, chain = [], 0
    for sequence in range(first, first + count):
        header, chain = pack_record(
            chain,
            crc32c(payload),
            sequence,
            synced,
            0,
            len(payload),
            0,
            1,
            len(payload),
            WRITE,
            0,
            journal,
        )
        found.append(header + payload)
    return found


def seen(data: bytes, sequence: int = 1) -> tuple[bool, bool, int, int]:
    beyond = Beyond()
    beyond.look(data, 0, sequence, JOURNAL)
    return beyond.broken, beyond.later, beyond.synced, beyond.length


def test_zeroes_and_rubbish_are_nothing() -> None:
    assert seen(b"") == (False, False, 0, 0)
    assert seen(bytes(1000)) == (False, False, 0, 0)
    assert seen(b"rubbish" * 100) == (False, False, 0, 0)


def test_a_record_that_was_begun_is_broken() -> None:
    assert seen(b"DXR1" + bytes(200)) == (True, False, 0, RECORD_HEADER_BYTES)


def test_a_record_with_half_a_payload_is_broken() -> None:
    (record,) = chain_of(1)
    assert seen(record[:-3] + b"???" + bytes(50)) == (True, False, 0, len(record))
    assert seen(record[:-3]) == (True, False, 0, len(record) - 3)


def test_later_records_are_found_behind_a_gap_wherever_they_lie() -> None:
    one, two, three = chain_of(3, synced=7)
    assert seen(bytes(13) + two) == (False, True, 7, 13 + len(two))
    assert seen(one[:20] + bytes(31) + three) == (True, True, 7, 51 + len(three))


def test_records_of_the_past_are_nothing() -> None:
    """They were left by an earlier use of the segment."""
    assert seen(b"".join(chain_of(3)), sequence=4) == (False, False, 0, 0)


def test_records_of_another_journal_are_nothing_but_payload() -> None:
    """Somebody keeps a journal on a volume: its records may have any number and claim anything."""
    assert seen(bytes(100) + b"".join(chain_of(3, first=50, journal=99, synced=40))) == (
        False,
        False,
        0,
        0,
    )


def test_a_whole_record_that_does_not_follow_the_chain_is_not_valid() -> None:
    one, two, _ = chain_of(3)
    _, other = chain_of(2, payload=b"another past")
    assert [record.sequence for record in records(one + two, 0, 1, 0)] == [1, 2]
    assert [record.sequence for record in records(one + other, 0, 1, 0)] == [1]
    assert [record.sequence for record in records(one + two, 0, 2, 0)] == []
    assert [record.sequence for record in records(one + two, 0, 1, 5)] == []
    assert [record.sequence for record in records(one + two[:-1], 0, 1, 0)] == [1]
