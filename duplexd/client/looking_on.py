"""One look at a daemon after the other, for who watches it: `duplexctl top`.

A look is what four routes say, asked on one connection, one after the other, because who watches
has time and the daemon has not. Without a status there is no look. What else is refused or cannot
be understood is left out, with the reason: a watcher must go on when one route fails, and must not
take what it did not get for good.

Cuts are asked for again only when the status shows that there may be others, and now and then: five
hundred cuts of a thousand volumes are megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from duplexd.client.api import Client
    from duplexd.json_object import Json

CUTS_SECONDS_MAX = 30.0  # verdicts of cuts that no secondary is at any more may change unseen


@dataclass(frozen=True)
class Look:
    """`findings` is None if health is not known. `cuts` are those that were made of `cuts_of`, a
    volume or a group, or all. `missing`: what could not be had, and why.
    """

    status: Json
    findings: list[Json] | None
    cuts: list[Json]
    metrics: str
    cuts_of: str = ""
    missing: list[str] = field(default_factory=list)


class LookingOn:
    """Looks at the one daemon of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        (self._link,) = client.links_to(client.groups.controllers).values()
        self._seconds_max = self._link.limits.answer_seconds_max
        self._cuts: list[Json] = []
        self._cuts_of: object = None  # what the status said when they were asked for
        self._cuts_at = 0.0

    async def look(self, cuts_of: str = "") -> Look:
        """Raises what `Client.status` raises."""
        status = (await self._client.status()).json()
        missing: list[str] = []
        health = await self._ask("health", "/v1/health", missing)
        await self._look_at_cuts(status, cuts_of, missing)
        return Look(
            status,
            None if health is None else health["findings"],
            self._cuts,
            await self._metrics(missing),
            cuts_of,
            missing,
        )

    async def sign_of_life(self) -> None:
        """Raises a DuplexdError if the daemon does not answer."""
        await self._link.call("GET", "/healthz", timeout_s=self._seconds_max)

    async def _ask(self, what: str, path: str, missing: list[str]) -> Json | None:
        try:
            return await self._link.call("GET", path, timeout_s=self._seconds_max)
        except DuplexdError as error:
            missing.append(f"{what} is not known: {error}")
            return None

    async def _look_at_cuts(self, status: Json, target: str, missing: list[str]) -> None:
        rows = status["volumes"]
        shown = [(row.get("secondary") or {}).get("cut") for row in rows]
        key = (target, shown, [row.get("consistent_cut_time") for row in rows], status["cuts"])
        if key == self._cuts_of and monotonic() - self._cuts_at < CUTS_SECONDS_MAX:
            return
        query = "?" + urlencode([("target", target)]) if target else ""
        answer = await self._ask("the list of cuts", "/v1/cuts" + query, missing)
        self._cuts = [] if answer is None else answer["cuts"]
        self._cuts_of, self._cuts_at = None if answer is None else key, monotonic()

    async def _metrics(self, missing: list[str]) -> str:
        try:
            body = await self._link.call_bytes("GET", "/metrics", timeout_s=self._seconds_max)
        except DuplexdError as error:
            missing.append(f"rates are not known: {error}")
            return ""
        return body.decode(errors="replace")
