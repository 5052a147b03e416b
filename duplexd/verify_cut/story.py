"""What the markers of a journal say of one cut and of its volumes. Pure.

Written from the documented list of markers alone (docs/journal.md says where it is), not from the
code that packs or folds them: two readers that were written apart rarely make the same mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.journal.format import TRIM, WRITE, ZERO, Record
from duplexd.verify_cut.ranges import Ranges

if TYPE_CHECKING:
    from duplexd.json_object import Json
    from duplexd.verify_cut.document import CertifiedVolume

# Of a secondary: as the cut left it; about to be resynced; written to since
AT_CUT, LEAVING, GONE = "at cut", "leaving", "gone"
CHANGES = (WRITE, ZERO, TRIM)
# Why a copy follows a daemon that was not shut down cleanly; earlier versions call it the second
_UNCLEAN = {"unclean stop", "power cut"}

# Markers that make older records useless as evidence: the volume may have been changed since by
# what
# the journal does not have.
_FORGETTING = ("volume", "attach", "copy", "missed", "detach", "remove")


class VolumeStory:
    """One volume, before the cut and since."""

    __slots__ = (
        "after",
        "blank",
        "cut_sequence",
        "floor",
        "image_size",
        "place",
        "primary_doubt",
        "volume",
        "why",
    )

    def __init__(self, volume: CertifiedVolume, cut_sequence: int) -> None:
        self.volume = volume
        self.cut_sequence = cut_sequence
        self.floor = 0  # records up to this number are no evidence
        self.blank = False  # it was all zero at `floor`
        self.after = Ranges()  # changed since the cut
        self.image_size = volume.size  # of its images: a volume may have grown since
        self.place = ""  # AT_CUT, LEAVING or GONE; "" if the cut does not have the volume
        self.why = ""  # it is GONE
        self.primary_doubt = ""  # why the primary may hold what the journal does not have

    def leave(self, why: str) -> None:
        """The secondary was written to since the cut."""
        self.place, self.why = GONE, self.why or why


class Story:
    """Fed with every record of a journal, in order.

    `marker` is the one that made the cut. The numbers of markers (`made_at`, ...) are 0 until then.
    """

    def __init__(
        self, cut_id: str, sequence: int, volumes: tuple[CertifiedVolume, ...], ranges_max: int
    ) -> None:
        self.cut_id = cut_id
        self.sequence = sequence
        self.record: Record | None = None  # number `sequence`
        self.marker: Json = {}
        self.made_at = self.agreed_at = 0
        self.ready_at = 0  # the secondaries reached it, durably: a cut of several controllers
        self.stood_at = 0  # the same of a cut of this controller alone
        self.void = ""  # why the cut is void
        self.opened = self.closed = False  # a daemon was started, and shut down cleanly after that
        self.volumes = {volume.id: VolumeStory(volume, sequence) for volume in volumes}
        self._stood: tuple[int, list[int], bool] = (0, [], False)
        self._promised = False  # by the checkpoint
        self._ranges_max = max(ranges_max // max(len(volumes), 1), 16)

    def remember(self, sequence: int, volumes: list[int], promised: bool) -> None:
        """The checkpoint says that these were at the cut at number `sequence`; `promised`: durably.

        It counts if the journal no longer has the cut.
        """
        self._stood = (sequence, volumes, promised)

    def change(self, record: Record) -> None:
        """A WRITE, ZERO or TRIM."""
        story = self.volumes.get(record.volume)
        if story is not None and record.sequence > self.sequence:
            story.after.add(record.offset, record.offset + record.length)
            if len(story.after) > self._ranges_max:
                story.after.coarsen(self._ranges_max // 2, story.volume.size)

    def marked(self, number: int, marker: Json) -> None:
        """A marker."""
        name = str(marker.get("m"))
        self._recall(number)
        self._made(name, number, marker)
        self._votes(name, number, marker)
        if name == "grow" and marker.get("done"):
            self.grew({int(each): int(size) for each, size in marker["volumes"].items()})
        if name == "open":
            self.opened, self.closed = True, False
        elif name == "close":
            self.closed = True
        for story in self._named(marker):
            if number <= self.sequence:
                self._before(story, name, number)
            else:
                self._since(story, name, number, marker)

    def grew(self, sizes: dict[int, int]) -> None:
        """The images of these volumes have so many bytes; those that a cut has are the first."""
        for number, size in sizes.items():
            if number in self.volumes:
                story = self.volumes[number]
                story.image_size = max(story.image_size, size)

    @property
    def arrived(self) -> bool:
        """Whether the journal says that the secondaries reached the cut, durably.

        No start of the daemon writes to them after that.
        """
        return bool(self.ready_at or self.stood_at)

    def _recall(self, number: int) -> None:
        sequence, volumes, promised = self._stood
        if volumes and number > sequence:
            for volume in volumes if self.record is None else ():
                self.volumes[volume].place = AT_CUT
            self._promised = promised and self.record is None
            self._stood = (0, [], False)

    def _named(self, marker: Json) -> list[VolumeStory]:
        numbers = marker.get("volumes", [marker.get("id")])
        return [
            self.volumes[int(number)]
            for number in numbers
            if isinstance(number, int | str) and _is_one_of(number, self.volumes)
        ]

    def _made(self, name: str, number: int, marker: Json) -> None:
        by_command = name == "cut" and number == self.sequence
        by_freeze = name in {"fail", "cutat", "onward"} and marker.get("at") == self.sequence
        if marker.get("id") == self.cut_id and (by_command or by_freeze):
            self.marker, self.made_at = marker, number
            for story in self._named(marker):
                story.place = AT_CUT

    def _votes(self, name: str, number: int, marker: Json) -> None:
        if marker.get("cut") != self.cut_id:
            return
        if name == "void":
            self.void = self.void or f"record {number} says that the cut is void"
        elif name == "ready":
            self.ready_at = number
        elif name == "stood":
            self.stood_at = number
        elif name == "agreed":
            self.agreed_at = number

    def _before(self, story: VolumeStory, name: str, number: int) -> None:
        if name in _FORGETTING:
            story.floor, story.blank = number, name == "attach"

    def _since(self, story: VolumeStory, name: str, number: int, marker: Json) -> None:
        if name in {"missed", "remove"} or (name == "copy" and marker.get("reason") in _UNCLEAN):
            story.primary_doubt = (
                "an unclean stop came since: the primary may hold changes that the journal lost"
            )
        settled = self.arrived or self._promised  # what fails after that leaves the cut
        failed = name == "fail" and story.place == AT_CUT and marker.get("id") != self.cut_id
        if name == "differ" and story.place in {AT_CUT, LEAVING}:
            self.void = self.void or (
                f"record {number}: the images of {story.volume.name} were found to differ there"
            )
        if failed and not settled:
            self.void = self.void or (
                f"record {number}: the secondary of {story.volume.name}, or one of its group, "
                "failed at the cut"
            )
        if name == "abandon" and story.place == LEAVING:
            story.place = AT_CUT
        elif name == "resync" and marker.get("how") == "map" and story.place == AT_CUT:
            story.place = LEAVING  # it is not written to before the commit
        elif name in _LEAVING and marker.get("id") != self.cut_id:
            story.leave(_LEAVING[name])


_LEAVING = {
    "resync": "it was resynced since",
    "commit": "it was resynced since",
    "equal": "it was resynced since",
    "copy": "it was copied again since",
    "fail": "it failed since",
    "onward": "it went on to a later cut since",
    "detach": "it was removed from the configuration since",
    "attach": "it was attached again since",
    "remove": "the volume was removed from the configuration since",
}


def _is_one_of(number: int | str, volumes: dict[int, VolumeStory]) -> bool:
    return str(number).isdecimal() and int(number) in volumes
