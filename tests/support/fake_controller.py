"""The only fake controller: no journal, volumes are names with a state, holds are real timers.

For tests of the layers in front of a controller: the HTTP API, the groups library, duplexctl.
Whatever it answers is an instance of a model of duplexd/api/models, dumped to JSON, so that a fake
answer cannot differ in shape from a documented one. It is typed against `api/protocols.py`; the
decisions are those of the real tables (`core/cut_states.py`).

    controller = FakeController(["data", "wal"], {"db": ["data", "wal"]}, name="alpha")
    controller.volumes["data"] = "SUSPENDED"   # states are plain values: a test sets them
    controller.cuts.states[cut] = "void"       # votes on cuts of groups of controllers, too
    controller.hold_scale = 1000.0             # holds last that many times what was asked for
    controller.end(lease_id, "deadline")       # ends a hold at once
    controller.emit("noise", text="x")         # an event, for all listeners

Knobs: `drain_s` how long a quiesce takes; `resync_s`; `verify_steps`; `differs` volumes whose legs
differ; `broken` volumes whose resync fails; `refused` volumes that are not served, and why;
`leg_errors` by volume and role; `failing` by volume; `rebuilds` whether the journal reaches back
to the cuts; `void` makes the verdict of a suspend void; `bug` makes status raise; `failed` as of
a controller that takes no changes, `refusal` as of one that does not for now, `journal_waits_s` as
of one whose journal is silent; `version`, `group_protocol`, `hold_max_s`, `nbd` are what status
says. `swapped`, `kept_to`, `readers`, `left`, `leases`, `released_at`, `cancelled`,
`draining` tell what happened.

`tests/support/control_plane.py` serves it in a thread, `tests/support/fake_member.py` in the loop
of the test, with answers that a test plants.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from duplexd.api.models.cut_model import (
    Cut,
    CutJournal,
    CutList,
    CutMade,
    CutProof,
    CutReleased,
    CutStatus,
    CutVolume,
    Grade,
    HoldFigures,
    HoldPhase,
    HoldPhases,
    Suspended,
)
from duplexd.api.models.line_model import (
    Event,
    ResyncDoneVolume,
    ResyncRefused,
    ResyncStarted,
    ResyncVolume,
    Verified,
    VerifiedVolume,
)
from duplexd.api.models.restore_model import Restoring, RestoringVolume
from duplexd.api.models.roles_model import Lost, Roles, RolesVolume
from duplexd.api.models.rollback_model import RolledBack, RolledBackVolume
from duplexd.api.models.status_model import (
    ControllerStatus,
    Copy,
    GroupStatus,
    Journal,
    LeaseStatus,
    Primary,
    Rebuild,
    Secondary,
    Status,
    VolumeStatus,
)
from duplexd.core import cut_states as votes
from duplexd.core.leaving import AS_IT_IS, Leaving
from duplexd.engine.counters import Counters
from duplexd.errors import LeaseLostError, NotFoundError, WrongStateError
from duplexd.runtime.histogram import Histogram
from tests.support.fake_changes import FakeChanges
from tests.support.fake_clones import FakeClones
from tests.support.fake_drills import FakeDrills
from tests.support.fake_marks import FakeMarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import BaseModel

    from duplexd.api.models.base import PairState, Verdict
    from duplexd.core.past_point import PastCut
    from duplexd.core.rollback import Order, RestoreOrder
    from duplexd.json_object import Json

SIZE_BYTES = 1 << 20
NO_COUNTS = Counters(0, 0, 0, 0, 0, 0, Histogram(), Histogram())
KEPT = {"released", "suspended"}  # reasons with which a hold ends that was not lost


def dumped(model: BaseModel) -> Json:
    """An answer as the HTTP API would send it."""
    return model.model_dump(mode="json", by_alias=True)


class FakeLease:
    """A hold. See `duplexd.api.actions.Lease`."""

    def __init__(
        self,
        lease_id: str,
        fence: int,
        volumes: list[str],
        hold_s: float,
        owner: str,
        cut_id: str,
        mark: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.id = lease_id
        self.fence = fence
        self.cut_id = cut_id
        self.mark = mark
        self.volumes = volumes
        self.hold_s = hold_s
        self.owner = owner
        self.ended: asyncio.Future[str] = loop.create_future()
        self.lost = False
        self.deadline = loop.time() + hold_s
        self.timer: asyncio.TimerHandle | None = None

    def status(self) -> Json:
        """As status shows it."""
        remaining_s = max(0.0, self.deadline - asyncio.get_running_loop().time())
        shown = LeaseStatus(
            id=self.id,
            volumes=self.volumes,
            owner=self.owner,
            hold_s=self.hold_s,
            fence=self.fence,
            cut=None if self.mark else self.cut_id or None,
            mark=self.cut_id if self.mark else None,
            remaining_s=remaining_s,
        )
        return dumped(shown)


class FakeCuts:
    """Cuts that several controllers take together. `states`: the vote on each, by its id."""

    def __init__(self, controller: FakeController) -> None:
        self._controller = controller
        self.states: dict[str, str] = {}
        self.made: dict[str, CutStatus] = {}
        self.grades: dict[str, Grade] = {}
        self.hold = figures(0.004, 2)

    async def make(
        self,
        cut_id: str,
        lease_id: str,
        fence: int | None,
        tag: str,
        group: str,
        members: list[str],
    ) -> Json:
        lease = self._controller.held(lease_id, fence)
        self.states[cut_id] = votes.CUT
        self.made[cut_id] = CutStatus(
            id=cut_id,
            controller=self._controller.name,
            state="cut",
            verdict=None,
            sequence=self._controller.next_sequence(),
            time=1.0,
            tag=tag,
            group=group or None,
            members=members,
            volumes=[],
        )
        for name in () if lease.mark else lease.volumes:
            self._controller.volumes[name] = "SUSPENDED"
            self._controller.cut_of[name] = cut_id
        self._controller.emit("cut", cut=cut_id, volumes=lease.volumes)
        journal = CutJournal(directory="/state", identity="00", crc=1, chain=2)
        answer = CutMade(
            cut=cut_id,
            controller=self._controller.name,
            sequence=self._controller.sequence,
            time=1.0,
            journal=journal,
        )
        return dumped(answer)

    def remember(self, cut_id: str, state: str, members: list[str]) -> None:
        """A cut of all volumes that was made before the test began: its vote, its members."""
        controller = self._controller
        self.states[cut_id] = state
        self.made[cut_id] = CutStatus.model_validate(
            {
                "id": cut_id,
                "controller": controller.name,
                "state": state,
                "verdict": votes.verdict(state),
                "sequence": controller.next_sequence(),
                "time": 1.0,
                "group": "db",
                "members": members,
                "volumes": [],
            }
        )
        controller.volumes = dict.fromkeys(controller.volumes, "SUSPENDED")
        controller.cut_of = dict.fromkeys(controller.volumes, cut_id)

    async def open(self, cut_id: str, lease_id: str, fence: int | None) -> Json:
        self._controller.held(lease_id, fence)
        self._controller.end(lease_id, "suspended")
        self._move(cut_id, votes.STAND)
        images = [volume(number, name) for number, name in enumerate(self.volumes_at(cut_id))]
        return dumped(self.status_of(cut_id).model_copy(update={"images": images}))

    async def decide(self, cut_id: str, how: str) -> Json:
        self._move(cut_id, how)
        self.release(cut_id)
        return self.show(cut_id)

    def _move(self, cut_id: str, event: str) -> None:
        state = votes.after(self.states.get(cut_id, votes.NONE), event)
        if state is None:
            raise WrongStateError(f"cut {cut_id}: {event} is not possible here")
        self.states[cut_id] = state

    async def grade(self, cut_id: str, consistent: bool, records: int, detail: str) -> Json:
        self.show(cut_id)
        self.grades[cut_id] = Grade(consistent=consistent, records=records, detail=detail)
        return self.show(cut_id)

    async def read(self, cut_id: str, name: str, offset: int, length: int) -> bytes:
        self.show(cut_id)
        return bytes(length)

    def volumes_at(self, cut_id: str) -> list[str]:
        """The volumes whose secondaries are at it."""
        cut_of, states = self._controller.cut_of, self._controller.volumes
        return [
            name for name in states if cut_of.get(name) == cut_id and states[name] == "SUSPENDED"
        ]

    def status_of(self, cut_id: str) -> CutStatus:
        """Raises NotFoundError."""
        if cut_id not in self.states:
            raise NotFoundError(f"{cut_id!r}: no such cut")
        state = self.states[cut_id]
        known = self.made.get(cut_id)
        controller = self._controller
        return CutStatus.model_validate(
            {
                "id": cut_id,
                "controller": controller.name,
                "state": state,
                "verdict": votes.verdict(state),
                "sequence": known.sequence if known else 0,
                "time": 1.0,
                "tag": known.tag if known else "",
                "group": known.group if known else None,
                "members": known.members if known else [],
                "volumes": self.volumes_at(cut_id),
                "canary": self.grades.get(cut_id),
                "hold": self.hold,
            }
        )

    def show(self, cut_id: str) -> Json:
        return dumped(self.status_of(cut_id))

    def all(self, names: object = ()) -> Json:
        return dumped(CutList(cuts=[self.status_of(cut_id) for cut_id in self.states]))

    def undecided(self) -> list[CutStatus]:
        """What status shows of them."""
        return [
            self.status_of(cut_id)
            for cut_id, state in self.states.items()
            if votes.verdict(state) is None
        ]

    def release(self, cut_id: str) -> Json:
        for lease in self._controller.leases.values():
            if lease.cut_id == cut_id and not lease.ended.done():
                released = self._controller.end(lease.id, "released")
                return dumped(CutReleased(lease=lease.id, released=released))
        return dumped(CutReleased(lease=None, released=False))


def volume(number: int, name: str) -> CutVolume:
    """What a cut says of a volume."""
    return CutVolume(
        id=number,
        name=name,
        size=SIZE_BYTES,
        primary=f"/a/{name}.img",
        secondary=f"/b/{name}.img",
    )


def figures(seconds_max: float, writes: int) -> HoldFigures:
    """How long writes waited."""
    phase = HoldPhase(seconds=seconds_max, writes=0)
    return HoldFigures(
        seconds_max=seconds_max,
        writes_held=writes,
        p50_s=seconds_max,
        p99_s=seconds_max,
        held_s=0.01,
        hold_max_s=2.0,
        within_limit=True,
        phases=HoldPhases(draining=phase, held=phase, cut=phase),
        buckets=[[192, writes]],
    )


_DIFFER = "the legs differ in 1 place (1 B), the first at byte 7"


class FakeController:
    """See the module's docstring."""

    def __init__(
        self,
        volumes: Iterable[str] = ("data", "wal", "other"),
        groups: dict[str, list[str]] | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.volumes: dict[str, PairState] = dict.fromkeys(volumes, "DUPLEX")
        self.groups = {"db": ["data", "wal"]} if groups is None else groups
        self.listeners: list[Callable[[Json], None]] = []
        self.leases: dict[str, FakeLease] = {}
        self.sequence = 0
        self.fence = 0
        self.cut_of: dict[str, str] = {}
        self.cuts = FakeCuts(self)
        self.changes = FakeChanges()
        self.clones = FakeClones()
        self.drills = FakeDrills()
        self.marks = FakeMarks(self)
        self.mark = self.marks.mark
        self.drain_s = 0.0
        self.draining = 0  # holds that were begun
        self.resync_s = 0.0
        self.verify_steps = 2
        self.differs: set[str] = set()
        self.broken: set[str] = set()
        self.swapped: set[str] = set()
        self.refused: dict[str, str] = {}
        self.leg_errors: dict[tuple[str, str], str] = {}
        self.failing: dict[str, dict[str, str]] = {}
        self.rebuilds = True
        self.kept_to: list[str] = []
        self.readers: dict[str, set[str]] = {}
        self.left: list[Leaving] = []  # how each resync was to leave the cuts
        self.void = False
        self.looked_again = 0
        self.bug = False
        self.failed = ""
        self.refusal = ""
        self.journal_waits_s = 0.0
        self.version = "0.1.0"
        self.group_protocol = 1
        self.hold_max_s = 2.0
        self.nbd: list[str] = []
        self.hold_scale = 1.0
        self.counted = NO_COUNTS
        self.cancelled: list[str] = []
        self.released_at: dict[str, float] = {}

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def emit(self, event: str, **fields: object) -> None:
        """Send an event to all listeners."""
        line = Event.model_validate(
            {"event": event, "time": time.time(), "sequence": self.next_sequence(), **fields}
        )
        for listener in list(self.listeners):
            listener(line.model_dump(mode="json", exclude_unset=True))

    def counters(self) -> Counters:
        return self.counted

    # ------------------------------------------------------------------------------------ status

    async def look_again(self) -> None:
        self.looked_again += 1

    def status(self) -> Json:
        if self.bug:
            raise RuntimeError("planted")
        lasting = [lease for lease in self.leases.values() if not lease.ended.done()]
        held = {name for lease in lasting for name in lease.volumes}
        whole = Status(
            controller=self._controller_status(),
            volumes=[self._volume_status(name, name in held) for name in self.volumes],
            groups=[
                GroupStatus(
                    name=name, volumes=members, state=self.volumes[members[0]] if members else None
                )
                for name, members in self.groups.items()
            ],
            leases=[LeaseStatus.model_validate(lease.status()) for lease in lasting],
            cuts=self.cuts.undecided(),
        )
        return dumped(whole)

    def _controller_status(self) -> ControllerStatus:
        return ControllerStatus(
            name=self.name,
            sequence=self.sequence,
            synced=self.sequence,
            failed=self.failed or None,
            refused=self.refusal or None,
            version=self.version,
            group_protocol=self.group_protocol,
            hold_max_s=self.hold_max_s,
            nbd=self.nbd,
            journal=Journal(
                used_bytes=4096,
                size_bytes=1 << 24,
                oldest_sequence=1,
                waiting_s=self.journal_waits_s,
            ),
        )

    def _volume_status(self, name: str, held: bool) -> VolumeStatus:
        state = self.volumes[name]
        primary, other = self.images(name)
        secondary = Secondary(
            usable=True,
            as_of_sequence=self.sequence,
            as_of_time=1.0,
            cut=self._cut(name) if state == "SUSPENDED" else None,
            path=other,
            error=self.leg_errors.get((name, "secondary"), ""),
        )
        rebuild = Rebuild(possible=self.rebuilds, from_sequence=self.sequence + 1)
        return VolumeStatus(
            name=name,
            size=SIZE_BYTES,
            state=state,
            reason="by command" if state == "SUSPENDED" else None,
            held=held,
            mode="sync",
            connections=1,
            sequence=self.sequence,
            secondary=None if state == "SIMPLEX" else secondary,
            changed_bytes=65536 if state == "SUSPENDED" else 0,
            copy=Copy(done_bytes=1, total_bytes=2, eta_s=1.0) if state == "PENDING" else None,
            served=name not in self.refused,
            error=self.refused.get(name, ""),
            failing=self.failing.get(name, {}),
            swapped=name in self.swapped,
            primary=Primary(path=primary, error=self.leg_errors.get((name, "primary"), "")),
            rebuild=rebuild if state == "SUSPENDED" else None,
        )

    def images(self, name: str) -> tuple[str, str]:
        """The paths of a volume's primary and secondary."""
        paths = (f"/a/{name}.img", f"/b/{name}.img")
        return (paths[1], paths[0]) if name in self.swapped else paths

    def _cut(self, name: str) -> Cut | None:
        cut_id = self.cut_of.get(name)
        if cut_id is None:
            return None
        if cut_id in self.cuts.states:
            known = self.cuts.status_of(cut_id).model_dump()
            return Cut.model_validate({key: known[key] for key in Cut.model_fields})
        verdict: Verdict = "void" if self.void else "consistent"
        return Cut(id=cut_id, sequence=1, time=1.0, verdict=verdict)

    def resolve(self, targets: list[str]) -> list[str]:
        names: dict[str, None] = {}
        for target in targets:
            if target in self.groups:
                names.update(dict.fromkeys(self.groups[target]))
            elif target in self.volumes:
                names[target] = None
            else:
                raise NotFoundError(f"no volume or group {target!r}; `duplexctl status` lists them")
        return list(names)

    # ------------------------------------------------------------------------------------- holds

    async def quiesce(
        self,
        names: list[str],
        hold_s: float | None,
        owner: str,
        cut_id: str = "",
        mark: bool = False,
    ) -> FakeLease:
        hold_s = self.hold_max_s if hold_s is None else hold_s
        for lease in self.leases.values():
            if not lease.ended.done() and set(lease.volumes) & set(names):
                raise WrongStateError(
                    f"lease {lease.id} already holds {', '.join(names)}; release it first"
                )
        self.draining += 1
        try:
            await asyncio.sleep(self.drain_s)
        except asyncio.CancelledError:
            self.cancelled.append("quiesce")
            raise
        self.fence += 1
        name = f"L{len(self.leases) + 1}"
        lease = FakeLease(name, self.fence, names, hold_s, owner, cut_id, mark)
        self.leases[lease.id] = lease
        self._start_timer(lease, hold_s)
        self.emit("held", volumes=names, lease=lease.id)
        return lease

    def _start_timer(self, lease: FakeLease, hold_s: float) -> None:
        if lease.timer is not None:
            lease.timer.cancel()
        lease.timer = asyncio.get_running_loop().call_later(
            hold_s * self.hold_scale, self.end, lease.id, "deadline"
        )

    def _lease(self, lease_id: str) -> FakeLease:
        if lease_id not in self.leases:
            raise NotFoundError(f"no lease {lease_id!r}; `duplexctl status` lists the leases")
        return self.leases[lease_id]

    def held(self, lease_id: str, fence: int | None = None) -> FakeLease:
        """The lease, if it is held and `fence` its newest. Raises NotFoundError, LeaseLostError."""
        lease = self._lease(lease_id)
        if lease.ended.done() or fence not in {None, lease.fence}:
            raise LeaseLostError(f"lease {lease_id!r} has ended; nothing was cut; quiesce again")
        return lease

    def end(self, lease_id: str, reason: str) -> bool:
        """End a hold; False if it had ended already."""
        lease = self._lease(lease_id)
        if lease.ended.done():
            return False
        if lease.timer is not None:
            lease.timer.cancel()
        lease.lost = reason not in KEPT
        lease.ended.set_result(reason)
        self.released_at[lease.id] = time.monotonic()
        self.emit("hold ended", volumes=lease.volumes, lease=lease.id, reason=reason)
        return True

    def had(self, lease_id: str) -> None:
        """A lease that ended before the test began."""
        lease = FakeLease(lease_id, 1, [], 0.0, "", "")
        lease.ended.set_result("released")
        self.leases[lease_id] = lease

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Json:
        lease = self.held(lease_id, fence)
        self.fence += 1
        lease.fence = self.fence
        lease.hold_s = hold_s
        lease.deadline = asyncio.get_running_loop().time() + hold_s
        self._start_timer(lease, hold_s)
        return lease.status()

    def release(self, lease_id: str, reason: str = "released", fence: int | None = None) -> bool:
        if fence is not None:
            self.held(lease_id, fence)
        return self.end(lease_id, reason)

    # ---------------------------------------------------------------------------------- commands

    async def stand(self, names: list[str], at: PastCut, tag: str, check: bool) -> bool:
        raise WrongStateError(f"{at.point}: nothing is delayed here")

    async def suspend(
        self,
        names: list[str],
        tag: str = "",
        lease_id: str | None = None,
        fence: int | None = None,
        certificate: bool = False,
        existing: bool = False,
        reader: str = "",
        on_cut: Callable[[str], object] | None = None,
        at: PastCut | None = None,
    ) -> Json:
        if at is not None:
            raise WrongStateError(f"{at.point}: nothing is delayed here")
        if lease_id is not None and (lease_id not in self.leases or self.leases[lease_id].lost):
            raise LeaseLostError(f"lease {lease_id!r} has ended; nothing was cut; quiesce again")
        states = {self.volumes[name] for name in names}
        if states - {"DUPLEX", "SUSPENDED"} or len(states) > 1:
            raise WrongStateError(
                f"{', '.join(names)}: not all DUPLEX; `duplexctl resync` brings them there"
            )
        already = states == {"SUSPENDED"}
        if already and not existing:
            raise WrongStateError("suspended already: cut 0; nothing was done")
        cut_id = f"{self.next_sequence():016x}"
        for name in names:
            self.volumes[name] = "SUSPENDED"
            self.cut_of[name] = cut_id
        answer = Suspended(
            verdict="void" if self.void else "consistent",
            why=f"{min(self.differs)}: {_DIFFER}" if self.void and self.differs else None,
            cut=cut_id,
            tag=tag,
            controllers={self.name: self.sequence},
            volumes=names,
            hold=figures(0.001, 3),
            members=[self._proof(cut_id, names)] if certificate and not already else [],
            already=already,
            reader=reader or None,
        )
        if on_cut is not None and not already:
            on_cut(cut_id)
        if lease_id is not None:
            self.end(lease_id, "suspended")
        self.emit("suspended", volumes=names)
        return dumped(answer)

    def _proof(self, cut_id: str, names: list[str]) -> CutProof:
        return CutProof(
            cut=cut_id,
            controller=self.name,
            sequence=self.sequence,
            time=1.0,
            journal=CutJournal(directory="/state", identity="00", crc=1, chain=2),
            volumes=[volume(number, name) for number, name in enumerate(names)],
        )

    async def add_reader(self, names: list[str], reader: str, cut_id: str) -> Json:
        self.readers.setdefault(reader, set()).update(names)
        return {"reader": reader, "cut": cut_id, "volumes": names}

    async def release_reader(self, names: list[str], reader: str) -> Json:
        if reader not in self.readers:
            raise NotFoundError(f"no reader {reader!r} of {', '.join(names)}")
        del self.readers[reader]
        return {"reader": reader, "volumes": names}

    async def resync(
        self, names: list[str], partial: bool = False, how: Leaving = AS_IT_IS
    ) -> Json:
        self.left.append(how)
        why = "a SIMPLEX volume has no secondary to resync; add one to the configuration"
        refused = [name for name in names if self.volumes[name] == "SIMPLEX"]
        if refused and (not partial or len(refused) == len(names)):
            raise WrongStateError(why)
        names = [name for name in names if name not in refused]
        rows = [
            ResyncVolume(name=name, how="already" if self.volumes[name] == "DUPLEX" else "journal")
            for name in names
        ]
        for name in names:
            if self.volumes[name] != "DUPLEX":
                self.volumes[name] = "PENDING"
        left_out = [ResyncRefused(name=name, error=why) for name in refused]
        return dumped(ResyncStarted(job="j1", volumes=rows, refused=left_out))

    async def resync_wait(self, names: list[str]) -> Json:
        try:
            await asyncio.sleep(self.resync_s)
        except asyncio.CancelledError:
            self.cancelled.append("resync_wait")
            raise
        for name in names:
            self.volumes[name] = "SUSPENDED" if name in self.broken else "DUPLEX"
        rows = [
            ResyncDoneVolume(
                name=name,
                state=self.volumes[name],
                reason="secondary error" if name in self.broken else None,
                differs=_DIFFER if name in self.differs else None,
            )
            for name in names
        ]
        self.emit("resynced", volumes=names)
        return {"volumes": [dumped(row) for row in rows]}

    async def verify(
        self, names: list[str], progress: Callable[[str, int, int], None] | None = None
    ) -> Json:
        try:
            for step in range(self.verify_steps):
                if progress:
                    progress(names[0], step, self.verify_steps)
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.append("verify")
            raise
        rows = [
            VerifiedVolume(
                name=name,
                equal=name not in self.differs,
                compared_bytes=SIZE_BYTES,
                first_difference=7 if name in self.differs else None,
            )
            for name in names
        ]
        return dumped(Verified(equal=not self.differs.intersection(names), volumes=rows))

    async def repair(
        self, names: list[str], source: str, dry_run: bool, some: bool = False
    ) -> Json:
        others = [name for name in names if name not in self.differs]
        if others == names and not some:
            raise WrongStateError(f"{names[0]}: no difference is recorded; nothing to repair")
        names = [name for name in names if name in self.differs]
        place = ("/a/{}.img" if source == "primary" else "/b/{}.img").format
        rows: list[Json] = [
            {
                "name": name,
                "from": source,
                "path": place(name),
                "ranges": [[4096, 4096], [65536, 8192]],
                "bytes": 12288,
                "repaired": not dry_run,
            }
            for name in names
        ]
        self.differs -= set() if dry_run else set(names)
        return {"volumes": rows, "no_difference": others}

    async def swap(
        self,
        names: list[str],
        roll_forward: bool,
        keep_to: str | None,
        lose_changes: bool,
        accept_differences: bool = False,
        force: bool = False,
    ) -> Json:
        for name in names:
            state = self.volumes[name]
            if state == "SUSPENDED" and not (roll_forward or lose_changes):
                raise WrongStateError(f"{name} is SUSPENDED; use --roll-forward or --lose-changes")
            if state not in {"DUPLEX", "SUSPENDED"}:
                raise WrongStateError(f"{name} is {state}")
        lost = Lost(records=2, first=8, last=9, bytes=65536, since=1.0)
        rows = []
        for name in names:
            rows.append(self._roles(name, lost if lose_changes else None))
            self.swapped ^= {name}
        if keep_to is not None:
            self.kept_to.append(keep_to)
        self.emit("swapped", volumes=names)
        return dumped(Roles(volumes=rows))

    def _roles(self, name: str, lost: Lost | None = None, already: bool = False) -> RolesVolume:
        """What a volume is after its images changed roles; `already`: they did not."""
        now, other = self.images(name)
        primary, secondary = (now, other) if already else (other, now)
        return RolesVolume(
            name=name,
            state=self.volumes[name],
            reason="by command" if self.volumes[name] == "SUSPENDED" else None,
            swapped=(name in self.swapped) is already,
            primary=primary,
            secondary=secondary,
            sequence=self.sequence,
            lost=lost,
            already=already,
        )

    async def rollback(self, names: list[str], order: Order) -> Json:
        rows = [
            RolledBackVolume(name=name, served=order.step != "copy", written_bytes=4096)
            for name in names
        ]
        return dumped(RolledBack(id=order.id or "r1", cut=order.to, volumes=rows))

    async def restore(self, names: list[str], order: RestoreOrder) -> Json:
        rows = [RestoringVolume(name=name, served=True, undo="c1") for name in names]
        return dumped(Restoring(id=order.id or "r1", backup=order.backup, volumes=rows))

    async def adopt(self, names: list[str]) -> Json:
        rows = []
        for name in names:
            served = self.refused.pop(name, None) is None
            rows.append(self._roles(name, already=True).model_copy(update={"already": served}))
        return dumped(Roles(volumes=rows))
