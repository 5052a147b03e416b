"""Drills of a controller that is not there: what was reported, and an answer of the right shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.models.drill_model import DrillRecorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.drill_record import Report
    from duplexd.json_object import Json


class FakeDrills:
    """`reports`: those that were recorded. `error` is raised by `record`."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.error: Exception | None = None

    async def record(self, names: Sequence[str], report: Report) -> Json:
        if self.error is not None:
            raise self.error
        self.reports.append(report)
        answer = DrillRecorded(
            id=report.id,
            cut=report.cut,
            outcome="failed" if report.exit_code else "passed",
            exit_code=report.exit_code,
            volumes=list(names),
        )
        return answer.model_dump(mode="json")
