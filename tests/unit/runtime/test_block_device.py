"""A loop device as an image. Machines that offer no loop devices to this user cannot run this."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from duplexd.images.open import open_leg
from duplexd.runtime import machine
from duplexd.runtime.disk import RealDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 4 << 20

loop_devices = pytest.mark.skipif(
    not os.access("/dev/loop-control", os.W_OK), reason="no right to make loop devices here"
)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "image"
    image.write_bytes(b"\xff" * SIZE)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(image)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True, timeout=100)


@loop_devices
def test_device_is_written_zeroed_and_read_at_any_offset(device: str) -> None:
    file = RealDisk().open(device)
    assert (file.size, RealDisk().size(device), file.is_block) == (SIZE, SIZE, True)
    expected = bytearray(b"\xff" * SIZE)
    for offset, length, allocate in (
        (1000, 9001, False),
        (20480, 8192, True),
        (50000, 100, False),
        (65536, 1 << 20, False),
    ):
        file.zero(offset, length, allocate)
        expected[offset : offset + length] = bytes(length)
    file.write(30001, b"unaligned")
    expected[30001:30010] = b"unaligned"
    file.sync()
    assert file.read(0, SIZE) == expected
    file.close()


@loop_devices
def test_device_is_in_place_under_any_node_of_it(device: str, tmp_path: Path) -> None:
    link = tmp_path / "disk"
    link.symlink_to(device)
    file = RealDisk().open(str(link))
    assert file.in_place()
    link.unlink()
    os.mknod(link, 0o600 | stat.S_IFBLK, os.stat(device).st_rdev)
    assert file.in_place()
    link.unlink()
    link.write_bytes(bytes(SIZE))
    assert not file.in_place()
    file.close()


@loop_devices
def test_device_is_opened_once_and_is_never_resized(device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{device}: the device has {SIZE} bytes"):
        open_leg(RealDisk(), device, SIZE // 2)
    known, _ = open_leg(RealDisk(), device, SIZE // 2, is_known=True)
    assert known.size == SIZE // 2  # enlarged, for a volume that is to grow
    known.close()
    leg, created = open_leg(RealDisk(), device, SIZE)
    assert leg.is_block
    assert not created
    with pytest.raises(ConfigurationError, match=f"{device}: in use already"):
        open_leg(RealDisk(), device, SIZE)
    leg.reserve(0, SIZE)
    assert leg.extents(4096, 8192) == [(4096, 8192, True)]
    leg.close()


@loop_devices
def test_what_a_device_gains_is_zeroes_and_it_must_be_large_enough(device: str) -> None:
    file = RealDisk().open(device)
    file.size = SIZE // 2
    with pytest.raises(OSError, match="enlarge it first") as caught:
        file.resize(SIZE + 512)
    assert (caught.value.errno, file.size) == (errno.ENOSPC, SIZE // 2)
    file.resize(SIZE)
    assert file.read(0, SIZE) == b"\xff" * (SIZE // 2) + bytes(SIZE // 2)
    file.resize(SIZE // 2)
    assert file.size == SIZE // 2
    file.close()


@loop_devices
def test_loop_device_on_a_file_discards(device: str) -> None:
    assert machine.queue_punches(os.stat(device).st_rdev)


@pytest.mark.parametrize(
    ("discard", "zeroes", "punches"),
    [("4096", "4096", True), ("0", "4096", False), ("4096", "0", False)],
)
def test_ability_of_a_device_is_its_queues(
    tmp_path: Path, discard: str, zeroes: str, punches: bool
) -> None:
    queue = tmp_path / "devices/sda/queue"
    queue.mkdir(parents=True)
    (tmp_path / "devices/sda/sda1").mkdir()
    (queue / "discard_max_bytes").write_text(discard + "\n")
    (queue / "write_zeroes_max_bytes").write_text(zeroes + "\n")
    (tmp_path / "8:0").symlink_to("devices/sda")
    (tmp_path / "8:1").symlink_to("devices/sda/sda1")
    assert [machine.queue_punches(os.makedev(8, minor), tmp_path) for minor in (0, 1, 2)] == [
        punches,
        punches,
        False,
    ]
