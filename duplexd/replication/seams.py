"""What replication uses of the engine, as protocols.

The engine is the layer above and must not be imported here; with protocols, replication can also be
tested alone. The engine's parts of the same names implement them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.ledger import Ledger
    from duplexd.core.markers import Marker
    from duplexd.core.pair import Pair
    from duplexd.journal.writer import Writer

T = TypeVar("T")


class Timeline(Protocol):
    """See `engine/timeline.py`."""

    writer: Writer
    ledger: Ledger
    failed: str
    on_written: list[Callable[[], None]]

    @property
    def written(self) -> int:
        """The number of the last record."""

    @property
    def performed(self) -> int:
        """The last number whose change is on its primary."""

    @property
    def log_position(self) -> int:
        """Bytes ever written to the journal."""

    def now_us(self) -> int:
        """The time that a record gets, microseconds since 1970."""

    def when_at_rest(self, call: Callable[[], None]) -> None:
        """Run `call` between two batches."""

    async def at_rest(self, call: Callable[[], T]) -> T:
        """The result of `call`, run between two batches."""
        raise NotImplementedError

    def append(self, marker: Marker) -> int:
        """Write a marker and fold it, at rest."""

    async def durable(self, sequence: int | None = None) -> None:
        """Wait until a record survives a power cut."""


class Gates(Protocol):
    """See `engine/write_path.py`: changes of a volume whose gate is closed wait."""

    def close_gates(self, pairs: Iterable[Pair], /) -> None:
        """Close them; each call needs its own `open_gates`."""

    def open_gates(self, pairs: Iterable[Pair], /) -> object:
        """Undo one `close_gates`."""


class Freeze(Protocol):
    """See `engine/failures.py`."""

    def __call__(
        self,
        members: Iterable[Pair],
        failed: Pair | None,
        at: int,
        error: OSError,
        unusable: Iterable[Pair],
        missed: Mapping[Pair, ChangeMap],
    ) -> None:
        """Suspend pairs because a secondary failed, at rest; None: because the journal did."""


class Checkpointer(Protocol):
    """See `engine/checkpoint.py`."""

    copying: asyncio.Lock

    def keep_from(self, number: int) -> None:
        """Keep the records after this number for a restart."""

    async def sync_secondaries(self, pairs: Sequence[Pair]) -> dict[Pair, OSError]:
        """Make these secondaries durable; returns an error for each path that no longer names the
        open image.
        """
        raise NotImplementedError


class Emit(Protocol):
    """See `engine/events.py`."""

    def __call__(self, event: str, **fields: object) -> None:
        """Pass an event to all listeners."""
