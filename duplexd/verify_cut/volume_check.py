"""The volumes of one controller: which of their images can be checked, and by what.

A secondary counts only while nothing was written to it since the cut, and the journal says when
that changes. So the journal is read on after the images were compared, and a result is discarded if
the secondary was resynced meanwhile. A copy, a backup for example, stays as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from duplexd.known import known
from duplexd.verify_cut.contents import Contents, check_by_journal
from duplexd.verify_cut.image import Image
from duplexd.verify_cut.report import VolumeReport
from duplexd.verify_cut.story import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.limits import ProofLimits
    from duplexd.verify_cut.story import VolumeStory
    from duplexd.verify_cut.walk import Walk

_CHANGED_SINCE = "changed since the cut, and the journal holds no older content of it"
_STOPPED = "this volume differs in so many places that its check stopped"


class VolumeCheck:
    """One volume. `wrong` are the contradictions, `undecided` what a starting daemon may change.

    `given` is the path of the secondary, "" for the certificate's, which is used only if it
    `counts`. `replays_from`: see `Contents`; not used for a copy, since no daemon writes to it.
    """

    def __init__(
        self,
        story: VolumeStory,
        given: str,
        counts: bool,
        replays_from: int | None,
        limits: ProofLimits,
    ) -> None:
        volume = story.volume
        path = given or (volume.secondary if counts else "")
        self.story = story
        self.row = VolumeReport(volume.name, volume.size, path)
        self.wrong: list[str] = []
        self.undecided: list[str] = []
        self.contents: Contents | None = None
        self._images: list[Image] = []
        self._copy = bool(given) and not (counts and _same_file(given, volume.secondary))
        self._replays_from = None if self._copy else replays_from
        self._limits = limits

    @property
    def at_cut(self) -> bool:
        """Whether nothing was written since the cut to the image that is checked."""
        return self._copy or self._secondary_at_cut

    @property
    def _secondary_at_cut(self) -> bool:
        return self.story.place not in {GONE, ""}

    def open(self, ranges_max: int) -> None:
        """Open the secondary, if it still is at the cut."""
        self.row.stands = self._secondary_at_cut
        if not self.at_cut:
            self.give_up(self.story.why or "the cut does not have it")
            return
        if not self.row.secondary:
            self.give_up("the location of the secondary is not known here; give it with --image")
            return
        image = self._open(self.row.secondary, "secondary")
        sizes = {self.row.size, self.story.image_size}
        if image is not None and image.size not in sizes:
            self.wrong = [f"{image.path}: has {image.size} bytes, the volume {self.row.size}"]
        elif image is not None:
            self.contents = Contents(
                self.story, image, ranges_max, self._replays_from, self._limits
            )

    def open_primary(self) -> Image | None:
        """The primary, if it is another image and as long as the volume is."""
        image = self._open(self.story.volume.primary, "primary")
        if image is None or self.contents is None:
            return None
        if image.size != self.story.image_size:
            size = self.story.image_size
            self.row.unchecked.append(
                f"{image.path}: the primary has {image.size} bytes, the volume {size}"
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
            self.row.unchecked.append(f"{path}: the {what} cannot be read: {error.strerror}")
            return None
        self._images.append(image)
        return image

    def give_up(self, why: str) -> None:
        """Discard what was found."""
        self.row.unchecked = [why]
        self.contents = None

    def finish(self) -> None:
        """Put what was found into the report, unless the secondary moved on meanwhile."""
        self.row.stands = self._secondary_at_cut
        if self.contents is not None and not self.at_cut:
            self.give_up(self.story.why)
        if self.contents is not None:
            self._count(self.contents)

    def _count(self, contents: Contents) -> None:
        row = self.row
        self.wrong = list(contents.wrong.describe(row.secondary))
        self.undecided = list(contents.undecided.describe(row.secondary))
        row.wrong_bytes = contents.wrong.ranges.total_bytes
        row.undecided_bytes = contents.undecided.ranges.total_bytes
        row.by_journal_bytes = contents.proved.total_bytes
        row.by_primary_bytes = contents.by_primary_bytes
        row.checked_bytes = contents.checked_bytes
        row.whole_journal = contents.whole
        row.data_bytes = contents.secondary.data_bytes(0, contents.size)
        row.checked_data_bytes = contents.checked_data_bytes
        if contents.stopped:
            row.unchecked.append(_STOPPED)

    def close(self) -> None:
        """Close the images."""
        for image in self._images:
            image.close()


def check_all(
    checks: Sequence[VolumeCheck],
    walk: Walk,
    follow: Callable[[], None],
    primary_doubt: str,
    ranges_max: int,
) -> None:
    """Check the contents of all volumes. Raises as `Walk` does.

    `follow` reads on in the journal, which brings the stories up to date. `primary_doubt` says why
    primaries cannot be used, "" if they can. `ranges_max` is shared by all volumes.
    """
    for each in checks:
        each.open(ranges_max // len(checks))
    _by_journal(checks, walk)
    for each in checks:
        if each.contents is not None and not each.contents.stopped and not each.contents.unreadable:
            _by_primary(each, follow, primary_doubt)
    follow()
    for each in checks:
        each.finish()


def _by_journal(checks: Sequence[VolumeCheck], walk: Walk) -> None:
    contents = {each.story.volume.id: each.contents for each in checks if each.contents is not None}
    if contents:
        check_by_journal(walk, contents)
    for each in checks:
        if each.contents is not None and each.contents.unreadable:
            each.row.unchecked.append(each.contents.unreadable)


def _by_primary(check: VolumeCheck, follow: Callable[[], None], doubt: str) -> None:
    def at_cut() -> bool:
        follow()
        return check.at_cut

    contents = known(check.contents, "it is compared after the walk")
    doubt = doubt or check.story.primary_doubt
    primary = None if doubt else check.open_primary()
    if primary is not None:
        try:
            contents.compare(primary, at_cut)
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
