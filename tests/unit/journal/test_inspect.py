"""Inspection: everything is shown, nothing is changed, the verdict is that of the next start."""

from __future__ import annotations

from typing import Any

import pytest

from duplexd.errors import DamageError
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import (
    MARKER,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRIM,
    WRITE,
    ZERO,
)
from duplexd.journal.inspect import inspect
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import CONTROLLER, SEGMENT, append, flip, new_writer, path, reopen

STATE = "/state"
BIG = 1800


def save(
    disk: SimDisk,
    sequence: int = 0,
    chain: int = 0,
    index: int = 1,
    offset: int = SEGMENT_HEADER_BYTES,
) -> None:
    pairs = [{"id": 1, "name": "data"}, {"id": 2, "name": "wal"}]
    place = {"sequence": sequence, "chain": chain, "index": index, "offset": offset}
    saved = {
        "controller": CONTROLLER.hex(),
        "segment_size": SEGMENT,
        "boot": "boot-0",
        "pairs": pairs,
        **place,
    }
    disk.replace_file(f"{STATE}/checkpoint", checkpoint.pack(saved))


def look(disk: SimDisk) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entries, and the verdict."""
    before = {
        name: disk.read_file(path(slot)) for slot, name in enumerate(disk.list("/state/journal"))
    }
    operations = disk.operations
    *entries, verdict = inspect(disk, STATE)
    assert verdict["type"] == "verdict"
    assert disk.operations == operations, "it only looks"
    assert before == {
        name: disk.read_file(path(slot)) for slot, name in enumerate(disk.list("/state/journal"))
    }
    return entries, verdict


def journal(synced: bool = True) -> SimDisk:
    """Three segments: WRITE SEAL WRITE SEAL MARKER ZERO."""
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"x" * BIG, b"y" * BIG])
    writer.append_marker(b'{"m":"cut","id":"c","tag":"nightly","volumes":[1]}', 2_500_000)
    writer.append(ZERO, 2, 8192, 4096, b"", 0, 3_000_000)
    writer.write()
    if synced:
        writer.sync_now()
    writer.append(TRIM, 2, 0, 4096, b"", 0, 3_000_000)
    writer.write()
    save(disk)
    return disk


def test_records_markers_and_segments_are_shown_in_order() -> None:
    entries, verdict = look(journal())
    assert entries[0] == {
        "type": "checkpoint",
        "path": f"{STATE}/checkpoint",
        "sequence": 0,
        "volumes": {1: "data", 2: "wal"},
    }
    assert entries[1] == {"type": "segment", "path": path(0), "index": 1, "first_sequence": 1}
    assert entries[2] == {
        "type": "record",
        "sequence": 1,
        "kind": "write",
        "time": 1.0,
        "volume": 1,
        "offset": 0,
        "length": BIG,
    }
    shown = [entry["kind"] if "kind" in entry else entry["type"] for entry in entries[1:]]
    assert shown == [
        "segment",
        "write",
        "seal",
        "segment",
        "write",
        "seal",
        "segment",
        "marker",
        "zero",
        "trim",
    ]
    (marker,) = (entry["marker"] for entry in entries if entry["type"] == "marker")
    assert marker["tag"] == "nightly"
    assert verdict == {
        "type": "verdict",
        "verdict": "end",
        "sequence": 7,
        "path": path(2),
        "offset": verdict["offset"],
        "why": "",
    }


def test_records_before_the_checkpoint_are_shown_too() -> None:
    disk = journal()
    record = reopen(disk).records[2]
    save(disk, record.sequence, record.crc, 2, record.end)
    entries, verdict = look(disk)
    assert [entry["sequence"] for entry in entries if entry["type"] in {"record", "marker"}] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]
    assert verdict["verdict"] == "end"


def test_the_journal_directory_may_be_named_instead_of_the_state_directory() -> None:
    disk = journal()
    assert list(inspect(disk, f"{STATE}/journal"))[-1]["verdict"] == "end"


def test_a_journal_in_which_nothing_was_written_ends() -> None:
    disk = SimDisk()
    disk.make_directory(f"{STATE}/journal")
    save(disk)
    assert look(disk)[1]["verdict"] == "end"


def place_of(number: int) -> tuple[str, int]:
    """File and offset of a record of `journal`."""
    slot, first = (number - 1) // 2 if number < 5 else 2, {1: 1, 2: 1, 3: 3, 4: 3}.get(number, 5)
    records = reopen(journal()).records
    skipped = sum(
        record.end - record.start for record in records if first <= record.sequence < number
    )
    return path(slot), SEGMENT_HEADER_BYTES + skipped


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("synced", [False, True])
def test_the_verdict_is_that_of_the_next_start(number: int, synced: bool) -> None:
    disk = journal(synced)
    name, offset = place_of(number)
    flip(disk, name, offset + 8)
    entries, verdict = look(disk)
    assert verdict["sequence"] == number - 1
    assert [entry["sequence"] for entry in entries if "sequence" in entry][1:] == list(
        range(1, number)
    )
    try:
        torn = reopen(disk).tail.torn
    except DamageError:
        assert verdict["verdict"] == "damage"
        assert f"record {number} " in verdict["why"]
        assert (verdict["path"], verdict["offset"]) == (name, offset)
    else:
        assert verdict["verdict"] == ("torn" if torn else "end")


def test_a_damaged_segment_header_is_a_verdict() -> None:
    disk = journal()
    flip(disk, path(1), 3)
    verdict = look(disk)[1]
    assert verdict["verdict"] == "damage"
    assert path(1) in verdict["why"]


def test_a_missing_segment_is_a_verdict() -> None:
    disk = journal()
    disk.remove(path(0))
    assert list(inspect(disk, STATE))[-1]["verdict"] == "damage"


def test_without_checkpoint_it_is_an_error() -> None:
    disk = journal()
    disk.replace_file(f"{STATE}/checkpoint", b"rubbish")
    with pytest.raises(DamageError, match="checkpoint is damaged"):
        list(inspect(disk, STATE))
    disk.remove(f"{STATE}/checkpoint")
    with pytest.raises(FileNotFoundError):
        list(inspect(disk, STATE))


def test_kinds_have_names() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    for kind in (WRITE, ZERO, TRIM):
        writer.append(kind, 1, 0, 1, b"", 0, 0)
    writer.append(MARKER, 0, 0, 0, b"{}", 0, 0)
    writer.write()
    save(disk)
    assert [entry["kind"] for entry in look(disk)[0] if "kind" in entry] == [
        "write",
        "zero",
        "trim",
        "marker",
    ]
    assert RECORD_HEADER_BYTES == 72
