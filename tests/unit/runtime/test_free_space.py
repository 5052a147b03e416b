"""What is free on a file system, and what is not known."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from duplexd.runtime.free_space import free_bytes, room_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_system_without_a_size_does_not_say_what_is_free() -> None:
    assert os.statvfs("/proc").f_blocks == 0
    assert free_bytes("/proc") is None
    assert room_of("/proc/self/status").free_bytes is None


def test_a_file_system_with_a_size_does(tmp_path: Path) -> None:
    assert (free_bytes(str(tmp_path)) or 0) > 0
