"""The volumes of one controller: which of their images can be looked at, and what for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from duplexd.limits import PROOF_RANGES_MAX
from duplexd.verify_cut.contents import Contents, meet_all
from duplexd.verify_cut.image import Image
from duplexd.verify_cut.report import VolumeReport
from duplexd.verify_cut.story import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.verify_cut.story import VolumeStory
    from duplexd.verify_cut.walk import Walk

_CHANGED_SINCE = "changed since the cut, and the journal has nothing older of it"
_STOPPED = "this volume is wrong in so many places that its check stopped"


class VolumeCheck:
    """One volume. `given` is a place of its secondary, "" for the certificate's, if that `counts`. `wrong` are the contradictions.

    `replays_from`: see `Contents`; of no matter for a copy, to which no daemon writes.
    """

    def __init__(
        self, story: VolumeStory, given: str, counts: bool, replays_from: int | None
    ) -> None:
        volume = story.volume
        self.story = story
        self.row = VolumeReport(
            volume.name, volume.size, given or (volume.secondary if counts else "")
        )
        self.wrong: list[str] = []
        self.undecided: list[str] = []
        self.contents: Contents | None = None
        self._images: list[Image] = []
        self._copy = bool(given) and not (counts and _same_file(given, volume.secondary))
        self._replays_from = None if self._copy else replays_from

    @property
    def stands(self) -> bool:
        """Whether nothing has been written to what is looked at since the cut: it is the secondary that stands there, or a copy."""
        return self._copy or self.story.standing not in {GONE, ""}

    def open(self, ranges_max: int) -> None:
        """Open the secondary, if it stands."""
        self.row.stands = self.story.standing not in {GONE, ""}
        if not self.stands:
            self.give_up(self.story.why or "the cut does not have it")
            return
        if not self.row.secondary:
            self.give_up("nothing says where the secondary is here; do it with --image")
            return
        image = self._open(self.row.secondary, "secondary")
        if image is not None and image.size != self.row.size:
            self.wrong = [f"{image.path}: has {image.size} bytes, the volume {self.row.size}"]
        elif image is not None:
            self.contents = Contents(self.story, image, ranges_max, self._replays_from)

    def open_primary(self) -> Image | None:
        """The primary, if it is another image and of the same size."""
        image = self._open(self.story.volume.primary, "primary")
        if image is None or self.contents is None:
            return None
        if image.size != self.row.size:
            self.row.unchecked.append(
                f"{image.path}: the primary has {image.size} bytes, the volume {self.row.size}"
            )
            return None
        if image.identity == self.contents.secondary.identity:
            self.row.unchecked.append(
                f"{image.path}: the primary is the same image as the secondary"
            )
            return None
        return image

    def _open(self, path: str, what: str) -> Image | None:
        if not path:
            self.row.unchecked.append(f"the certificate does not say where the {what} is")
            return None
        try:
            image = Image(path)
        except OSError as error:
            self.row.unchecked.append(f"{path}: the {what} can't be read: {error.strerror}")
            return None
        self._images.append(image)
        return image

    def give_up(self, why: str) -> None:
        """Nothing that was found counts."""
        self.row.unchecked = [why]
        self.contents = None

    def count(self) -> None:
        """Put what was found into the report."""
        contents, row = self.contents, self.row
        if contents is None:
            return
        self.wrong = list(contents.wrong.tell(row.secondary))
        self.undecided = list(contents.undecided.tell(row.secondary))
        row.wrong_bytes, row.undecided_bytes = (
            contents.wrong.ranges.total_bytes,
            contents.undecided.ranges.total_bytes,
        )
        row.by_journal_bytes, row.by_primary_bytes = (
            contents.proved.total_bytes,
            contents.by_primary_bytes,
        )
        row.checked_bytes = contents.checked_bytes
        if contents.stopped:
            row.unchecked.append(_STOPPED)

    def close(self) -> None:
        for image in self._images:
            image.close()


def check_all(
    checks: Sequence[VolumeCheck], walk: Walk, follow: Callable[[], None], primary_doubt: str
) -> None:
    """Check the contents of all. `follow` reads on in the journal, which brings the stories up to date. Raises as `Walk` does."""
    for each in checks:
        each.open(PROOF_RANGES_MAX // len(checks))
    _by_journal(checks, walk)
    for each in checks:
        if each.contents is not None and not each.contents.stopped and not each.contents.unreadable:
            _by_primary(each, follow, primary_doubt)
    follow()
    for each in checks:
        each.row.stands = each.story.standing not in {GONE, ""}
        if each.contents is not None and not each.stands:
            each.give_up(each.story.why)  # it moved while it was looked at
        each.count()


def _by_journal(checks: Sequence[VolumeCheck], walk: Walk) -> None:
    contents = {each.story.volume.id: each.contents for each in checks if each.contents is not None}
    if contents:
        meet_all(walk, contents)
    for each in checks:
        if each.contents is not None and each.contents.unreadable:
            each.row.unchecked.append(each.contents.unreadable)


def _by_primary(check: VolumeCheck, follow: Callable[[], None], doubt: str) -> None:
    def stands() -> bool:
        follow()
        return check.stands

    contents = check.contents
    assert contents is not None
    doubt = doubt or check.story.primary_doubt
    primary = None if doubt else check.open_primary()
    if primary is not None:
        try:
            contents.compare(primary, stands)
        except OSError as error:
            doubt = f"{error.filename or primary.path}: {error.strerror}"
        else:
            doubt = "" if contents.stopped else _CHANGED_SINCE
    if doubt and contents.checked_bytes + contents.wrong.ranges.total_bytes < check.row.size:
        check.row.unchecked.append(doubt)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
