"""The only door into the controller: everything that the HTTP API can ask for, with the peer.

There is one door so that there is one place where commands are logged with their peer, where holds
are known that a stop has to end, and where the control plane's view of the engine is typed
(`Controller`). In which pair states an action is legal is decided by the controller
(`core/pair_states.py`); here it is documented.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from duplexd.api.access import check_owner
from duplexd.api.event_hub import EventHub
from duplexd.api.hooked import Hooked
from duplexd.api.of_process import OfProcess
from duplexd.api.reloads import NOT_RELOADED
from duplexd.api.restarts import NOT_RESTARTED
from duplexd.core.drill_record import Report
from duplexd.core.leaving import Leaving
from duplexd.core.rollback import Order, RestoreOrder
from duplexd.errors import UsageError, WrongStateError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from duplexd.api.access import Peer
    from duplexd.api.models.clone_model import CloneDrop, CloneRequest
    from duplexd.api.models.drill_model import DrillRequest
    from duplexd.api.models.mark_model import MarkRequest
    from duplexd.api.models.reader_model import ReaderEnds, ReaderRequest
    from duplexd.api.models.request_model import (
        CutRequest,
        GradeRequest,
        RepairRequest,
        ResyncRequest,
        StandRequest,
        SuspendRequest,
        SwapRequest,
    )
    from duplexd.api.models.restore_model import RestoreRequest
    from duplexd.api.models.rollback_model import RollbackRequest
    from duplexd.api.protocols import Controller, Lease
    from duplexd.api.reloads import Reloads
    from duplexd.api.restarts import Restarts
    from duplexd.json_object import Json
    from duplexd.limits import ApiLimits


_OTHER_IMAGES = ("secondary-left", "legs-differ", "legs-equal")


class Actions(OfProcess):
    """The controller's commands. Errors are those of `errors.py`.

    `peer` is logged for each command that changes something.
    """

    def __init__(
        self,
        controller: Controller,
        limits: ApiLimits,
        reloads: Reloads = NOT_RELOADED,
        restarts: Restarts = NOT_RESTARTED,
    ) -> None:
        super().__init__(reloads, restarts)
        self.controller = controller
        self.hub = EventHub(limits.events_queued_max)
        self.hooked = Hooked(reloads, lambda: controller.name)
        self.holds: dict[str, Lease] = {}
        # Why the last verify could not compare a volume. Where legs differ, the journal says.
        self.differing: dict[str, str] = {}
        self.stopping = False
        controller.listeners += [self.hub.publish, self._another_image]

    def _resolve(self, targets: list[str]) -> list[str]:
        """The volumes that targets mean. Each target is looked up once: a group that is named a
        thousand times in one request would keep the loop for seconds.
        """
        return self.controller.resolve(list(dict.fromkeys(targets)))

    def status(self, targets: list[str] | None = None) -> Json:
        """The whole status; with `targets`, their volumes and the groups and leases of those.

        Legal in any state.
        """
        status = self.controller.status()
        if not targets:
            return status
        names = set(self._resolve(targets))
        return status | {
            "volumes": [volume for volume in status["volumes"] if volume["name"] in names],
            "groups": [group for group in status["groups"] if names.intersection(group["volumes"])],
            "leases": [
                lease for lease in status["leases"] if names.intersection(lease.get("volumes", ()))
            ],
        }

    def resolve(self, targets: list[str]) -> list[str]:
        """The volumes that targets mean; none for none. Raises NotFoundError."""
        return self._resolve(targets) if targets else []

    async def quiesce(
        self,
        peer: Peer,
        targets: list[str],
        hold_s: float | None,
        cut_id: str = "",
        mark: bool = False,
    ) -> Lease:
        """Hold the targets' writes; returns when those in flight are answered.

        Legal in any state. Holds may overlap: a write waits for all of them.

        A cancellation leaves nothing held. The caller must call `owner_gone` when the owner is.
        """
        if self.stopping:
            raise WrongStateError("the daemon is stopping; try again when it is back")
        names = self._resolve(targets)
        if mark:
            if not cut_id:
                raise UsageError("mark: give its id as `cut`")
            self._marking.append(cut_id)
        self._command(peer, "quiesce", targets=targets, hold_s=hold_s, cut=cut_id or None)
        lease = await self.controller.quiesce(names, hold_s, peer.owner, cut_id, mark)
        self.holds[lease.id] = lease
        lease.ended.add_done_callback(lambda _: self.holds.pop(lease.id, None))
        self._end_if_stopping(lease)
        return lease

    def _end_if_stopping(self, lease: Lease) -> None:
        if self.stopping:  # it began while the writes drained
            self.controller.release(lease.id, "stopping")

    def renew(self, peer: Peer, lease_id: str, fence: int | None, hold_s: float) -> Json:
        """Extend a hold, under a new fencing number.

        Raises LeaseLostError for a lease that ended, or that another renewed.
        """
        self._command(peer, "renew", lease=lease_id, hold_s=hold_s)
        return self.controller.renew(lease_id, fence, hold_s)

    def release(self, peer: Peer, lease_id: str, fence: int | None = None) -> Json:
        """End a hold on behalf of its owner. Legal in any state.

        One that has ended already is not an error, an unknown one is.
        """
        self._command(peer, "release", lease=lease_id)
        return {"lease": lease_id, "released": self.controller.release(lease_id, fence=fence)}

    def owner_gone(self, lease: Lease) -> None:
        """End a hold whose owner went away: what was done under it is void."""
        if self.controller.release(lease.id, "owner gone"):
            self._log.warning(
                "hold ended", lease=lease.id, reason="owner gone", volumes=lease.volumes
            )

    async def suspend(
        self,
        peer: Peer,
        body: SuspendRequest,
        on_cut: Callable[[str], object] = lambda _: None,
    ) -> Json:
        """Cut all targets at one point, with the hooks of groups around it.

        Legal when all are DUPLEX; with `allow_existing` also when a suspend brought all to one cut.
        At a point of the past: when all are delayed, and none is beyond it; `onward`: when all are
        SUSPENDED. No hook is run then.
        A cancelled one leaves no cut half-way.
        """
        names, reader, lease = self._resolve(body.targets), body.reader or "", body.lease
        suspend, past = self.controller.suspend, body.past
        if body.onward and past is None:
            raise UsageError("onward: say where to, with `at`")
        self._command(
            peer, "suspend", targets=body.targets, tag=body.tag, lease=lease, reader=reader,
            **({"at": str(past.point)} if past is not None else {}),
        )  # fmt: skip
        # nothing that a hook does now would be in the past
        hooked = body.targets if past is None else []
        return await self.hooked.suspend(
            hooked, body.tag, lease,
            lambda made: suspend(
                names, body.tag, lease, body.fence, body.certificate, body.allow_existing,
                reader=reader, on_cut=made, at=past,
            ),
            on_cut,
        )  # fmt: skip

    async def mark(self, peer: Peer, body: MarkRequest) -> Json:
        """Mark this point of the targets. Legal in any state in which they are served.

        A cancelled one is made, or not; it is never half made.
        """
        names = self._resolve(body.targets)
        self._command(peer, "mark", targets=body.targets, tag=body.tag)
        return await self.controller.mark(names, body.tag)

    async def make_cut(self, peer: Peer, cut_id: str, request: CutRequest) -> Json:
        """Cut the volumes of a lease that is held for a group's cut. Legal while it is held."""
        self._command(
            peer, "cut", cut=cut_id, lease=request.lease, tag=request.tag, group=request.group
        )
        return await self.controller.cuts.make(
            cut_id, request.lease, request.fence, request.tag, request.group, request.members
        )

    async def open_cut(self, peer: Peer, cut_id: str, lease_id: str, fence: int) -> Json:
        """Open the gates after the cut; the answer is the vote. Legal while the lease is held."""
        self._command(peer, "open", cut=cut_id, lease=lease_id)
        return await self.controller.cuts.open(cut_id, lease_id, fence)

    async def stand_cut(self, peer: Peer, cut_id: str, body: StandRequest) -> Json:
        """Bring secondaries to a mark of several controllers; the answer is the vote. Legal as a
        suspend at a point of the past; when they are there already, it does nothing.
        """
        names = self._resolve(body.targets)
        if not body.check:
            self._command(
                peer, "stand", targets=body.targets, cut=cut_id, mark=body.mark, group=body.group
            )
        past = body.past(cut_id)
        already = await self.controller.stand(names, past, body.tag, body.check)
        status = None if body.check else self.controller.cuts.show(cut_id)
        return {
            "cut": cut_id, "controller": self.controller.name, "already": already, "status": status,
        }  # fmt: skip

    async def decide_cut(self, peer: Peer, cut_id: str, how: str) -> Json:
        """Abort, agree (commit) or refuse. Legality is the table of `core/cut_states.py`.

        A cancellation changes nothing once the marker is in the journal.
        """
        self._command(peer, how, cut=cut_id)
        return await self.controller.cuts.decide(cut_id, how)

    def release_cut(self, peer: Peer, cut_id: str) -> Json:
        """End the hold for a cut that is not to be made. Legal in any state.

        Having none is not an error: coordinators measure the round trip with it.
        """
        released = self.controller.cuts.release(cut_id)
        if released["released"]:
            self._command(peer, "release", cut=cut_id)
        return released

    async def grade_cut(self, peer: Peer, cut_id: str, request: GradeRequest) -> Json:
        """Keep what a canary found; a broken cut is void. Legal in any state, for a known cut."""
        self._command(peer, "grade", cut=cut_id, consistent=request.consistent)
        return await self.controller.cuts.grade(
            cut_id, request.consistent, request.records, request.detail
        )

    async def read_cut(self, cut_id: str, name: str, offset: int, length: int) -> bytes:
        """Bytes of a secondary. Legal while it is durably at that cut."""
        names = self._resolve([name])
        if names != [name]:
            raise UsageError(f"{name!r} is a group; name a volume")
        return await self.controller.cuts.read(cut_id, name, offset, length)

    async def resync(self, peer: Peer, body: ResyncRequest) -> Json:
        """Start a resync of the secondaries.

        Legal for SUSPENDED that nobody reads, or with `force`; does nothing for DUPLEX and PENDING;
        not legal for SIMPLEX. `partial`: it is started for those for which it is legal, and
        possible, if there are any.
        """
        names = self._resolve(body.targets)
        how = Leaving(body.cut or "", body.reader or "", body.force)
        self._command(peer, "resync", targets=body.targets, reader=how.reader, force=how.force)
        return await self.controller.resync(names, body.partial, how)

    async def add_reader(self, peer: Peer, body: ReaderRequest) -> Json:
        """Name a reader of a cut. Legal while all targets are at that cut."""
        names = self._resolve(body.targets)
        self._command(peer, "reader", targets=body.targets, reader=body.reader, cut=body.cut)
        return await self.controller.add_reader(names, body.reader, body.cut)

    async def release_reader(self, peer: Peer, body: ReaderEnds) -> Json:
        """End a named reader. Legal in any state; one that reads none of them is not found."""
        names = self._resolve(body.targets)
        self._command(peer, "release-reader", targets=body.targets, reader=body.reader)
        return await self.controller.release_reader(names, body.reader)

    async def make_clone(self, peer: Peer, body: CloneRequest) -> Json:
        """Clones of all targets, or none. Legal while all of them are at that cut."""
        names = self._resolve(body.targets)
        self._command(peer, "clone", targets=body.targets, name=body.name, cut=body.cut)
        return await self.controller.clones.make(names, body.cut, body.name, body.limit_bytes)

    def clone_ends(self, made: Json) -> list[asyncio.Future[str]]:
        """Of each clone that `make_clone` has made: done when it has ended."""
        names = [each["volume"] for each in made["volumes"]]
        return self.controller.clones.ends(names, made["name"])

    async def end_clones(self, peer: Peer, made: Json, ends: list[asyncio.Future[str]]) -> None:
        """End those of `clone_ends` that are there still. Legal in any state, whatever the targets
        mean since a reload.
        """
        names = [each["volume"] for each in made["volumes"]]
        self._command(peer, "drop-clone", targets=names, name=made["name"])
        await self.controller.clones.end(ends)

    async def drop_clone(self, peer: Peer, body: CloneDrop) -> Json:
        """End clones. Legal in any state; one that none of them has is not found."""
        names = self._resolve(body.targets)
        self._command(peer, "drop-clone", targets=body.targets, name=body.name)
        return await self.controller.clones.drop(names, body.name)

    async def record_drill(self, peer: Peer, body: DrillRequest) -> Json:
        """Keep what an application found on clones. Legal while they are there, of a consistent
        cut.
        """
        names = self._resolve(body.targets)
        self._command(peer, "drill", targets=body.targets, cut=body.cut, exit_code=body.exit_code)
        report = Report(body.id, body.cut, body.clone, body.exit_code, body.took_ms)
        return await self.controller.drills.record(names, report)

    async def resync_wait(self, targets: list[str]) -> Json:
        """Wait for a resync that was started. A cancellation only ends the waiting."""
        return await self.controller.resync_wait(self._resolve(targets))

    async def verify(
        self, targets: list[str], progress: Callable[[str, int, int], None] | None = None
    ) -> Json:
        """Compare each secondary with what it has to hold.

        Legal for DUPLEX and SUSPENDED. A cancellation stops it.
        """
        result = await self.controller.verify(self._resolve(targets), progress)
        self._compared(result["volumes"])
        return result

    def _compared(self, rows: Iterable[Json]) -> None:
        """Health shows what could not be compared, until it can be, or another image is there."""
        for row in rows:
            self.differing.pop(row["name"], None)
            if row["equal"] is False and row.get("first_difference") is None and row.get("why"):
                self.differing[row["name"]] = f"the last verify found that {row['why']}"

    def _another_image(self, event: Json) -> None:
        """What was found of an image that a pair has no more says nothing of the pair."""
        if event["event"] in _OTHER_IMAGES:
            self.differing.pop(str(event.get("volume")), None)

    async def swap(self, peer: Peer, request: SwapRequest) -> Json:
        """Let the two images of each pair change roles.

        Legal for DUPLEX; for SUSPENDED with `roll_forward` or `lose_changes`; not for PENDING and
        SIMPLEX. A client that goes away does not stop it half-way.
        """
        names = self._resolve(request.targets)
        if request.roll_forward and request.lose_changes:
            raise UsageError(
                "roll_forward applies the changes that lose_changes gives up: ask for one of them"
            )
        if request.keep_to is not None:
            if not request.roll_forward:
                why = "only that changes the image of the cut; leave it out"
                raise UsageError(f"keep_to is for roll_forward: {why}")
            check_owner(peer, "keep_to")
        self._command(
            peer,
            "swap",
            targets=request.targets,
            roll_forward=request.roll_forward,
            keep_to=request.keep_to,
            lose_changes=request.lose_changes,
            accept_differences=request.accept_differences,
            force=request.force,
        )
        return await self.controller.swap(
            names,
            request.roll_forward,
            request.keep_to,
            request.lose_changes,
            request.accept_differences,
            request.force,
        )

    async def repair(self, peer: Peer, request: RepairRequest) -> Json:
        """Make legs that are known to differ equal, with the content of one of them.

        Legal for DUPLEX pairs of which a difference is recorded; others of the targets are named.
        A client that goes away does not stop it half-way.
        """
        names = self._resolve(request.targets)
        source, dry_run = request.source, request.dry_run
        self._command(peer, "repair", targets=request.targets, source=source, dry_run=dry_run)
        return await self.controller.repair(names, source, dry_run, request.some)

    async def rollback(self, peer: Peer, body: RollbackRequest) -> Json:
        """Let volumes go back to the cut that their secondaries are at.

        Legal while all are SUSPENDED at one consistent cut, durably, and no client is connected, or
        with `force`. A client that goes away does not stop it.
        """
        names = self._resolve(body.targets)
        if body.step not in {"check", "measure"}:
            how = {"to": body.to, "step": body.step, "force": body.force}
            self._command(peer, "rollback", targets=body.targets, **how)
        order = Order(body.to, body.id or "", body.force, body.step)
        return await self.controller.rollback(names, order)

    async def restore(self, peer: Peer, body: RestoreRequest) -> Json:
        """Let a client write a backup to volumes that are closed to all others, or open them.

        Legal while no client is connected, or with `force`, and no pair mirrors.
        """
        names = self._resolve(body.targets)
        if body.step != "check":
            how = {"backup": body.backup, "step": body.step, "force": body.force}
            self._command(peer, "restore", targets=body.targets, **how)
        order = RestoreOrder(body.backup, body.cut, body.id or "", body.force, body.step)
        return await self.controller.restore(names, order)

    async def adopt(self, peer: Peer, targets: list[str]) -> Json:
        """Take the primary images of volumes as they are, whatever the journal knows of them.

        Legal for a volume that is not served because of its primary; does nothing for one that is.
        """
        names = self._resolve(targets)
        self._command(peer, "adopt", targets=targets)
        return await self.controller.adopt(names)

    def present_state(self) -> Json:
        """The event that a new listener gets first."""
        status = self.controller.status()
        return {
            "event": "state",
            "time": time.time(),
            "sequence": status["controller"]["sequence"],
            "status": status,
        }

    def stop(self) -> None:
        """End every hold (`stopping`) and every stream of events; take no new hold."""
        self.stopping = True
        for lease_id in tuple(self.holds):
            self.controller.release(lease_id, "stopping")
        self.hooked.stop()
        self.hub.close()

    def detach(self) -> None:
        """Stop listening to the controller."""
        for listener in (self.hub.publish, self._another_image):
            if listener in self.controller.listeners:
                self.controller.listeners.remove(listener)
