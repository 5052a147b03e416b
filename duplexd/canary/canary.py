"""The canary: writes dependent records over all members the whole time, and grades each cut by what it finds on the secondaries.

It is a client like any other: records go through NBD, news come as events, secondaries are read over HTTP, and the grade is given to every
controller. A cut found broken becomes void on all of them. Reports are objects: `running` (from now on cuts are graded), `interrupted` (no more,
until it runs again), `graded`, `not_graded`, `not_told` (a controller did not take a grade).
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from duplexd.canary.checker import check
from duplexd.canary.epoch import STOP_SECONDS_MAX, WRITERS, Epoch
from duplexd.canary.members import ANSWER_SECONDS_MAX, volumes_of
from duplexd.canary.sighting import NotGradedError, Sighting, check_whole
from duplexd.errors import DuplexdError, NotFoundError, UnreachableError, WrongStateError
from duplexd.limits import CANARY_RECORDS_PER_SECOND_DEFAULT, GRADE_CHARACTERS_MAX
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.canary.checker import Findings
    from duplexd.canary.members import Member, Volume

    Json = dict[str, Any]

SOUND_SECONDS = 0.5  # between two questions for a controller's status
DECIDED_SECONDS_MAX = 60.0  # for all members to have promised or decided a cut
TOLD_SECONDS_MAX = (
    60.0  # for a good grade to reach a controller; a bad one is told for as long as the canary runs
)
CUTS_REMEMBERED_MAX = 1024
_AGAIN_SECONDS = 0.5
_POLL_SECONDS = 0.1
_READ_BYTES_MAX = 1 * MIB


class Canary:
    """One canary. `report` gets what it has to say. Run it once, with `run`."""

    def __init__(
        self,
        members: Sequence[Member],
        report: Callable[[Json], None],
        rate: float = CANARY_RECORDS_PER_SECOND_DEFAULT,
        overwrite: bool = False,
    ) -> None:
        self.members = list(members)
        self.volumes = volumes_of(members)
        self.broken_cuts = 0
        self._report = report
        self._rate = rate
        self._overwrite = overwrite
        self._epoch: Epoch
        self._cuts: dict[str, Sighting | None] = {}  # None: was there before the canary
        self._known = [False] * len(members)  # what was there before is known
        self._grading: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises DuplexdError if it cannot begin, or must not write where it wrote before."""
        self._epoch = await self._open()
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._epochs()),
        }
        for number in range(len(self.members)):
            tasks |= {
                asyncio.create_task(self._follow(number)),
                asyncio.create_task(self._sound(number)),
            }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            if self._grading:
                await asyncio.wait(self._grading, timeout=STOP_SECONDS_MAX)
        finally:
            for task in (*tasks, *self._grading):
                task.cancel()
            await asyncio.gather(*tasks, *self._grading, return_exceptions=True)
            await self._epoch.close()

    # ------------------------------------------------------------------------------------------------------------- epochs

    async def _open(self) -> Epoch:
        try:
            return await Epoch.open(self.volumes, self._rate, self._overwrite)
        except OSError as error:
            raise UnreachableError(
                f"the canary cannot write to its volumes: {error}; see `duplexctl status` and the log of the daemons"
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
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _announce(self, epoch: Epoch) -> None:
        while not (epoch.ready and all(self._known)):  # noqa: ASYNC110 - many things make it ready
            await asyncio.sleep(_POLL_SECONDS)
        titles = [volume.title for volume in self.volumes]
        self._report(
            {
                "event": "running",
                "volumes": titles,
                "writers": WRITERS,
                "records_per_second": self._rate,
            }
        )

    # --------------------------------------------------------------------------------------------------------- news of cuts

    async def _follow(self, number: int) -> None:
        """Read the controller's events for as long as it runs; begin again when it is back."""
        while True:
            with suppress(DuplexdError):
                async with aclosing(
                    self.members[number].control.lines("GET", "/v1/events")
                ) as lines:
                    async for line in lines:
                        self._event(number, line)
            await asyncio.sleep(_AGAIN_SECONDS)

    def _event(self, number: int, line: Json) -> None:
        if line["event"] == "state":
            self._status(number, line["status"])
        elif line["event"] in {"cut", "suspended"} and set(line.get("volumes") or ()) & set(
            self.members[number].volumes
        ):
            self._see(number, str(line["cut"]))

    async def _sound(self, number: int) -> None:
        """Ask the controller again and again how far it is: the last answer before a cut tells which records the cut must have."""
        member = self.members[number]
        path = "/v1/status?" + "&".join(f"target={quote(name)}" for name in member.volumes)
        while True:
            epoch = self._epoch
            moment = epoch.history.tick()
            with suppress(DuplexdError):
                status = await member.control.call("GET", path, timeout_s=ANSWER_SECONDS_MAX)
                epoch.sound(number, moment, int(status["controller"]["sequence"]))
                self._status(number, status)
            await asyncio.sleep(SOUND_SECONDS)

    def _status(self, number: int, status: Json) -> None:
        """A status tells of cuts too, which events may have told while nobody listened."""
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
            while len(self._cuts) > CUTS_REMEMBERED_MAX:
                del self._cuts[next(iter(self._cuts))]
            task = asyncio.create_task(self._deal_with(sighting, number), name=f"grade {cut}")
            self._grading.add(task)
            task.add_done_callback(self._grading.discard)
        if (known := self._cuts[cut]) is not None:
            known.see(number)

    # ------------------------------------------------------------------------------------------------------------- grading

    async def _deal_with(self, sighting: Sighting, first: int) -> None:
        try:
            findings = await self._grade(sighting, first)
        except NotGradedError as why:
            self._report({"event": "not_graded", "cut": sighting.cut, "detail": str(why)})
            return
        self.broken_cuts += not findings.consistent
        grade = {
            "consistent": findings.consistent,
            "records": findings.records,
            "detail": _detail(findings, self.volumes),
        }
        self._report({"event": "graded", "cut": sighting.cut, **grade})
        await asyncio.gather(*(self._tell(member, sighting.cut, grade) for member in self.members))

    async def _grade(self, sighting: Sighting, first: int) -> Findings:
        answers = await self._decided(sighting, first)
        check_whole(self.members, answers)
        asked, done = sighting.moments(self.volumes, answers)
        epoch = sighting.epoch
        images = await asyncio.gather(*(self._read(volume, sighting) for volume in self.volumes))
        findings = check(
            epoch.placement, images, epoch.history, asked, done, epoch.id, epoch.earlier
        )
        if findings.late:
            raise NotGradedError(
                f"another canary writes to the same volumes, or a broken connection did so late: {findings.examples[0]}"
            )
        return findings

    async def _decided(self, sighting: Sighting, first: int) -> list[Json]:
        """What each member says of the cut, once all have promised or decided it."""
        deadline = asyncio.get_running_loop().time() + DECIDED_SECONDS_MAX
        while True:
            answers = await asyncio.gather(
                *(self._ask(number, sighting) for number in range(len(self.members)))
            )
            answer = answers[first]
            if not isinstance(answer, str) and max(1, len(answer["members"])) < len(self.members):
                raise NotGradedError(
                    "not all controllers that the canary writes to take part in the cut"
                )
            decided = [answer for answer in answers if not isinstance(answer, str)]
            if len(decided) == len(answers):
                return decided
            if asyncio.get_running_loop().time() > deadline:
                raise NotGradedError(next(answer for answer in answers if isinstance(answer, str)))
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self, number: int, sighting: Sighting) -> Json | str:
        """The member's answer about a cut that it has promised or decided; else why there is none."""
        try:
            answer = await self.members[number].control.call(
                "GET", f"/v1/cuts/{sighting.cut}", timeout_s=ANSWER_SECONDS_MAX
            )
        except DuplexdError as error:
            return str(error)
        sighting.see(number)
        decided = answer["state"] == "ready" or answer["verdict"] is not None
        return answer if decided else f"{self.members[number].name} has not promised the cut"

    async def _read(self, volume: Volume, sighting: Sighting) -> bytes:
        """What the volume's secondary holds where the canary writes."""
        pieces = []
        try:
            for offset in range(0, end := sighting.epoch.placement.volume_bytes, _READ_BYTES_MAX):
                pieces.append(
                    await self._piece(
                        volume, sighting.cut, offset, min(_READ_BYTES_MAX, end - offset)
                    )
                )
        except DuplexdError as error:
            raise NotGradedError(
                f"the secondary of {volume.title} cannot be read: {error}"
            ) from None
        return b"".join(pieces)

    async def _piece(self, volume: Volume, cut: str, offset: int, length: int) -> bytes:
        control = self.members[volume.member].control
        path = (
            f"/v1/cuts/{cut}/volumes/{quote(volume.name, safe='')}?offset={offset}&length={length}"
        )
        deadline = asyncio.get_running_loop().time() + DECIDED_SECONDS_MAX
        while True:
            try:
                return await control.call_bytes("GET", path, timeout_s=ANSWER_SECONDS_MAX)
            except WrongStateError:  # it has moved on, or is just being made durable
                answer = await control.call("GET", f"/v1/cuts/{cut}", timeout_s=ANSWER_SECONDS_MAX)
                if (
                    volume.name not in answer["volumes"]
                    or asyncio.get_running_loop().time() > deadline
                ):
                    raise
            await asyncio.sleep(_POLL_SECONDS)

    async def _tell(self, member: Member, cut: str, grade: Json) -> None:
        """Give a controller the grade; a bad one until it has it."""
        deadline = asyncio.get_running_loop().time() + TOLD_SECONDS_MAX
        while True:
            try:
                await member.control.call(
                    "POST", f"/v1/cuts/{cut}/grade", grade, timeout_s=ANSWER_SECONDS_MAX
                )
            except (NotFoundError, WrongStateError) as error:  # it became void, or is forgotten
                self._report({"event": "not_told", "cut": cut, "detail": str(error)})
                return
            except DuplexdError as error:
                if grade["consistent"] and asyncio.get_running_loop().time() > deadline:
                    self._report({"event": "not_told", "cut": cut, "detail": str(error)})
                    return
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


def _detail(findings: Findings, volumes: Sequence[Volume]) -> str:
    """The first findings in words, with the volumes' names."""
    text = "; ".join(findings.examples)
    return re.sub(r"\bvolume (\d+)", lambda match: volumes[int(match[1])].title, text)[
        :GRADE_CHARACTERS_MAX
    ]
