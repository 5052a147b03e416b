"""Whether a path still leads to the image that is open."""

from __future__ import annotations

import errno

from duplexd.images.place import lost_image, misplaced
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg

SIZE = 1 << 20


def test_a_replaced_image_is_named_by_its_path() -> None:
    disk = SimDisk()
    leg = FaultLeg(disk.create("/a.img", SIZE))
    assert misplaced(leg) == ""
    disk.replace_file("/a.img", bytes(SIZE))
    assert misplaced(leg).startswith("/a.img: ")


def test_a_truncated_image_is_named_with_both_sizes() -> None:
    disk = SimDisk()
    leg = disk.create("/a.img", SIZE)
    disk.shorten("/a.img", SIZE - 1)
    assert misplaced(leg) == (
        "/a.img: the image was truncated: it has 1048575 bytes, the volume 1048576"
    )


def test_a_volume_without_a_secondary_has_lost_none() -> None:
    assert misplaced(None) == ""
    assert lost_image(None) is None


def test_a_lost_secondary_is_an_error_that_says_what_to_do() -> None:
    disk = SimDisk()
    leg = disk.create("/a.img", SIZE)
    assert lost_image(leg) is None
    disk.remove("/a.img")
    error = lost_image(leg)
    assert error is not None
    assert error.errno == errno.ESTALE
    assert str(error.strerror).startswith("/a.img: ")
    assert "resync" in str(error.strerror)


def test_a_truncated_secondary_is_an_error_with_the_command_that_extends_it() -> None:
    disk = SimDisk()
    leg = disk.create("/a.img", SIZE)
    disk.shorten("/a.img", SIZE - 1)
    error = lost_image(leg)
    assert error is not None
    assert "`truncate -s 1048576 /a.img` makes it as long" in str(error.strerror)
    disk.remove("/a.img")
    assert "truncate" not in str(lost_image(leg))
