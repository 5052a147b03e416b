"""From `[nbd]` and the rules of volumes to what the NBD server goes by.

The configuration has names; the server compares numbers and certificates. So this is where users
and groups are looked up and key files are read: at a start, at a reload, and by `duplexd check`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from duplexd.config.nbd_section import ListenerConfig
from duplexd.errors import ConfigurationError
from duplexd.nbd_server.peer_places import Shares
from duplexd.nbd_server.reach import Door, Listener, Policy
from duplexd.net import tls
from duplexd.net.allow import group_id, resolve
from duplexd.runtime.locked import Ownership

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.config.daemon_file import Config
    from duplexd.config.nbd_section import Place
    from duplexd.net.address import Address
    from duplexd.net.allow import Entry


class Rules(NamedTuple):
    """Where to listen, and who may do what there."""

    listeners: list[Listener]
    policy: Policy

    @classmethod
    def of(cls, config: Config, passed: Iterable[Address] = ()) -> Rules:
        """Raises ConfigurationError or ForbiddenError."""
        return cls(listeners_of(config, passed), policy_of(config))


def listeners_of(config: Config, passed: Iterable[Address] = ()) -> list[Listener]:
    """Everything to listen on: what is configured, and what was passed without being configured.
    Raises ConfigurationError.
    """
    known = set(config.nbd.addresses)
    more = [
        config.nbd.place(ListenerConfig.model_construct(address=address), "the passed socket")
        for address in passed
        if address not in known
    ]
    return [_listener(place) for place in [*config.nbd.places, *more]]


def policy_of(config: Config) -> Policy:
    """What holds for all listeners. Raises ConfigurationError, and ForbiddenError for a key file
    that cannot be read.
    """
    doors = {
        name: _door(f"volumes.{name}", volume.allow, volume.read_only)
        for name, volume in config.volumes.items()
        if volume.allow is not None or volume.read_only
    }
    own = config.nbd.tls
    context = tls.server_context(own, "nbd.tls", own.clients_need) if own is not None else None
    shares = Shares(config.nbd.connections_per_peer, config.nbd.connections_per_volume)
    return Policy(doors, config.nbd.default or "", context, shares)


def images_of(config: Config) -> Ownership:
    """Of images that are created. Raises ConfigurationError."""
    own = config.controller
    key = "controller.image_group"
    group = group_id(key, own.image_group) if own.image_group is not None else -1
    if group >= 0 and os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        raise ConfigurationError(
            f"{key}: user {os.geteuid()} is not in the group {own.image_group!r}, so it cannot give"
            f" files to it; add it (SupplementaryGroups={own.image_group} in the unit)"
        )
    return Ownership(own.image_mode, group)


def _listener(place: Place) -> Listener:
    group = group_id(f"{place.key}.group", place.group) if place.group is not None else -1
    door = _door(place.key, place.allow, place.read_only)
    return Listener(place.address, door, place.tls, group, place.mode)


def _door(key: str, entries: list[Entry] | None, read_only: bool) -> Door:
    allow = resolve(f"{key}.allow", entries) if entries is not None else None
    return Door(allow, read_only)
