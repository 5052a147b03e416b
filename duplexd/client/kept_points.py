"""The cuts and marks that controllers keep, as one list of a group, and which are within reach."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from duplexd.client import outcomes, survey
from duplexd.client.results import KeptPoint
from duplexd.core.cut_states import CONSISTENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.client.http import Http
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json


async def ask(group: Group, links: Links) -> tuple[dict[str, list[Json]], dict[str, DuplexdError]]:
    """What each member keeps, and the errors of those that fail."""
    return await survey.gather(
        {name: _ask(link, group.members[name]) for name, link in links.items()}
    )


async def _ask(link: Http, targets: Sequence[str]) -> list[Json]:
    query = urlencode([("target", target) for target in targets])
    path = "/v1/points" + ("?" + query if query else "")
    answer = await link.call("GET", path, timeout_s=link.limits.answer_seconds_max)
    return list(answer["points"])


def merge(answers: Mapping[str, list[Json]], group: Group) -> list[KeptPoint]:
    """Oldest first."""
    known: dict[str, dict[str, Json]] = {}
    for name, rows in answers.items():
        for row in rows:
            known.setdefault(row["id"], {})[name] = row
    return outcomes.in_order(_kept(point, rows, answers, group) for point, rows in known.items())


def _kept(
    point: str, rows: dict[str, Json], answers: Mapping[str, object], group: Group
) -> KeptPoint:
    cut = outcomes.merge(point, rows, answers)
    why = [row["why"] for row in rows.values() if row.get("why")]
    why += [
        f"{name} does not know it, or does not answer"
        for name in (cut.members if not group.alone else ())
        if name not in rows
    ]
    if cut.verdict != CONSISTENT:
        why.insert(0, f"it is {cut.verdict or 'in doubt'}")
    return KeptPoint(
        **vars(cut),
        kind=next(iter(rows.values()))["kind"],
        whole=all(row.get("whole", True) for row in rows.values()),
        within_reach=not why,
        why="; ".join(why),
    )
