"""A fault between two messages of one group suspend, and its outcome."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from duplexd.client import Client
from duplexd.core import cut_states as votes
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support import coordinator
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.wire import Message, Wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.group_writers import GroupWriters, Taken

    Process = subprocess.Popen[bytes]

POLL_SECONDS = 0.005
LOST = "the message is lost"


@dataclass
class Lane:
    """A group, its writers, and a directory for its files.

    Lanes of one cluster have groups of different names.
    """

    cluster: Cluster
    writers: GroupWriters
    directory: Path
    targets: list[str]  # what the group is called on each controller
    hold_max_s: float
    group: str = "db"

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.groups = self.write_groups("groups.toml")

    def be_patient(self) -> None:
        """Make holds last longer, because this machine was too slow."""
        self.hold_max_s = min(2 * self.hold_max_s, HOLD_SECONDS_MAX)

    def write_groups(self, name: str, wire: Wire | None = None) -> Path:
        """A groups file, for a coordinator behind the wire or for one that is not."""
        sockets = wire.paths if wire else None
        return self.cluster.write_groups(
            {self.group: self.writers.members}, self.hold_max_s, sockets, path=self.directory / name
        )

    async def resync(self) -> None:
        """All DUPLEX, whatever they were."""
        asked = [
            (controller, target) for controller in self.cluster.daemons for target in self.targets
        ]
        await asyncio.gather(*(asyncio.to_thread(self.cluster.resync, *each) for each in asked))

    async def write_everywhere(self) -> None:
        """Return once enough was written that every volume was written to.

        Every gate is open.
        """
        await self.writers.write(
            (self.writers.placement.writers + 1) * self.writers.placement.period
        )


@dataclass
class Attempt:
    """A group suspend by a coordinator in a process of its own, behind a wire."""

    lane: Lane
    strike: Callable[
        [Wire, Message, Process], str | None
    ]  # given each message until it strikes, which is when it returns something
    struck: Message | None = None
    messages: list[Message] = field(default_factory=list)
    cut: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    taken: Taken | None = None

    async def run(self, then: Callable[[Process], Awaitable[None]]) -> None:
        """Run the coordinator's process to its end. `then` is awaited once the fault has struck."""
        await self.lane.write_everywhere()
        _, self.taken = await self.lane.writers.during(self._run(then))

    async def _run(self, then: Callable[[Process], Awaitable[None]]) -> None:
        process: Process | None = None

        def watch(message: Message) -> bool:
            assert process is not None
            if self.struck is None and (how := self.strike(wire, message, process)):
                self.struck = message
                return how != LOST
            return True

        async with Wire(self.lane.cluster.sockets(), self.lane.directory, watch) as wire:
            with coordinator.start(
                self.lane.write_groups("wired.toml", wire), self.lane.group
            ) as process:
                try:
                    # Another process ends, so there is no event to wait for
                    while self.struck is None and process.poll() is None:  # noqa: ASYNC110
                        await asyncio.sleep(POLL_SECONDS)
                    if self.struck is not None:
                        await then(process)
                    output, _ = await asyncio.to_thread(
                        process.communicate, timeout=PATIENCE_SECONDS
                    )
                finally:
                    process.kill()
        self.messages, self.cut = wire.messages, wire.cut_id
        self.result = json.loads(output) if output else {}

    async def judge(self) -> str:
        """Have another coordinator settle the cut, and check that all members agree:

        CONSISTENT, VOID, or NONE if nothing was cut.
        """
        await self.settle()
        self.states = (
            await asyncio.to_thread(self.lane.cluster.cut_states, self.cut) if self.cut else {}
        )
        said = set(self.states.values()) or {votes.NONE}
        assert said == {votes.CONSISTENT} or said <= {votes.NONE, votes.VOID}, self
        outcome = (
            votes.CONSISTENT
            if votes.CONSISTENT in said
            else votes.VOID
            if votes.VOID in said
            else votes.NONE
        )
        assert self.result.get("verdict") in {None, outcome}, self
        if outcome == votes.CONSISTENT:
            assert self.taken is not None
            findings = await self.lane.writers.grade(self.taken)
            assert findings.consistent, (self, findings)
        await asyncio.to_thread(self._check_status, outcome)
        return outcome

    async def settle(self) -> None:
        """As an operator does."""
        async with Client.open(self.lane.groups) as client:
            await client.settle(self.lane.group)

    def _check_status(self, outcome: str) -> None:
        """Secondaries at this cut are shown with the outcome, on every controller."""
        for controller in self.lane.cluster.daemons:
            for volume in self.lane.cluster.ask(controller, "GET", "/v1/status")["volumes"]:
                cut = (volume["secondary"] or {}).get("cut")
                if cut and cut["id"] == self.cut:
                    assert cut["verdict"] == outcome, (controller, volume, self)

    def __str__(self) -> str:
        return (
            f"struck at {self.struck}, coordinator: {self.result or 'no answer'},"
            f" members: {self.states}"
        )
