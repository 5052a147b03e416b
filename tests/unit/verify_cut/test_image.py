"""An image as `verify-cut` reads it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from duplexd.verify_cut.image import Image

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
SIZE = 16 * BLOCK


@pytest.mark.skipif(
    not os.access("/dev/loop-control", os.W_OK), reason="no right to make loop devices here"
)
def test_what_the_disk_holds_is_read_and_not_what_memory_has_of_it(tmp_path: Path) -> None:
    """A loop device has pages of its own, which know nothing of a change of the file below."""
    below = tmp_path / "disk"
    below.write_bytes(bytes(SIZE))
    attach = ["losetup", "--find", "--show", str(below)]
    made = subprocess.run(attach, capture_output=True, text=True, check=True, timeout=100)
    device = made.stdout.strip()
    daemon = os.open(device, os.O_RDWR)
    try:
        os.pwrite(daemon, b"\1" * 2 * BLOCK, 0)
        os.fsync(daemon)
        os.pwrite(daemon, b"\3" * BLOCK, BLOCK)  # not synced
        with below.open("r+b") as disk:
            disk.write(b"\2" * BLOCK)
        assert os.pread(daemon, BLOCK, 0) == b"\1" * BLOCK
        image = Image(device)
        try:
            assert image.read(0, BLOCK) == b"\2" * BLOCK
            assert image.read(BLOCK, 2 * BLOCK) == b"\3" * BLOCK
        finally:
            image.close()
    finally:
        os.close(daemon)
        subprocess.run(["losetup", "--detach", device], check=True, timeout=100)


def test_holes_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(2 * BLOCK)
        file.write(b"\1" * 3 * BLOCK)
    image = Image(str(path))
    assert image.data_bytes(0, SIZE) == 3 * BLOCK
    assert image.data_bytes(0, 3 * BLOCK) == BLOCK
    assert image.data_bytes(5 * BLOCK, SIZE) == 0
    image.close()
