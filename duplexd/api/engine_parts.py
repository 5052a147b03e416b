"""What the control plane needs of single parts of a controller; the whole is in `actions.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

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


class Changes(Protocol):
    """What changed between cuts of a controller's volumes."""

    async def show(
        self, names: Sequence[str], since: str, until: str | None, offset: int, extents_max: int
    ) -> Json: ...
