"""`verify-cut`: does what lies on this machine agree with a certificate?"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.errors import DamageError, NotFoundError
from duplexd.journal.format import MARKER, unpack_marker
from duplexd.limits import PROOF_RANGES_MAX, PROOF_START_SECONDS_MAX, PROOF_TRIES
from duplexd.verify_cut import past
from duplexd.verify_cut.report import CONTRADICTED, DROPPED, FOUND, MemberReport, Report
from duplexd.verify_cut.segments import RecycledError, journal_directory
from duplexd.verify_cut.story import CHANGES, Story
from duplexd.verify_cut.volumes import VolumeCheck, check_all
from duplexd.verify_cut.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from duplexd.verify_cut.document import CertifiedMember, Document


def check(
    document: Document, state_dirs: Mapping[str, str], images: Mapping[tuple[str, str], str]
) -> Report:
    """Check all controllers whose state directory is here: where the certificate says, or where `state_dirs` (by controller) does.

    `images` (by controller and volume) are other places of secondaries: copies of them may be checked even after a resync.
    """
    report = Report(document.cut, document.group, document.verdict)
    if not document.intact:
        report.contradictions.append(
            "the certificate was changed after it was written: its check-sum is not that of its content"
        )
        return report
    if document.verdict != "consistent":
        report.void.append(f"the certificate itself says {document.verdict}")
    for member in document.members:
        ours = {volume: path for (name, volume), path in images.items() if name == member.name}
        report.controllers.append(
            _check_member(document, member, state_dirs.get(member.name, ""), ours)
        )
    return report


def _check_member(
    document: Document, member: CertifiedMember, given: str, images: Mapping[str, str]
) -> MemberReport:
    """Again, if the daemon was started meanwhile or used the journal again, and once it has started if that makes a difference."""
    deadline = time.monotonic() + PROOF_START_SECONDS_MAX
    checked = _Member(document, member, given, images)
    for _ in range(PROOF_TRIES):
        with suppress(RecycledError):
            checked.check(deadline)
            if not checked.moved:
                return checked.report
        checked = _Member(document, member, given, images, checked.report.void)
    with suppress(RecycledError):
        checked.check(0.0, trusting=False)
        return checked.report
    report = MemberReport(member.name, void=checked.report.void)
    report.unchecked.append(
        f"{checked.state_dir}: the journal is used again faster than it can be read; try when there is less load"
    )
    return report


class _Member:
    """One controller, while it is checked. `given`: where its journal was said to be by hand, so the certificate's paths may be those of another
    machine. `void` is what was found before. Afterwards `moved` says that a daemon was started meanwhile, and that this matters.
    """

    def __init__(
        self,
        document: Document,
        member: CertifiedMember,
        given: str,
        images: Mapping[str, str],
        void: Sequence[str] = (),
    ) -> None:
        self.document = document
        self.given = bool(given)
        self.state_dir = given or member.directory
        self.member = member
        self.images = images
        self.report = MemberReport(member.name, void=list(void))
        self.moved = False
        self.story = Story(document.cut, member.sequence, member.volumes, PROOF_RANGES_MAX)
        self.past: past.Past | None = None
        self.directory: Path
        self.walk: Walk
        self._trusting = (
            True  # nobody writes to images, or has left off half-way, what they hold already
        )

    def check(self, deadline: float, trusting: bool = True) -> None:
        """All of it, into `report`; waits until the deadline for a daemon that is starting. Raises RecycledError: nothing counts but `void`.

        Without `trusting`, what a starting daemon may be changing is left undecided.
        """
        report = self.report
        try:
            self.directory = journal_directory(self.state_dir)
            report.journal = str(self.directory)
            self._check(deadline, trusting)
        except NotFoundError as error:
            report.unchecked.append(str(error))
        except DamageError as error:
            report.record = CONTRADICTED
            report.contradictions.append(str(error))
        except OSError as error:
            report.unchecked.append(f"{error.filename or report.journal}: {error.strerror}")

    def _check(self, deadline: float, trusting: bool) -> None:
        self.past = past.read(self.directory)  # before the journal: that has at least as much then
        replayed = any(
            self._replays_from(volume.id) < self.member.sequence for volume in self.member.volumes
        )
        start = past.await_start(self.directory, deadline) if replayed else None
        self._trusting = start is None or (start.over and trusting)
        if self.past is not None:
            standing = [
                volume
                for volume, cut in self.past.standing.items()
                if cut == self.document.cut and volume in self.story.volumes
            ]
            self.story.remember(self.past.sequence, standing)
        try:
            self._check_journal()
        finally:
            self._check_void()  # whatever else is gone or can't be read
            self.moved = (
                start is not None and self._trusting and past.latest_start(self.directory) != start
            )

    def _check_journal(self) -> None:
        self.walk = Walk(self.directory)
        if self.walk.controller != self.member.identity:
            self._another_journal(
                f"{self.report.journal}: the journal of another controller than the certificate's"
            )
            return
        self._follow()
        self._check_end()
        if self._find_record():
            self._check_record()
            self._check_volumes()
            self._check_votes()  # last: the journal was read on meanwhile

    def _replays_from(self, volume: int) -> int:
        return self.past.replays_from(volume) if self.past is not None else 0

    def _contradict(self, text: str) -> None:
        self.report.contradictions.append(text)
        self.report.record = CONTRADICTED

    def _another_journal(self, text: str) -> None:
        if self.given:
            self._contradict(text)
        else:  # that of this machine: the certificate may speak of another's
            self.report.unchecked.append(
                f"{text}; if it is of another machine, say with --state-dir where it is here"
            )

    # ------------------------------------------------------------------------------------------------------- the journal

    def _follow(self) -> None:
        """Read the journal up to its present end."""
        story = self.story
        for buffer, record in self.walk.records():
            if record.sequence == story.sequence:
                story.record = record
            if record.kind in CHANGES:
                story.change(record)
            elif record.kind == MARKER:
                try:
                    story.tell(
                        record, unpack_marker(memoryview(buffer)[record.payload_start : record.end])
                    )
                except (AssertionError, ValueError, KeyError, TypeError) as error:
                    raise DamageError(
                        f"{self.walk.place}: marker {record.sequence} makes no sense ({error!r})"
                    ) from error
        self.report.first_sequence, self.report.last_sequence = self.walk.first, self.walk.sequence

    def _check_end(self) -> None:
        """Whether the journal really ends where the walk did: what was known to be durable must not be missing."""
        walk, durable = self.walk, self.past.sequence if self.past is not None else 0
        later = walk.durable_beyond()
        known = max(durable, later[1] if later is not None else 0)
        if known > walk.sequence or (later is not None and self._same_boot()):
            raise DamageError(
                f"{walk.place}: record {walk.sequence + 1} is missing or damaged; records after it are there, or were"
            )

    def _same_boot(self) -> bool:
        return self._boot()[0] == past.boot_id() != ""

    def _boot(self) -> tuple[str, bool]:
        """Of the daemon that wrote last: on which boot it ran, and whether it stopped in order."""
        if self.story.boot is not None:
            return self.story.boot, self.story.closed
        if self.past is not None:
            return self.past.boot, self.past.closed or self.story.closed
        return "", self.story.closed

    def _find_record(self) -> bool:
        sequence, walk = self.member.sequence, self.walk
        if walk.sequence < sequence:
            self._contradict(
                f"{walk.place}: the journal ends at record {walk.sequence}, before the cut ({sequence})"
            )
            return False
        if walk.first > sequence:
            self.report.record = DROPPED
            self.report.unchecked.append(
                f"the journal reaches back to record {walk.first} only; the cut ({sequence}) was dropped"
            )
            return False
        return True

    def _check_record(self) -> None:
        story, member, record = self.story, self.member, self.story.record
        assert record is not None
        where = f"record {member.sequence}"
        self.report.record = FOUND
        if member.crc is not None and record.crc != member.crc:
            self._contradict(
                f"{where} has check-sum {record.crc:08x}, the certificate {member.crc:08x}"
            )
        if member.chain is not None and record.chain != member.chain:
            self._contradict(
                f"the record before {where} has check-sum {record.chain:08x}, the certificate {member.chain:08x}"
            )
        if member.crc is None:
            self.report.unchecked.append("the certificate has no check-sum of the record")
        if not story.made_at:
            self._contradict(f"{where} does not make cut {self.document.cut}")
            return
        if story.marker.get("tag", "") != self.document.tag:
            self._contradict(
                f"{where} has the tag {story.marker.get('tag')!r}, the certificate {self.document.tag!r}"
            )
        names = [volume.name for volume in member.volumes if not story.volumes[volume.id].standing]
        if names:
            self._contradict(f"{where} does not cut {', '.join(names)}")

    def _check_void(self) -> None:
        """By what is left of the journal, and by the checkpoint: a marker that was recycled before it was read is in the newest."""
        if self.story.void:
            self.report.void = [self.story.void]
        elif any(
            known is not None and self._void_by(known)
            for known in (self.past, past.read(self.directory))
        ):
            self.report.void = ["the checkpoint says that the cut is void"]

    def _void_by(self, known: past.Past) -> bool:
        return known.controller == self.member.identity.hex() and self.document.cut in known.void

    def _check_votes(self) -> None:
        story, marker, names = (
            self.story,
            self.story.marker,
            {member.name for member in self.document.members},
        )
        self.report.ready, self.report.agreed = bool(story.ready_at), bool(story.agreed_at)
        if not story.made_at:
            return
        members = {str(name) for name in marker.get("members") or ()}
        if not members and len(names) > 1:
            self._contradict(
                f"record {story.made_at} cuts this controller alone, the certificate has {len(names)}"
            )
        elif members and members != names:
            self._contradict(
                f"record {story.made_at} cuts {', '.join(sorted(members))} together, the certificate has {', '.join(sorted(names))}"
            )
        elif members and marker.get("group") != self.document.group:
            self._contradict(
                f"record {story.made_at} cuts group {marker.get('group')!r}, the certificate has {self.document.group!r}"
            )
        if members and not story.ready_at and not story.void:
            self._contradict("the journal does not say that the secondaries ever stood at the cut")

    # ------------------------------------------------------------------------------------------------------ the volumes

    def _check_volumes(self) -> None:
        trusting = self.story.arrived or (self._trusting and not self._booted_since())
        checks = [
            VolumeCheck(
                self.story.volumes[each.id],
                self.images.get(each.name, ""),
                not self.given,
                None if trusting else self._replays_from(each.id),
            )
            for each in self.member.volumes
        ]
        self.report.volumes = [each.row for each in checks]
        try:
            check_all(checks, self.walk, self._follow, self._primary_doubt())
        finally:
            for each in checks:
                each.close()
        for each in checks:
            self.report.contradictions += each.wrong
            self.report.undecided += each.undecided

    def _booted_since(self) -> bool:
        """Whether the machine was, since a daemon ran that did not stop in order: the next one has to bring the images to what the journal says."""
        boot, closed = self._boot()
        return not closed and (not boot or boot != past.boot_id())

    def _primary_doubt(self) -> str:
        """Why primaries may hold what the journal does not have, or lack what it has; "" if they can't."""
        if self.given:
            return "where the primary of a journal given with --state-dir is, nothing says"
        if not self._trusting:
            return "a daemon was starting, or was ended while it did: what it writes to the primary is not there for certain; try again when it serves"
        boot, closed = self._boot()
        if closed or (boot and boot == past.boot_id()):
            return ""
        return "the machine was started since the daemon ran, so the primary says nothing; start the daemon"
