"""Marks of a controller that is not there, in the right shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.api.models.cut_model import CutStatus
from duplexd.api.models.mark_model import PointStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class Numbers(Protocol):
    """A controller, as far as marks need one."""

    name: str

    def next_sequence(self) -> int: ...


class FakeMarks:
    """`made`: what was marked. `error` is raised by the next `mark`, and by `points`."""

    def __init__(self, controller: Numbers) -> None:
        self._controller = controller
        self.made: list[PointStatus] = []
        self.error: Exception | None = None

    async def mark(self, names: list[str], tag: str = "") -> Json:
        if self.error is not None:
            raise self.error
        number = self._controller.next_sequence()
        point = PointStatus(
            id=f"{number:016x}",
            kind="mark",
            state="consistent",
            verdict="consistent",
            sequence=number,
            time=1.0,
            tag=tag,
            within_reach=True,
        )
        self.made.append(point)
        fields = point.model_dump(mode="json", exclude={"within_reach", "why"})
        mark = CutStatus.model_validate(
            {**fields, "controller": self._controller.name, "volumes": names}
        )
        return mark.model_dump(mode="json", by_alias=True)

    def points(self, names: Sequence[str] = ()) -> Json:
        if self.error is not None:
            raise self.error
        return {"points": [each.model_dump(mode="json") for each in self.made]}
