"""`is_cached`, on a file whose pages are written one by one.

Before Linux 6.5 the kernel does not say, and nothing is called cached.
"""

from __future__ import annotations

import mmap
import os
import re
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.page_cache import is_cached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = mmap.PAGESIZE
KERNEL_SAYS = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 5)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """Of a file of eight pages, of which the page cache has the second and the third."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8 * PAGE)
    os.pwrite(fd, bytes(2 * PAGE), PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("offset", "length", "cached"),
    [
        (PAGE, 2 * PAGE, True),
        (PAGE, 1, True),
        (2 * PAGE - 1, 2, True),
        (PAGE + 5, 2 * PAGE - 5, True),
        (PAGE, 2 * PAGE + 1, False),
        (PAGE - 1, 2 * PAGE, False),
        (0, PAGE, False),
        (0, 8 * PAGE, False),
        (6 * PAGE, PAGE, False),
    ],
)
def test_a_range_is_cached_if_all_of_its_pages_are(
    fd: int, offset: int, length: int, cached: bool
) -> None:
    assert is_cached(fd, offset, length) == (cached and KERNEL_SAYS)


def test_what_the_kernel_does_not_answer_is_not_cached() -> None:
    assert not is_cached(-1, 0, PAGE)
