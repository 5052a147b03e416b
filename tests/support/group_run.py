"""Suspends of a group under dependent writers, as a program.

What a host of its own runs that has the writers and the coordinator.

    python -m tests.support.group_run PLAN.json

The plan: `members` ([controller, volume, NBD address, secondary]), `groups` (the groups file),
`suspends`, `records` (between two of them), `naive` (so many more, controller after controller).
Prints a line of JSON when a suspend begins, {"event": "suspending"}, and one when it is over and
settled, {"event": "suspended", ...}; all are DUPLEX again then. Commands that fail are tried again:
the network may be down.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd.canary.record import Placement
from duplexd.client import Client
from duplexd.errors import DuplexdError, UnreachableError
from duplexd.nbd.uri import NbdUri, parse_uri
from tests.support.cluster import Member
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.group_writers import GroupWriters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    T = TypeVar("T")

WRITERS, SLOTS = 8, 2
AGAIN_SECONDS = 0.2
GROUP = "db"


class Places:
    """The volumes of the plan."""

    def __init__(self, members: list[list[str]]) -> None:
        self._uris = {
            Member(controller, volume): parse_uri(uri) for controller, volume, uri, _ in members
        }
        self._secondaries = {
            Member(controller, volume): Path(path) for controller, volume, _, path in members
        }
        self.members = list(self._uris)

    def uri(self, member: Member) -> NbdUri:
        """Where it is served."""
        return self._uris[member]

    def secondary(self, member: Member) -> Path:
        """Its file."""
        return self._secondaries[member]


async def until_done(command: Callable[[], Awaitable[T]]) -> T:
    """Its result, once it succeeds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await command()
        except DuplexdError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


async def cuts(client: Client) -> list[Any]:
    """What all members say of the group's cuts.

    Raises DuplexdError if one of them does not answer.
    """
    found = await client.cuts(GROUP)
    if found.unreachable:
        raise UnreachableError(str(found.unreachable))
    return list(found.cuts)


async def one_point(client: Client) -> dict[str, Any]:
    """A group suspend: its cut, and what all members say of it in the end."""
    before = {cut.cut for cut in await until_done(lambda: cuts(client))}
    said: dict[str, Any] = {}
    try:
        said = {"verdict": (await client.suspend(GROUP)).verdict}
    except DuplexdError as error:
        said = {"error": str(error)}
    await until_done(lambda: client.settle(GROUP))
    made = [cut for cut in await until_done(lambda: cuts(client)) if cut.cut not in before]
    assert len(made) <= 1, made
    return said | {
        "states": made[0].states if made else {},
        "cut": made[0].cut if made else "",
        "outcome": made[0].verdict if made else "",
    }


async def one_after_the_other(
    client: Client, writers: GroupWriters, controllers: list[str]
) -> dict[str, Any]:
    """A naive suspend, controller after controller: between two commands the writers write to all
    of them.
    """
    for controller in controllers:
        await until_done(lambda: client.suspend(f"{controller}:here"))  # noqa: B023 - awaited here
        await writers.go_round()
    return {"outcome": "naive"}


async def main(plan: dict[str, Any]) -> None:
    """See the top of this file."""
    places = Places(plan["members"])
    controllers = list(dict.fromkeys(member.controller for member in places.members))
    placement = Placement(WRITERS, len(places.members), SLOTS)
    async with (
        Client.open(plan["groups"]) as client,
        GroupWriters(places, places.members, placement) as writers,
    ):
        for number in range(plan["suspends"] + plan["naive"]):
            await writers.write(plan["records"])
            say({"event": "suspending"})
            naive = number >= plan["suspends"]
            report, taken = await writers.during(
                one_after_the_other(client, writers, controllers) if naive else one_point(client)
            )
            if report["outcome"] in {"consistent", "naive"}:
                findings = await writers.grade(taken)
                report |= {
                    "broken": findings.broken,
                    "faults": findings.faults,
                    "examples": findings.examples,
                }
            await until_done(lambda: client.resync(GROUP, wait=True))
            say(
                {
                    "event": "suspended",
                    **report,
                    "acknowledged": writers.workload.history.acknowledged,
                }
            )


def say(line: dict[str, Any]) -> None:
    """To the process that started us."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
