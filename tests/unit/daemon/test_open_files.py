from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from duplexd.daemon import open_files
from duplexd.errors import LimitError
from duplexd.limits import Limits
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits()
USED = 2 + 16 + 2 + LIMITS.daemon.descriptors_reserve  # images, segments, listeners, kept


def test_as_many_open_files_as_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        assert open_files.raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_connections_get_what_images_and_journal_leave(tmp_path: Path) -> None:
    shared = open_files.shared_out(LIMITS, config(tmp_path, 'journal_size = "64MiB"'), 1024)
    left = 1024 - USED
    assert shared.api.connections_max == left // 4
    assert shared.nbd.connections_max == left - left // 4
    assert (shared.engine, shared.daemon) == (LIMITS.engine, LIMITS.daemon)


def test_with_many_descriptors_the_limits_are_as_they_are(tmp_path: Path) -> None:
    assert open_files.shared_out(LIMITS, config(tmp_path), 65536) == LIMITS


def test_with_few_descriptors_the_administrator_keeps_connections(tmp_path: Path) -> None:
    own = config(tmp_path, 'journal_size = "64MiB"')
    least = USED + LIMITS.api.local_connections_min + LIMITS.daemon.connections_min
    shared = open_files.shared_out(LIMITS, own, least)
    assert shared.api.connections_max == LIMITS.api.local_connections_min
    assert shared.nbd.connections_max == LIMITS.daemon.connections_min
    with pytest.raises(LimitError, match=f"is {least - 1}, .* need at least {least}; raise it"):
        open_files.shared_out(LIMITS, own, least - 1)
