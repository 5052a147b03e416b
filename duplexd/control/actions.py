"""The only door into the controller: everything the control socket can ask for, with who asked.

Which pair states an action is legal in is decided by the controller (`pair/state.py`); here it is documented.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from duplexd.control.events import EventHub
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.control.access import Peer

Json = dict[str, Any]


class Lease(Protocol):
    """A hold, as the controller hands it out."""

    id: str
    hold_s: float
    ended: asyncio.Future[str]

    @property
    def volumes(self) -> list[str]: ...

    @property
    def lost(self) -> bool: ...


class Controller(Protocol):
    """What the control plane needs of the controller. All of it is called in the event loop."""

    name: str
    listeners: list[Callable[[Json], None]]

    def status(self) -> Json: ...
    def resolve(self, targets: list[str]) -> list[str]: ...
    async def quiesce(self, names: list[str], hold_s: float, owner: str) -> Lease: ...
    def release(self, lease_id: str, reason: str = "released") -> bool: ...
    async def suspend(self, names: list[str], tag: str = "", lease_id: str | None = None) -> Json: ...
    async def resync(self, names: list[str]) -> Json: ...
    async def resync_wait(self, names: list[str]) -> Json: ...
    async def verify(self, names: list[str], progress: Callable[[str, int, int], None] | None = None) -> Json: ...


class Actions:
    """The controller's commands. `peer` is logged for each one that changes something; errors are those of `errors.py`."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.hub = EventHub()
        self.holds: dict[str, Lease] = {}
        self.stopping = False
        self._log = structlog.get_logger("duplexd.control")
        controller.listeners.append(self.hub.publish)

    def _command(self, peer: Peer, command: str, **fields: object) -> None:
        who = {"certificate": peer.name} if peer.name else {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid}
        self._log.info("command", command=command, **who, **fields)

    def status(self, targets: list[str] | None = None) -> Json:
        """The whole status, or of what `targets` name: their volumes, and the groups and leases that have any of them. Any state."""
        status = self.controller.status()
        if not targets:
            return status
        names = set(self.controller.resolve(targets))
        return status | {
            "volumes": [volume for volume in status["volumes"] if volume["name"] in names],
            "groups": [group for group in status["groups"] if names.intersection(group["volumes"])],
            "leases": [lease for lease in status["leases"] if names.intersection(lease.get("volumes", ()))],
        }

    async def quiesce(self, peer: Peer, targets: list[str], hold_s: float) -> Lease:
        """Hold the targets' writes; returns when those under way are answered. Any state; holds may overlap: a write waits for all of them.

        A cancellation leaves nothing held. The caller must call `owner_gone` when the owner is.
        """
        if self.stopping:
            raise WrongStateError("the daemon is stopping; try again when it is back")
        names = self.controller.resolve(targets)
        self._command(peer, "quiesce", targets=targets, hold_s=hold_s)
        lease = await self.controller.quiesce(names, hold_s, peer.owner)
        self.holds[lease.id] = lease
        lease.ended.add_done_callback(lambda _: self.holds.pop(lease.id, None))
        self._end_if_stopping(lease)
        return lease

    def _end_if_stopping(self, lease: Lease) -> None:
        if self.stopping:  # it began while the writes drained
            self.controller.release(lease.id, "stopping")

    def release(self, peer: Peer, lease_id: str) -> Json:
        """End a hold as its owner wants it. Any state; one that had ended already is no error, an unknown one is."""
        self._command(peer, "release", lease=lease_id)
        return {"lease": lease_id, "released": self.controller.release(lease_id)}

    def owner_gone(self, lease: Lease) -> None:
        """End a hold whose owner went away: nothing done under it counts."""
        if self.controller.release(lease.id, "owner gone"):
            self._log.warning("hold ended", lease=lease.id, reason="owner gone", volumes=lease.volumes)

    async def suspend(self, peer: Peer, targets: list[str], tag: str, lease_id: str | None) -> Json:
        """Cut all targets at one point. Legal when all are DUPLEX, or all stand at the same cut already (`already`)."""
        names = self.controller.resolve(targets)
        self._command(peer, "suspend", targets=targets, tag=tag, lease=lease_id)
        return await self.controller.suspend(names, tag, lease_id)

    async def resync(self, peer: Peer, targets: list[str]) -> Json:
        """Start bringing the secondaries back. Legal for SUSPENDED; nothing to do for DUPLEX and PENDING; not for SIMPLEX."""
        names = self.controller.resolve(targets)
        self._command(peer, "resync", targets=targets)
        return await self.controller.resync(names)

    async def resync_wait(self, targets: list[str]) -> Json:
        """Wait for a resync that was started. A cancellation only ends the waiting."""
        return await self.controller.resync_wait(self.controller.resolve(targets))

    async def verify(self, targets: list[str], progress: Callable[[str, int, int], None] | None = None) -> Json:
        """Compare the legs, each secondary with what it ought to hold. Legal for DUPLEX and SUSPENDED. A cancellation stops it."""
        return await self.controller.verify(self.controller.resolve(targets), progress)

    def present_state(self) -> Json:
        """The event that a new listener gets first."""
        status = self.controller.status()
        return {"event": "state", "time": time.time(), "sequence": status["controller"]["sequence"], "status": status}

    def stop(self) -> None:
        """End every hold (`stopping`) and every stream of events; take no new hold."""
        self.stopping = True
        for lease_id in tuple(self.holds):
            self.controller.release(lease_id, "stopping")
        self.hub.close()

    def detach(self) -> None:
        """Listen to the controller no longer."""
        if self.hub.publish in self.controller.listeners:
            self.controller.listeners.remove(self.hub.publish)
