"""A cut as seen from outside: what is certain about when it was made, on each controller.

Somebody else makes the cut, and news of it arrive late. Only this is certain:

- a record **acknowledged before** a controller was asked for its status, whose answer gave a last
  sequence number not above the cut's, is before the cut on that controller: it must be there;
- a record **issued after** the controller's news of the cut had been read is after the cut on that
  controller: it must not be there;
- a record that is there needs every record that was acknowledged before it was issued, on whichever
  volume. That takes no clock at all.

Nothing is concluded from one controller's moments for another's volumes: whether the cut is one
point is the question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.canary.epoch import Epoch
    from duplexd.canary.members import Member, Volume
    from duplexd.json_object import Json


class NotGradedError(Exception):
    """A cut cannot be graded; the text says why."""


class Sighting:
    """A cut, from the first news of it on."""

    def __init__(self, cut: str, epoch: Epoch) -> None:
        self.cut = cut
        self.epoch = epoch  # that ran when it was first heard of
        self._seen: dict[int, int] = {}  # by member: a moment by which the cut was made there
        self._broken = False

    def see(self, member: int) -> None:
        """A member reported the cut."""
        if member not in self._seen:
            self._seen[member] = self.epoch.history.tick()
            self._broken |= not self.epoch.running

    def moments(
        self, volumes: Sequence[Volume], answers: Sequence[Json]
    ) -> tuple[list[int], list[int]]:
        """For each volume a moment certainly before the cut and one certainly after it.

        `answers` are what the members say of the cut. Raises NotGradedError unless one epoch ran
        until the cut, and had written to all volumes before.
        """
        if self._broken:
            raise NotGradedError(
                "a connection of the canary broke before the cut was made everywhere"
            )
        before = [
            self.epoch.before(member, int(answer["sequence"]))
            for member, answer in enumerate(answers)
        ]
        asked = [moment for moment in before if moment is not None]
        if len(asked) < len(answers) or not self.epoch.gone_round(min(asked)):
            raise NotGradedError(
                "the canary had not yet written to all volumes when the cut was made"
            )
        return [asked[volume.member] for volume in volumes], [
            self._seen[volume.member] for volume in volumes
        ]


def check_whole(members: Sequence[Member], answers: Sequence[Json]) -> None:
    """Raise NotGradedError if the cut is void, or a secondary is no longer at it."""
    for member, answer in zip(members, answers, strict=True):
        if answer["state"] == "void":
            raise NotGradedError(f"the cut is void, as {member.name} says")
        if absent := [name for name in member.volumes if name not in answer["volumes"]]:
            raise NotGradedError(f"{member.name}:{absent[0]} is not at the cut")
