"""One look at controllers after the other, for who watches them: `duplexctl top`.

A look is what four routes say, asked on one connection to each controller, one after the other,
because who watches has time and the daemon has not. Without a status there is no look. What else is
refused or cannot be understood is left out, with the reason: a watcher must go on when one route
fails, and must not take what it did not get for good. So a controller of several that does not
answer is one more finding. Each question to a silent one costs the whole patience, so in one look
it is asked for its status alone.

Cuts are asked for again only when the status shows that there may be others, and now and then: five
hundred cuts of a thousand volumes are megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.client import outcomes, survey, unwell
from duplexd.errors import DuplexdError, NotFoundError, error_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.client.api import Client
    from duplexd.client.http import Http
    from duplexd.client.results import Cut
    from duplexd.json_object import Json

CUTS_SECONDS_MAX = 30.0  # verdicts of cuts that no secondary is at any more may change unseen


@dataclass(frozen=True)
class Look:
    """`status` as of the command. `findings` is None if health is not known. `cuts`, newest first,
    are those that were made of `cuts_of`, a volume or a group, or all. `metrics` by what the names
    of volumes begin with: nothing for one daemon, `alpha:` for a controller of the groups file.
    `missing`: what could not be had, and why.
    """

    status: Json
    findings: list[Json] | None
    cuts: list[Json]
    metrics: dict[str, str]
    cuts_of: str = ""
    missing: list[str] = field(default_factory=list)


class LookingOn:
    """Looks at all controllers of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._all = client.groups.everything()
        self._links = client.links_to(self._all.members)
        self._cuts: list[Json] = []
        self._cuts_of: object = None  # what the status said when they were asked for
        self._cuts_at = 0.0

    async def look(self, cuts_of: str = "") -> Look:
        """Raises what `Client.status` raises, and if no controller answers."""
        status = (await self._client.status()).json()
        if not status["controllers"]:
            code = next(iter(status["exit_codes"].values()))
            raise error_of({"exit_code": code, "detail": "; ".join(status["unreachable"].values())})
        missing: list[str] = []
        findings = await self._findings(status["unreachable"], missing)
        await self._look_at_cuts(status, cuts_of, missing)
        metrics = await self._metrics(status["unreachable"], missing)
        return Look(status, findings, self._cuts, metrics, cuts_of, missing)

    async def health(self) -> list[Json] | None:
        """The findings alone, between two looks; None if they are not known."""
        return await self._findings({}, [])

    async def sign_of_life(self) -> None:
        """Raises a DuplexdError if no controller answers."""
        asked = {
            name: link.call("GET", "/healthz", timeout_s=link.limits.answer_seconds_max)
            for name, link in self._links.items()
        }
        answers, errors = await survey.gather(asked)
        if not answers:
            survey.raise_all(errors)

    async def _findings(self, unreachable: dict[str, str], missing: list[str]) -> list[Json] | None:
        try:
            found = await unwell.ask(self._all, self._without(unreachable), everything=True)
        except DuplexdError as error:
            missing.append(f"health is not known: {error}")
            return None
        silent = {**found.unreachable, **unreachable}
        return [*(_silent(name, why) for name, why in silent.items()), *found.findings]

    async def _look_at_cuts(self, status: Json, target: str, missing: list[str]) -> None:
        rows = status["volumes"]
        shown = [(row.get("secondary") or {}).get("cut") for row in rows]
        key = (target, shown, [row.get("consistent_cut_time") for row in rows], status["cuts"])
        if key == self._cuts_of and monotonic() - self._cuts_at < CUTS_SECONDS_MAX:
            return
        self._cuts, self._cuts_of, self._cuts_at = [], None, monotonic()
        try:
            found, unreachable = await self._known_cuts(target, status["unreachable"])
        except DuplexdError as error:
            missing.append(f"the list of cuts is not known: {error}")
            return
        self._cuts = [_cut(each) for each in reversed(found)]
        self._cuts_of = None if unreachable else key

    async def _known_cuts(self, target: str, silent: Mapping[str, str]) -> tuple[list[Cut], bool]:
        """Oldest first, and whether a controller was not asked, or did not answer."""
        members = (self._client.groups.resolve([target]) if target else self._all).members
        links = {name: link for name, link in self._without(silent).items() if name in members}
        found, errors = await outcomes.ask(links, targets=members)
        if len(errors) == len(links) or any(isinstance(e, NotFoundError) for e in errors.values()):
            survey.raise_all(errors)
        return outcomes.in_order(found.values()), bool(errors) or len(links) < len(members)

    def _without(self, silent: Mapping[str, str]) -> dict[str, Http]:
        return {name: link for name, link in self._links.items() if name not in silent}

    async def _metrics(self, silent: Mapping[str, str], missing: list[str]) -> dict[str, str]:
        asked = {
            name: link.call_bytes("GET", "/metrics", link.limits.answer_seconds_max)
            for name, link in self._without(silent).items()
        }
        bodies, errors = await survey.gather(asked)
        missing += [f"rates are not known: {error}" for error in errors.values()]
        return {
            self._all.title(name, ""): body.decode(errors="replace")
            for name, body in bodies.items()
        }


def _silent(controller: str, why: str) -> Json:
    """As a finding."""
    text = f"does not answer: {why.removeprefix(f'{controller}: ')}"
    return {"controller": controller, "severity": "error", "volume": "", "text": text}


def _cut(cut: Cut) -> Json:
    return {
        "id": cut.cut,
        "verdict": cut.verdict,
        "tag": cut.tag,
        "group": cut.group,
        "time": cut.time,
    }
