"""How a cut is left of which no answer came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from duplexd.backup.held_cut import HeldCut
from duplexd.client.results import ReaderEnded, Resynced
from duplexd.errors import NotFoundError, UndecidedError, WrongStateError
from duplexd.limits import BackupLimits

if TYPE_CHECKING:
    from duplexd.backup.steps import Watch
    from duplexd.client import Client

UNKNOWN = UndecidedError("db may be suspended nevertheless")


class Silent:
    """A client whose suspend is not answered; `began`: whether the cut was made."""

    def __init__(self, began: bool) -> None:
        self.began = began
        self.asked: list[str] = []
        self.refused: list[dict[str, Any]] = []

    async def suspend(self, *_targets: str, **_options: object) -> None:
        raise UNKNOWN

    async def release_reader(self, *_targets: str, reader: str) -> ReaderEnded:
        self.asked.append("release")
        if not self.began:
            raise NotFoundError("no such reader")
        return ReaderEnded(reader, ["data"])

    async def status(self, *_targets: str) -> Any:
        class Status:
            unreachable: dict[str, str] = {}  # noqa: RUF012
            volumes: list[dict[str, Any]] = []  # noqa: RUF012

        return Status

    async def resync(self, *_targets: str, cut: str) -> Resynced:
        self.asked.append(f"resync {cut}")
        rows = [{"name": "wal", "state": "SUSPENDED"}]  # it has just begun
        return Resynced(rows, waited=False, ok=not self.refused, refused=self.refused)


async def unanswered(client: Silent) -> HeldCut:
    cut = HeldCut(cast("Client", client), ("db",), "reader", cast("Watch", None), BackupLimits())
    with pytest.raises(UndecidedError):
        await cut.make("")
    return cut


async def test_a_cut_that_was_made_without_an_answer_is_left() -> None:
    client = Silent(began=True)
    cut = await unanswered(client)
    await cut.release()
    await cut.resync()
    assert client.asked == ["release", "resync "]


async def test_a_reader_that_may_begin_yet_has_not_ended() -> None:
    """So that the record keeps it."""
    cut = await unanswered(Silent(began=False))
    with pytest.raises(UndecidedError):
        await cut.release()


async def test_only_what_was_not_resynced_is_named() -> None:
    client = Silent(began=True)
    client.refused = [{"name": "data", "error": "its disk is full"}]
    cut = await unanswered(client)
    await cut.release()
    with pytest.raises(WrongStateError, match=r"^data: its disk is full$"):
        await cut.resync()
