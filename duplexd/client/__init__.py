"""Commands groups of volumes that are spread over several controllers: the coordinator, as a library.

Example:
    async with Client.open("/etc/duplexd/groups.toml") as client:
        result = await client.suspend("db", tag="nightly")
"""

from __future__ import annotations

from duplexd.client.api import Client
from duplexd.client.hold import Hold
from duplexd.client.results import (
    Cut,
    Cuts,
    GroupState,
    Released,
    Resynced,
    Settled,
    Status,
    Suspended,
    Verified,
)
from duplexd.client.results import Hold as HoldFigures
from duplexd.config.groups_file import ControllerEntry, Group, GroupEntry, Groups

__all__ = [
    "Client", "ControllerEntry", "Cut", "Cuts", "Group", "GroupEntry", "GroupState", "Groups", "Hold", "HoldFigures", "Released", "Resynced",
    "Settled", "Status", "Suspended", "Verified",
]  # fmt: skip
