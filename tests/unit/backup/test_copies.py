"""The copies of a cut."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.proofs import to_disk
from duplexd.units import MIB

if TYPE_CHECKING:
    from pathlib import Path


def cached(path: Path) -> bool:
    """Whether its first bytes are in the page cache."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


def test_a_copy_is_compared_as_its_disk_has_it(tmp_path: Path) -> None:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, check=True
    )
    if kind.stdout == b"tmpfs\n":
        pytest.skip("there is no disk below a tmpfs")
    path = tmp_path / "image"
    path.write_bytes(b"x" * MIB)
    assert cached(path)
    for _ in range(600):  # the kernel keeps a page that somebody uses just then
        to_disk(path)
        if not cached(path):
            return
        time.sleep(0.1)
    pytest.fail("it is read from memory")
