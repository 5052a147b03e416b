"""A file that becomes longer or shorter: what it gains reads as zeroes, whatever was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.disk import RealDisk

if TYPE_CHECKING:
    from pathlib import Path

SMALL, LARGE = 8192, 20480


def test_what_a_file_gains_is_zeroes_also_where_it_was_longer_than_it_should_be(
    tmp_path: Path,
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"a" * LARGE)
    file = RealDisk().open(str(path))
    file.size = SMALL  # an earlier attempt to make it longer was given up
    file.resize(LARGE + 4096)
    assert path.read_bytes() == b"a" * SMALL + bytes(LARGE + 4096 - SMALL)
    file.write(LARGE, b"b" * 4096)
    file.resize(SMALL)
    assert path.read_bytes() == b"a" * SMALL
    with pytest.raises(OSError, match="past the end"):
        file.write(SMALL, b"b")
    file.close()
