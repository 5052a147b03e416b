"""The canary: writes dependent records over all members all the time, and grades each cut.

Cuts are made by somebody else, so the canary has to notice them. Events are the fast way, but a
lost connection loses events; so the status, which it asks for anyway, is a second way. The sequence
number in each status also bounds from outside what must be before a later cut.

Reports are objects with `event`: `running` (cuts are graded from now on), `interrupted` (they are
not, until it runs again), `graded`, `not_graded`, `not_told` (a controller did not take a grade).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from duplexd.canary.epoch import WRITERS, Epoch
from duplexd.canary.grading import Grader
from duplexd.canary.members import volumes_of
from duplexd.canary.sighting import Sighting
from duplexd.errors import DuplexdError, UnreachableError
from duplexd.limits import CANARY_RECORDS_PER_SECOND_DEFAULT, CanaryLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.canary.members import Member
    from duplexd.json_object import Json

_LIMITS = CanaryLimits()


class Canary:
    """One canary.

    Run it once, with `run`. `broken_cuts` counts those that it found inconsistent.
    """

    def __init__(
        self,
        members: Sequence[Member],
        report: Callable[[Json], None],
        rate: float = CANARY_RECORDS_PER_SECOND_DEFAULT,
        overwrite: bool = False,
        limits: CanaryLimits = _LIMITS,
    ) -> None:
        self.members = list(members)
        self.volumes = volumes_of(members)
        self.broken_cuts = 0
        self._report = report
        self._rate = rate
        self._overwrite = overwrite
        self._limits = limits
        self._grader = Grader(self.members, self.volumes, report, limits)
        self._epoch: Epoch
        self._cuts: dict[str, Sighting | None] = {}  # None: older than the canary
        self._known = [False] * len(members)  # of each member: its older cuts are known
        self._grading: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises DuplexdError if it cannot begin, or must not write again."""
        self._epoch = await self._open()
        tasks: set[asyncio.Task[object]] = {
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._epochs()),
        }
        for number in range(len(self.members)):
            tasks |= {
                asyncio.create_task(self._follow(number)),
                asyncio.create_task(self._probe(number)),
            }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            if self._grading:
                await asyncio.wait(self._grading, timeout=self._limits.stop_seconds_max)
        finally:
            for running in (*tasks, *self._grading):
                running.cancel()
            await asyncio.gather(*tasks, *self._grading, return_exceptions=True)
            await self._epoch.close()

    # Epochs

    async def _open(self) -> Epoch:
        try:
            return await Epoch.open(self.volumes, self._rate, self._overwrite, self._limits)
        except OSError as error:
            raise UnreachableError(
                f"the canary cannot write to its volumes: {error}; "
                "see `duplexctl status` and the daemons' logs"
            ) from None

    async def _epochs(self) -> None:
        while True:
            announce = asyncio.create_task(self._announce(self._epoch))
            try:
                why = await self._epoch.broken()
            finally:
                announce.cancel()
            self._report({"event": "interrupted", "detail": why})
            await self._epoch.close()
            while True:
                with suppress(UnreachableError):
                    self._epoch = await self._open()
                    break
                await asyncio.sleep(self._limits.again_seconds)

    async def _announce(self, epoch: Epoch) -> None:
        while not (epoch.ready and all(self._known)):  # noqa: ASYNC110 - many things make it ready
            await asyncio.sleep(self._limits.poll_seconds)
        self._report(
            {
                "event": "running",
                "volumes": [volume.title for volume in self.volumes],
                "writers": WRITERS,
                "records_per_second": self._rate,
            }
        )

    # News of cuts

    async def _follow(self, number: int) -> None:
        """Read the controller's events; begin again when it is back."""
        while True:
            with suppress(DuplexdError):
                async with aclosing(
                    self.members[number].control.lines("GET", "/v1/events")
                ) as lines:
                    async for line in lines:
                        self._event(number, line)
            await asyncio.sleep(self._limits.again_seconds)

    def _event(self, number: int, line: Json) -> None:
        if line["event"] == "state":
            self._status(number, line["status"])
        elif line["event"] in {"cut", "suspended"}:
            ours = self.members[number].volumes
            if set(line.get("volumes") or ()) & set(ours):
                self._see(number, str(line["cut"]))

    async def _probe(self, number: int) -> None:
        """Ask the controller for its sequence number, again and again.

        The last answer before a cut says which records the cut must have.
        """
        member = self.members[number]
        path = "/v1/status?" + "&".join(f"target={quote(name)}" for name in member.volumes)
        while True:
            epoch = self._epoch
            moment = epoch.history.tick()
            with suppress(DuplexdError):
                status = await member.control.call(
                    "GET", path, timeout_s=self._limits.answer_seconds_max
                )
                epoch.probed(number, moment, int(status["controller"]["sequence"]))
                self._status(number, status)
            await asyncio.sleep(self._limits.probe_seconds)

    def _status(self, number: int, status: Json) -> None:
        """Look for cuts whose events were lost."""
        for volume in status["volumes"]:
            cut = (volume.get("secondary") or {}).get("cut")
            if volume["name"] in self.members[number].volumes and cut:
                if self._known[number]:
                    self._see(number, str(cut["id"]))
                else:
                    self._cuts[str(cut["id"])] = None
        self._known[number] = True

    def _see(self, number: int, cut: str) -> None:
        if cut not in self._cuts:
            self._cuts[cut] = sighting = Sighting(cut, self._epoch)
            while len(self._cuts) > self._limits.cuts_remembered_max:
                del self._cuts[next(iter(self._cuts))]
            task = asyncio.create_task(self._grade(sighting, number), name=f"grade {cut}")
            self._grading.add(task)
            task.add_done_callback(self._grading.discard)
        if (known := self._cuts[cut]) is not None:
            known.see(number)

    async def _grade(self, sighting: Sighting, first: int) -> None:
        grade = await self._grader.grade(sighting, first)
        if grade is not None:
            self.broken_cuts += not grade["consistent"]
            await self._grader.deliver(sighting.cut, grade)
