"""Values that a reload may change of parts that go on, and what it says of them.

Of `[controller]`, what is not in the table is fixed while the daemon runs, and a reload refuses to
change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.config.differences import value_in_file
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, ControllerConfig

LIVE = (
    "auto_resync",
    "clone_limit",  # of clones made from then on
    "copy_rate",
    "hold_max",
    "marks_kept",
    "on_primary_error",
    "on_start_error",  # of the next start
    "primary_timeout",
    "secondary_timeout",
    "tracked_cuts",
)


def settings_changes(old: ControllerConfig, new: ControllerConfig) -> list[str]:
    """What differs, for people."""
    return [_said(key, after) for key in LIVE if (after := getattr(new, key)) != getattr(old, key)]


def delay_changes(old: Config, new: Config) -> list[str]:
    """Of volumes that were delayed, and are."""
    return [
        f"volume {name}: delay is now {value_in_file('delay', volume.delay)}"
        for name, volume in new.volumes.items()
        if volume.delay is not None
        and name in old.volumes
        and old.volumes[name].delay not in (None, volume.delay)
    ]


def _said(key: str, value: object) -> str:
    if key == "copy_rate":
        if not isinstance(value, int):
            return "copy_rate removed: copies are not limited"
        return f"copy_rate is now {format_size(value)} per second"
    return f"{key} is now {value_in_file(key, value)}"
