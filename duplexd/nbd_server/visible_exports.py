"""The volumes as one connection sees them: those that its client may reach, with what it may do.
Who may read a volume may read its points.

The handshake asks here whatever the client names, so GO, INFO, EXPORT_NAME, LIST and contexts agree
about what there is. It is asked anew each time: TLS shows who the client is in the middle of a
handshake, and a reload may change the rules.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from duplexd.nbd.export_flags import volume_flags
from duplexd.nbd.exports import Export
from duplexd.nbd_server.reach import Access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.nbd.offers import Tls
    from duplexd.nbd_server.reach import Listener
    from duplexd.nbd_server.shared import Server
    from duplexd.net.allow import Caller


class VisibleExports:
    """Of one connection. `caller` and `listener` may be replaced."""

    def __init__(self, server: Server, listener: Listener, caller: Caller) -> None:
        self.listener = listener
        self.caller = caller
        self._server = server

    @property
    def tls(self) -> Tls:
        """Whether this connection may or must use TLS."""
        return self.listener.tls

    def access(self, volume: str) -> Access:
        """What the client may do with a volume."""
        return self._server.policy.of(self.caller, self.listener, volume)

    def is_kept_out(self) -> bool:
        """Whether the client can reach nothing, whatever it will say."""
        allow = self.listener.door.allow
        return allow is not None and not (
            allow.may_admit_later(self.caller) if self.tls != "off" else allow.admits(self.caller)
        )

    def find(self, name: str) -> Export | None:
        """The export of that name; "" is the default export, which has a name, too."""
        name = name or self._server.default_name()
        volume = self._server.backend.volume(name) if name else None
        if volume is None or not (access := self.access(volume.of)):
            return None
        flags = volume_flags(read_only=volume.read_only or access != Access.FULL)
        refused = ""
        if why := volume.failed or volume.closed_to(name):
            refused = f"volume {volume.name} is not served: {why}"
        elif not self._server.places.volume_has_one(volume.connections):
            refused = f"volume {volume.name} has {volume.connections} connections, and no more"
        described = f"duplexd volume {volume.name}"
        if volume.lineage:
            described += f", lineage {volume.lineage}"
        # one that is closed goes by the name of who restores it
        known_as = name if volume.closed_to(volume.name) else volume.name
        return Export(known_as, volume.size, flags, described, refused, bitmaps=volume.bitmaps)

    def names(self) -> Iterator[str]:
        """Of all volumes, then of their points: `find` hides what the client may not reach."""
        backend = self._server.backend
        return chain(backend.volume_names(), backend.point_names())
