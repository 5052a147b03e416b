"""From a path to a leg: new images, images of another size, paths that cannot be used."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from duplexd.images.open import open_leg
from duplexd.runtime.disk import RealDisk
from tests.sim.disk import SimDisk

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1 << 20


def test_a_new_leg_is_sparse_and_of_the_volumes_size(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.img"
    leg, created = open_leg(RealDisk(), str(path), SIZE)
    assert created
    assert (leg.path, leg.size, leg.is_block) == (str(path), SIZE, False)
    assert (path.stat().st_size, path.stat().st_blocks) == (SIZE, 0)
    leg.write(0, b"kept")
    leg.close()
    leg, created = open_leg(RealDisk(), str(path), SIZE)
    assert not created
    buffer = bytearray(4)
    leg.read_into(0, memoryview(buffer))
    assert buffer == b"kept"
    leg.close()


@pytest.mark.parametrize("size", [SIZE - 4096, SIZE + 4096])
def test_an_image_of_another_size_is_refused_with_both_sizes_and_left_alone(
    tmp_path: Path, size: int
) -> None:
    path = str(tmp_path / "a.img")
    RealDisk().create(path, SIZE).close()
    with pytest.raises(ConfigurationError) as caught:
        open_leg(RealDisk(), path, size)
    assert path in str(caught.value)
    assert f"{SIZE} bytes (1.0 MiB)" in str(caught.value)
    assert f"{size} bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    open_leg(RealDisk(), path, SIZE)[0].close()  # nothing stayed open


def test_a_short_file_that_is_copied_to_is_refused_with_the_command_that_extends_it(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "b a.img")
    RealDisk().create(path, SIZE - 4096).close()
    with pytest.raises(ConfigurationError, match=f"`truncate -s {SIZE} '{path}'`"):
        open_leg(RealDisk(), path, SIZE, copied_to=True)
    with pytest.raises(ConfigurationError) as caught:
        open_leg(RealDisk(), path, SIZE)  # what a primary has lost would be read as zeroes
    assert "truncate" not in str(caught.value)


def test_a_long_file_is_never_to_be_shortened(tmp_path: Path) -> None:
    path = str(tmp_path / "b.img")
    RealDisk().create(path, SIZE + 4096).close()
    with pytest.raises(ConfigurationError) as caught:
        open_leg(RealDisk(), path, SIZE, copied_to=True)
    assert "truncate" not in str(caught.value)


def test_a_path_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept, _ = open_leg(RealDisk(), str(tmp_path / "kept"), SIZE)
    for path, reason in (
        (str(tmp_path), "neither a regular file nor a block device"),
        (str(tmp_path / "file" / "below"), "Not a directory"),
        (str(tmp_path / ("n" * 300)), "File name too long"),
        (str(tmp_path / "kept"), "in use already"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            open_leg(RealDisk(), path, SIZE)
        assert str(caught.value).startswith(f"{path}: {reason}")
    kept.close()


def test_a_disk_that_fails_is_not_a_configuration_error() -> None:
    disk = SimDisk()
    disk.fail("/a.img", errno.EIO)
    with pytest.raises(OSError) as caught:
        open_leg(disk, "/a.img", SIZE)
    assert caught.value.errno == errno.EIO
