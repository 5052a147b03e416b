"""What the control plane uses of the engine, as protocols.

The door (`actions.py`) is typed by them, so that tests can put a fake controller behind it, and
what it asks of the real one is in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from duplexd.core.drill_record import Report
    from duplexd.core.leaving import Leaving
    from duplexd.core.past_point import PastCut
    from duplexd.core.rollback import Order, RestoreOrder
    from duplexd.engine.counters import Counters
    from duplexd.json_object import Json


class Lease(Protocol):
    """A hold, as the controller hands it out."""

    id: str
    hold_s: float
    fence: int
    cut_id: str
    deadline: float
    ended: asyncio.Future[str]

    @property
    def volumes(self) -> list[str]: ...

    @property
    def lost(self) -> bool: ...


class Cuts(Protocol):
    """Cuts that a controller takes together with others."""

    async def make(
        self,
        cut_id: str,
        lease_id: str,
        fence: int | None,
        tag: str,
        group: str,
        members: list[str],
    ) -> Json: ...
    async def open(self, cut_id: str, lease_id: str, fence: int | None) -> Json: ...
    async def decide(self, cut_id: str, how: str) -> Json: ...
    async def grade(self, cut_id: str, consistent: bool, records: int, detail: str) -> Json: ...
    async def read(self, cut_id: str, name: str, offset: int, length: int) -> bytes: ...
    def show(self, cut_id: str) -> Json: ...
    def all(self, names: Sequence[str] = ()) -> Json: ...
    def release(self, cut_id: str) -> Json: ...


class Changes(Protocol):
    """What changed between cuts of a controller's volumes."""

    async def show(
        self, names: Sequence[str], since: str, until: str | None, offset: int, extents_max: int
    ) -> Json: ...


class Marks(Protocol):
    """Consistent points that suspend nobody."""

    def points(self, names: Sequence[str] = ()) -> Json: ...


class Clones(Protocol):
    """Writable exports of secondaries at a cut."""

    async def make(
        self, names: Sequence[str], cut_id: str, name: str, limit_bytes: int | None = None
    ) -> Json: ...
    async def drop(self, names: Sequence[str], name: str) -> Json: ...
    def ends(self, names: Sequence[str], name: str) -> list[asyncio.Future[str]]: ...
    async def end(self, ends: Sequence[asyncio.Future[str]]) -> None: ...
    def show(self, names: Sequence[str] | None = None) -> Json: ...


class Drills(Protocol):
    """What applications found on clones."""

    async def record(self, names: Sequence[str], report: Report) -> Json: ...


class Controller(Protocol):
    """What the control plane needs of the controller. All of it is called in the event loop."""

    name: str
    listeners: list[Callable[[Json], None]]

    @property
    def failed(self) -> str:
        """Why changes are refused; empty while they are accepted."""
        ...

    @property
    def sequence(self) -> int:
        """The last number given out."""
        ...

    @property
    def cuts(self) -> Cuts: ...

    @property
    def changes(self) -> Changes: ...

    @property
    def marks(self) -> Marks: ...

    @property
    def clones(self) -> Clones: ...

    @property
    def drills(self) -> Drills: ...

    def status(self) -> Json: ...
    async def look_again(self) -> None: ...
    def counters(self) -> Counters: ...
    def resolve(self, targets: list[str]) -> list[str]: ...
    async def quiesce(
        self,
        names: list[str],
        hold_s: float | None,
        owner: str,
        cut_id: str = "",
        mark: bool = False,
    ) -> Lease: ...
    async def mark(self, names: list[str], tag: str = "") -> Json: ...
    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Json: ...
    def release(
        self, lease_id: str, reason: str = "released", fence: int | None = None
    ) -> bool: ...
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
    ) -> Json: ...
    async def stand(self, names: list[str], at: PastCut, tag: str, check: bool) -> bool: ...
    async def resync(self, names: list[str], partial: bool = False, how: Leaving = ...) -> Json: ...
    async def add_reader(self, names: list[str], reader: str, cut_id: str) -> Json: ...
    async def release_reader(self, names: list[str], reader: str) -> Json: ...
    async def resync_wait(self, names: list[str]) -> Json: ...
    async def verify(
        self, names: list[str], progress: Callable[[str, int, int], None] | None = None
    ) -> Json: ...
    async def swap(
        self,
        names: list[str],
        roll_forward: bool,
        keep_to: str | None,
        lose_changes: bool,
        accept_differences: bool = False,
        force: bool = False,
    ) -> Json: ...
    async def adopt(self, names: list[str]) -> Json: ...
    async def rollback(self, names: list[str], order: Order) -> Json: ...
    async def restore(self, names: list[str], order: RestoreOrder) -> Json: ...
    async def repair(
        self, names: list[str], source: str, dry_run: bool, some: bool = False
    ) -> Json: ...
