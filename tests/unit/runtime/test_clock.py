"""The clock."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from duplexd.runtime.clock import Clock, RealClock, read_boot_id

if TYPE_CHECKING:
    from pathlib import Path


def test_clock_goes_forward_and_knows_the_date() -> None:
    clock: Clock = RealClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert abs(clock.wall() - time.time()) < 60


def test_boot_id_stays_the_same_and_is_one() -> None:
    assert RealClock().boot_id() == RealClock().boot_id()
    assert str(uuid.UUID(RealClock().boot_id())) == RealClock().boot_id()


def test_boot_id_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_boot_id(tmp_path / "missing") == ""
    (tmp_path / "junk").write_bytes(b"\xff\xfe")
    assert read_boot_id(tmp_path / "junk") == ""
