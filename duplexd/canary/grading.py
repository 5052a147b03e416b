"""Grades one cut: waits until it is decided, reads the secondaries, delivers the grade.

A grade is a claim that makes a cut void, so it is given only where everything it rests on is
certain; else the cut is reported as not graded, with the reason. A good grade is delivered as a
courtesy, with a deadline. A bad one is delivered until each controller has it: a broken cut must
not stay usable because a controller was away.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from duplexd.canary.checker import check
from duplexd.canary.sighting import NotGradedError, check_whole
from duplexd.errors import DuplexdError, NotFoundError, WrongStateError
from duplexd.limits import GRADE_CHARACTERS_MAX
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.canary.checker import Findings
    from duplexd.canary.members import Member, Volume
    from duplexd.canary.sighting import Sighting
    from duplexd.json_object import Json
    from duplexd.limits import CanaryLimits

_READ_BYTES_MAX = 1 * MIB


class Grader:
    """Grades cuts of `members`. `report` gets what was found, or why nothing could be."""

    def __init__(
        self,
        members: Sequence[Member],
        volumes: Sequence[Volume],
        report: Callable[[Json], None],
        limits: CanaryLimits,
    ) -> None:
        self._members = members
        self._volumes = volumes
        self._report = report
        self._limits = limits

    async def grade(self, sighting: Sighting, first: int) -> Json | None:
        """The grade of a cut that member `first` was the first to report; None if it gets none."""
        try:
            findings = await self._findings(sighting, first)
        except NotGradedError as why:
            self._report({"event": "not_graded", "cut": sighting.cut, "detail": str(why)})
            return None
        grade = {
            "consistent": findings.consistent,
            "records": findings.records,
            "detail": _detail(findings, self._volumes),
        }
        self._report({"event": "graded", "cut": sighting.cut, **grade})
        return grade

    async def deliver(self, cut: str, grade: Json) -> None:
        """Give all controllers the grade."""
        await asyncio.gather(*(self._deliver(member, cut, grade) for member in self._members))

    async def _findings(self, sighting: Sighting, first: int) -> Findings:
        answers = await self._decided(sighting, first)
        check_whole(self._members, answers)
        asked, done = sighting.moments(self._volumes, answers)
        epoch = sighting.epoch
        images = await asyncio.gather(*(self._read(volume, sighting) for volume in self._volumes))
        findings = check(
            epoch.placement, images, epoch.history, asked, done, epoch.id, epoch.earlier
        )
        if findings.late:
            raise NotGradedError(
                "another canary writes to the same volumes, or a broken connection did so late: "
                f"{findings.examples[0]}"
            )
        return findings

    # The members' answers

    async def _decided(self, sighting: Sighting, first: int) -> list[Json]:
        """What each member says of the cut, once all are READY or know the verdict."""
        deadline = self._now() + self._limits.decided_seconds_max
        while True:
            answers = await asyncio.gather(
                *(self._ask(number, sighting) for number in range(len(self._members)))
            )
            answer = answers[first]
            if not isinstance(answer, str) and max(1, len(answer["members"])) < len(self._members):
                raise NotGradedError(
                    "not all controllers that the canary writes to take part in the cut"
                )
            decided = [answer for answer in answers if not isinstance(answer, str)]
            if len(decided) == len(answers):
                return decided
            if self._now() > deadline:
                raise NotGradedError(next(answer for answer in answers if isinstance(answer, str)))
            await asyncio.sleep(self._limits.poll_seconds)

    async def _ask(self, number: int, sighting: Sighting) -> Json | str:
        """The member's answer, if it is READY or knows the verdict; else why there is none."""
        member = self._members[number]
        try:
            answer = await member.control.call(
                "GET", f"/v1/cuts/{sighting.cut}", timeout_s=self._limits.answer_seconds_max
            )
        except DuplexdError as error:
            return str(error)
        sighting.see(number)
        decided = answer["state"] == "ready" or answer["verdict"] is not None
        return answer if decided else f"{member.name} is not READY for the cut"

    # The secondaries

    async def _read(self, volume: Volume, sighting: Sighting) -> bytes:
        """What the secondary holds where the canary writes."""
        pieces = []
        try:
            for offset in range(0, end := sighting.epoch.placement.volume_bytes, _READ_BYTES_MAX):
                length = min(_READ_BYTES_MAX, end - offset)
                pieces.append(await self._piece(volume, sighting.cut, offset, length))
        except DuplexdError as error:
            raise NotGradedError(
                f"the secondary of {volume.title} cannot be read: {error}"
            ) from None
        return b"".join(pieces)

    async def _piece(self, volume: Volume, cut: str, offset: int, length: int) -> bytes:
        control, timeout_s = self._members[volume.member].control, self._limits.answer_seconds_max
        path = f"/v1/cuts/{cut}/volumes/{quote(volume.name, safe='')}"
        query = f"?offset={offset}&length={length}"
        deadline = self._now() + self._limits.decided_seconds_max
        while True:
            try:
                return await control.call_bytes("GET", path + query, timeout_s=timeout_s)
            except WrongStateError:  # it was resynced, or is not durable yet
                answer = await control.call("GET", f"/v1/cuts/{cut}", timeout_s=timeout_s)
                if volume.name not in answer["volumes"] or self._now() > deadline:
                    raise
            await asyncio.sleep(self._limits.poll_seconds)

    # The grade

    async def _deliver(self, member: Member, cut: str, grade: Json) -> None:
        deadline = self._now() + self._limits.delivered_seconds_max
        timeout_s = self._limits.answer_seconds_max
        while True:
            try:
                await member.control.call(
                    "POST", f"/v1/cuts/{cut}/grade", grade, timeout_s=timeout_s
                )
            except (NotFoundError, WrongStateError) as error:  # it became void, or is forgotten
                self._report({"event": "not_told", "cut": cut, "detail": str(error)})
                return
            except DuplexdError as error:
                if grade["consistent"] and self._now() > deadline:
                    self._report({"event": "not_told", "cut": cut, "detail": str(error)})
                    return
                await asyncio.sleep(self._limits.again_seconds)
            else:
                return

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _detail(findings: Findings, volumes: Sequence[Volume]) -> str:
    """The first findings in words, with the volumes' names."""
    text = re.sub(
        r"\bvolume (\d+)",
        lambda match: volumes[int(match[1])].title,
        "; ".join(findings.examples),
    )
    return text[:GRADE_CHARACTERS_MAX]
