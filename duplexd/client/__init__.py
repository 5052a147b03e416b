"""Commands one daemon, or groups of volumes that are spread over several controllers, as a library.

A command goes through these parts: `api` asks (`survey`) whether it can be done; `coordinator`
drives the pure machine of `protocol` over `http`; `suspend` and `outcomes` make a `results` value
of the answers; `settle` finishes what another coordinator left. What a groups file is made of is
loaded only when it is named: pydantic takes longer to import than a command on one daemon may take.

Example:
    async with Client.open("/etc/duplexd/groups.toml") as client:
        result = await client.suspend("db", tag="nightly")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from duplexd.client.api import Client
from duplexd.client.results import (
    Cut,
    Cuts,
    GroupState,
    Kept,
    KeptPoint,
    Marked,
    Points,
    ReaderEnded,
    Released,
    Reloaded,
    Repaired,
    Resynced,
    Roles,
    RolledBack,
    Settled,
    Status,
    Suspended,
    Verified,
)
from duplexd.client.results import Hold as HoldFigures
from duplexd.config.groups import Group

if TYPE_CHECKING:
    from duplexd.client.hold import Hold
    from duplexd.config.groups_file import ControllerEntry, GroupEntry, Groups

__all__ = [
    "Client",
    "ControllerEntry",
    "Cut",
    "Cuts",
    "Group",
    "GroupEntry",
    "GroupState",
    "Groups",
    "Hold",
    "HoldFigures",
    "Kept",
    "KeptPoint",
    "Marked",
    "Points",
    "ReaderEnded",
    "Released",
    "Reloaded",
    "Repaired",
    "Resynced",
    "Roles",
    "RolledBack",
    "Settled",
    "Status",
    "Suspended",
    "Verified",
]


_LATER = {
    "ControllerEntry": "duplexd.config.groups_file",
    "GroupEntry": "duplexd.config.groups_file",
    "Groups": "duplexd.config.groups_file",
    "Hold": "duplexd.client.hold",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = vars(import_module(_LATER[name]))[name]
    return found
