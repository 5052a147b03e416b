"""The table of steps is whole, and says nothing that its order contradicts."""

from __future__ import annotations

from duplexd.backup.steps import BACKUP, LEFT, PARTIAL, READER, RECORD, Step


def test_each_step_says_what_a_kill_leaves() -> None:
    assert list(LEFT) == list(Step)


def test_a_reader_is_in_the_record_before_it_begins() -> None:
    assert all(RECORD in left for left in LEFT.values() if READER in left)


def test_a_backup_is_never_partial() -> None:
    assert not any({BACKUP, PARTIAL} <= left for left in LEFT.values())
