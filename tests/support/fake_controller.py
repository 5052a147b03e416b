"""A controller without a journal: volumes are names with a state, holds are real timers. For tests of what stands on a controller."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from duplexd.errors import LeaseLostError, NotFoundError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


class FakeLease:
    def __init__(
        self, lease_id: str, volumes: list[str], hold_s: float, owner: str, cut_id: str = ""
    ) -> None:
        self.id = lease_id
        self.fence = 1
        self.cut_id = cut_id
        self.volumes = volumes
        self.hold_s = hold_s
        self.owner = owner
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.deadline = time.monotonic() + hold_s


class FakeCuts:
    """Cuts with other controllers: only what a refusal or an answer of the right shape needs."""

    def __init__(self, controller: FakeController) -> None:
        self._controller = controller
        self.states: dict[str, str] = {}

    async def make(
        self,
        cut_id: str,
        lease_id: str,
        fence: int | None,
        tag: str,
        group: str,
        members: list[str],
    ) -> Json:
        if lease_id not in self._controller.leases:
            raise NotFoundError(
                f"no lease {lease_id!r}; `duplexctl status` lists the leases that last"
            )
        self.states[cut_id] = "cut"
        journal = {"directory": "/state", "identity": "00", "crc": 1, "chain": 2}
        return {
            "cut": cut_id,
            "controller": "fake",
            "sequence": 1,
            "time": 1.0,
            "journal": journal,
            "volumes": [],
        }

    async def open(self, cut_id: str, lease_id: str, fence: int | None) -> Json:
        self._controller.release(lease_id, "suspended")
        self.states[cut_id] = "ready"
        return self.show(cut_id)

    async def decide(self, cut_id: str, how: str) -> Json:
        self.states[cut_id] = "consistent" if how == "agree" else "void"
        return self.show(cut_id)

    async def grade(self, cut_id: str, consistent: bool, records: int, detail: str) -> Json:
        return self.show(cut_id)

    async def read(self, cut_id: str, name: str, offset: int, length: int) -> bytes:
        self.show(cut_id)
        return bytes(length)

    def show(self, cut_id: str) -> Json:
        if cut_id not in self.states:
            raise NotFoundError(f"{cut_id!r}: no such cut")
        state = self.states[cut_id]
        verdict = state if state in {"consistent", "void"} else None
        return {
            "id": cut_id,
            "controller": "fake",
            "state": state,
            "verdict": verdict,
            "sequence": 1,
            "time": 1.0,
            "volumes": [],
        }

    def all(self) -> Json:
        return {"cuts": [self.show(cut_id) for cut_id in self.states]}

    def release(self, cut_id: str) -> Json:
        return {"lease": None, "released": False}


class FakeController:
    """`drain_s`: how long a quiesce takes; `differs`: volumes whose legs differ; `broken`: volumes whose resync fails."""

    def __init__(
        self, volumes: list[str] | None = None, groups: dict[str, list[str]] | None = None
    ) -> None:
        self.name = "fake"
        self.volumes = dict.fromkeys(volumes or ["data", "wal", "other"], "DUPLEX")
        self.groups = {"db": ["data", "wal"]} if groups is None else groups
        self.listeners: list[Callable[[Json], None]] = []
        self.leases: dict[str, FakeLease] = {}
        self.sequence = 0
        self.cut_of: dict[str, str] = {}
        self.cuts = FakeCuts(self)
        self.drain_s = 0.0
        self.draining = 0  # holds that were begun
        self.resync_s = 0.0
        self.verify_steps = 2
        self.differs: set[str] = set()
        self.broken: set[str] = set()
        self.void = False
        self.bug = False
        self.ready = True
        self.hold_scale = 1.0  # how much of the asked time a hold lasts
        self.cancelled: list[str] = []
        self.released_at: dict[str, float] = {}

    def emit(self, event: str, **fields: Any) -> None:
        self.sequence += 1
        for listener in list(self.listeners):
            listener({"event": event, "time": time.time(), "sequence": self.sequence, **fields})

    def status(self) -> Json:
        if self.bug:
            raise RuntimeError("planted")
        held = {
            name
            for lease in self.leases.values()
            if not lease.ended.done()
            for name in lease.volumes
        }
        return {
            "controller": {
                "name": self.name,
                "sequence": self.sequence,
                "journal": {"used_bytes": 4096, "size_bytes": 1 << 24, "oldest_sequence": 1},
            },
            "volumes": [self._volume(name, name in held) for name in self.volumes],
            "groups": [
                {
                    "name": name,
                    "volumes": volumes,
                    "state": self.volumes[volumes[0]] if volumes else None,
                }
                for name, volumes in self.groups.items()
            ],
            "leases": [
                {
                    "id": lease.id,
                    "volumes": lease.volumes,
                    "owner": lease.owner,
                    "hold_s": lease.hold_s,
                    "remaining_s": max(0.0, lease.deadline - time.monotonic()),
                }
                for lease in self.leases.values()
                if not lease.ended.done()
            ],
        }

    def _volume(self, name: str, held: bool) -> Json:
        secondary = {
            "usable": True,
            "as_of_sequence": self.sequence,
            "as_of_time": None,
            "cut": self._cut(name),
            "lag_bytes": 0,
        }
        state = self.volumes[name]
        if state == "DUPLEX":
            secondary["cut"] = None
        return {
            "name": name,
            "size": 1 << 20,
            "state": state,
            "reason": "by command" if state == "SUSPENDED" else None,
            "held": held,
            "mode": "sync",
            "connections": 1,
            "sequence": self.sequence,
            "secondary": None if state == "SIMPLEX" else secondary,
            "changed_bytes": 0,
            "copy": None
            if state != "PENDING"
            else {"done_bytes": 1, "total_bytes": 2, "eta_s": 1.0},
        }

    def _cut(self, name: str) -> Json | None:
        cut_id = self.cut_of.get(name)
        verdict = "void" if self.void else "consistent"
        return (
            None
            if cut_id is None
            else {"id": cut_id, "sequence": 1, "time": 1.0, "tag": "", "verdict": verdict}
        )

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

    async def quiesce(
        self, names: list[str], hold_s: float | None, owner: str, cut_id: str = ""
    ) -> FakeLease:
        hold_s = 2.0 if hold_s is None else hold_s
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
        lease = FakeLease(f"L{len(self.leases) + 1}", names, hold_s, owner, cut_id)
        self.leases[lease.id] = lease
        asyncio.get_running_loop().call_later(
            hold_s * self.hold_scale, self._end, lease, "deadline"
        )
        self.emit("held", volumes=names, lease=lease.id)
        return lease

    def _end(self, lease: FakeLease, reason: str) -> bool:
        if lease.ended.done():
            return False
        lease.lost = reason not in {"released", "suspended"}
        lease.ended.set_result(reason)
        self.released_at[lease.id] = time.monotonic()
        self.emit("hold ended", volumes=lease.volumes, lease=lease.id, reason=reason)
        return True

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Json:
        if lease_id not in self.leases:
            raise NotFoundError(
                f"no lease {lease_id!r}; `duplexctl status` lists the leases that last"
            )
        lease = self.leases[lease_id]
        lease.fence += 1
        lease.deadline = time.monotonic() + hold_s
        return {
            "id": lease.id,
            "volumes": lease.volumes,
            "owner": lease.owner,
            "hold_s": hold_s,
            "fence": lease.fence,
            "remaining_s": hold_s,
        }

    def release(self, lease_id: str, reason: str = "released", fence: int | None = None) -> bool:
        if lease_id not in self.leases:
            raise NotFoundError(
                f"no lease {lease_id!r}; `duplexctl status` lists the leases that last"
            )
        return self._end(self.leases[lease_id], reason)

    async def suspend(
        self,
        names: list[str],
        tag: str = "",
        lease_id: str | None = None,
        fence: int | None = None,
        certificate: bool = False,
    ) -> Json:
        if lease_id is not None:
            lease = self.leases.get(lease_id)
            if lease is None or lease.lost:
                raise LeaseLostError(
                    f"lease {lease_id!r} has ended; nothing was cut; quiesce again"
                )
        states = {self.volumes[name] for name in names}
        if states - {"DUPLEX", "SUSPENDED"} or len(states) > 1:
            raise WrongStateError(
                f"{', '.join(names)}: not all DUPLEX; `duplexctl resync` brings them there"
            )
        already = states == {"SUSPENDED"}
        self.sequence += 1
        for name in names:
            self.volumes[name] = "SUSPENDED"
            self.cut_of[name] = f"c{self.sequence}"
        if lease_id is not None:
            self._end(self.leases[lease_id], "suspended")
        self.emit("suspended", volumes=names)
        return {
            "verdict": "void" if self.void else "consistent",
            "cut": f"c{self.sequence}",
            "tag": tag,
            "controllers": {self.name: self.sequence},
            "volumes": names,
            "hold": {"seconds_max": 0.001, "writes_held": 3},
            "already": already,
        }

    async def resync(self, names: list[str]) -> Json:
        if any(self.volumes[name] == "SIMPLEX" for name in names):
            raise WrongStateError(
                "a SIMPLEX volume has no secondary to resync; add one to the configuration"
            )
        rows = [
            {"name": name, "how": "already" if self.volumes[name] == "DUPLEX" else "journal"}
            for name in names
        ]
        for name in names:
            if self.volumes[name] != "DUPLEX":
                self.volumes[name] = "PENDING"
        return {"job": "j1", "volumes": rows}

    async def resync_wait(self, names: list[str]) -> Json:
        try:
            await asyncio.sleep(self.resync_s)
        except asyncio.CancelledError:
            self.cancelled.append("resync_wait")
            raise
        rows = []
        for name in names:
            self.volumes[name] = "SUSPENDED" if name in self.broken else "DUPLEX"
            reason = "secondary error" if name in self.broken else None
            rows.append(
                {"name": name, "state": self.volumes[name], "reason": reason, "copied_bytes": 0}
            )
        self.emit("resynced", volumes=names)
        return {"volumes": rows}

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
            {
                "name": name,
                "equal": name not in self.differs,
                "compared_bytes": 1 << 20,
                "first_difference": 7 if name in self.differs else None,
            }
            for name in names
        ]
        return {"volumes": rows, "equal": not self.differs.intersection(names)}
