"""The named limits, so small that a scenario of a few hundred writes meets them: the ring wraps, batches go to threads, maps are used."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

from duplexd.core.change_map import ChangeMap
from duplexd.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

GRAIN_BYTES = 4 * KIB
JOURNAL_BYTES = 320 * KIB

LIMITS = {
    "INLINE_BATCH_BYTES_MAX": 24 * KIB,
    "INLINE_ZERO_BYTES_MAX": 32 * KIB,
    "BATCH_BYTES_MAX": 40 * KIB,
    "MARKER_RESERVE_BYTES": 8 * KIB,
    "RECORD_BYTES_MAX": 12 * KIB,
    "JOURNAL_SEGMENTS": 5,
    "SEGMENT_BYTES_MIN": 16 * KIB,
    "REGION_BYTES_MIN": 32 * KIB,
    "FOLLOWER_CHUNK_BYTES": 16 * KIB,
    "COPIED_MARK_BYTES": 48 * KIB,
    "FOLLOWER_FINAL_BYTES": 8 * KIB,
    "ASYNC_LAG_BYTES_MAX": 64 * KIB,
    "PIECE_BYTES_MAX": 16 * KIB,
}


@contextmanager
def small_limits() -> Iterator[None]:
    """Change the limits in every module that uses them."""
    modules = []
    for package in (
        "duplexd",
        "duplexd.engine",
        "duplexd.journal",
        "duplexd.core",
        "duplexd.replication",
        "duplexd.nbd_server",
    ):
        path = importlib.import_module(package).__path__
        names = [
            info.name
            for info in pkgutil.iter_modules(path)
            if not info.ispkg and info.name != "__main__"
        ]  # which would run it
        modules += [importlib.import_module(f"{package}.{name}") for name in names]
    with ExitStack() as patched:
        patched.enter_context(
            mock.patch.object(ChangeMap.__init__, "__defaults__", (GRAIN_BYTES, 1 << 20))
        )
        for module in modules:
            for name in LIMITS.keys() & vars(module).keys():
                patched.enter_context(mock.patch.object(module, name, LIMITS[name]))
        yield
