"""What sysfs says of a device, from a directory that looks like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.attach.device import NbdDevice
from duplexd.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", ["/dev/nbd0", "/dev/nbd15"])
def test_a_device_is_named_by_its_path(path: str) -> None:
    assert NbdDevice.named(path).path == path


@pytest.mark.parametrize("path", ["nbd0", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd00", "/dev/sda"])
def test_anything_else_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="expected /dev/nbd0"):
        NbdDevice.named(path)


def test_a_device_that_is_not_there_is_not_attached(tmp_path: Path) -> None:
    device = NbdDevice(3, tmp_path)
    assert (device.is_attached, device.backend, device.size) == (False, "", 0)


@pytest.mark.parametrize(("pid", "attached"), [("0\n", False), ("417\n", True)])
def test_what_the_kernel_shows_of_a_device(tmp_path: Path, pid: str, attached: bool) -> None:
    shown = tmp_path / "sys" / "block" / "nbd3"
    shown.mkdir(parents=True)
    (shown / "pid").write_text(pid)
    (shown / "size").write_text("2048\n")
    (shown / "backend").write_text("duplexd volume data\n")
    device = NbdDevice(3, tmp_path)
    assert device.is_attached is attached
    assert (device.backend, device.size) == ("duplexd volume data", 1 << 20)
