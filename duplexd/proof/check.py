"""`verify-cut`: does what lies on this machine agree with a certificate?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DamageError, NotFoundError
from duplexd.journal.format import MARKER, unpack_marker
from duplexd.limits import PROOF_RANGES_MAX, PROOF_TRIES
from duplexd.proof import past
from duplexd.proof.report import CONTRADICTED, DROPPED, FOUND, MemberReport, Report
from duplexd.proof.segments import RecycledError, journal_directory
from duplexd.proof.story import CHANGES, Story
from duplexd.proof.volumes import VolumeCheck, check_all
from duplexd.proof.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from duplexd.proof.document import CertifiedMember, Document


def check(document: Document, state_dirs: Mapping[str, str], images: Mapping[tuple[str, str], str]) -> Report:
    """Check all controllers whose state directory is here: where the certificate says, or where `state_dirs` (by controller) does.

    `images` (by controller and volume) are other places of secondaries: copies of them may be checked even after a resync.
    """
    report = Report(document.cut, document.group, document.verdict)
    if not document.intact:
        report.contradictions.append("the certificate was changed after it was written: its check-sum is not that of its content")
        return report
    if document.verdict != "consistent":
        report.void.append(f"the certificate itself says {document.verdict}")
    for member in document.members:
        ours = {volume: path for (name, volume), path in images.items() if name == member.name}
        report.controllers.append(_check_member(document, member, state_dirs.get(member.name, ""), ours))
    return report


def _check_member(document: Document, member: CertifiedMember, given: str, images: Mapping[str, str]) -> MemberReport:
    state_dir = given or member.directory
    void: list[str] = []
    for _ in range(PROOF_TRIES):
        report = MemberReport(member.name)
        try:
            directory = journal_directory(state_dir)
            report.journal = str(directory)
            _Member(document, member, directory, bool(given), images, report).check()
        except RecycledError:
            void = report.void or void
            continue
        except NotFoundError as error:
            report.unchecked.append(str(error))
        except DamageError as error:
            report.record = CONTRADICTED
            report.contradictions.append(str(error))
        except OSError as error:
            report.unchecked.append(f"{error.filename or report.journal}: {error.strerror}")
        return report
    report = MemberReport(member.name, void=void)
    report.unchecked.append(f"{state_dir}: the journal is used again faster than it can be read; try when there is less load")
    return report


class _Member:
    """One controller, while it is checked. `given`: its journal was named by hand, so the certificate's paths may be those of another machine."""

    def __init__(
        self, document: Document, member: CertifiedMember, directory: Path, given: bool, images: Mapping[str, str], report: MemberReport
    ) -> None:
        self.document = document
        self.given = given
        self.member = member
        self.images = images
        self.report = report
        self.past = past.read(directory)  # before the journal: that has at least as much then
        self.walk = Walk(directory)
        self.story = Story(document.cut, member.sequence, member.volumes, PROOF_RANGES_MAX)
        if self.past is not None:
            standing = [volume for volume, cut in self.past.standing.items() if cut == document.cut and volume in self.story.volumes]
            self.story.remember(self.past.sequence, standing)

    def check(self) -> None:
        if self.walk.controller != self.member.identity:
            self._another_journal(f"{self.report.journal}: the journal of another controller than the certificate's")
            return
        try:
            self._follow()
            self._check_end()
            if self._find_record():
                self._check_record()
                self._check_volumes()
                self._check_votes()  # last: the journal was read on meanwhile
        finally:
            self._check_void()  # whatever else is gone or can't be read

    def _contradict(self, text: str) -> None:
        self.report.contradictions.append(text)
        self.report.record = CONTRADICTED

    def _another_journal(self, text: str) -> None:
        if self.given:
            self._contradict(text)
        else:  # that of this machine: the certificate may speak of another's
            self.report.unchecked.append(f"{text}; if it is of another machine, say with --state-dir where it is here")

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
                    story.tell(record, unpack_marker(memoryview(buffer)[record.payload_start : record.end]))
                except (AssertionError, ValueError, KeyError, TypeError) as error:
                    raise DamageError(f"{self.walk.place}: marker {record.sequence} makes no sense ({error!r})") from error
        self.report.first_sequence, self.report.last_sequence = self.walk.first, self.walk.sequence

    def _check_end(self) -> None:
        """Whether the journal really ends where the walk did: what was known to be durable must not be missing."""
        walk, durable = self.walk, self.past.sequence if self.past is not None else 0
        later = walk.durable_beyond()
        known = max(durable, later[1] if later is not None else 0)
        if known > walk.sequence or (later is not None and self._same_boot()):
            raise DamageError(f"{walk.place}: record {walk.sequence + 1} is missing or damaged; records after it are there, or were")

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
            self._contradict(f"{walk.place}: the journal ends at record {walk.sequence}, before the cut ({sequence})")
            return False
        if walk.first > sequence:
            self.report.record = DROPPED
            self.report.unchecked.append(f"the journal reaches back to record {walk.first} only; the cut ({sequence}) was dropped")
            return False
        return True

    def _check_record(self) -> None:
        story, member, record = self.story, self.member, self.story.record
        assert record is not None
        where = f"record {member.sequence}"
        self.report.record = FOUND
        if member.crc is not None and record.crc != member.crc:
            self._contradict(f"{where} has check-sum {record.crc:08x}, the certificate {member.crc:08x}")
        if member.chain is not None and record.chain != member.chain:
            self._contradict(f"the record before {where} has check-sum {record.chain:08x}, the certificate {member.chain:08x}")
        if member.crc is None:
            self.report.unchecked.append("the certificate has no check-sum of the record")
        if not story.made_at:
            self._contradict(f"{where} does not make cut {self.document.cut}")
            return
        if story.marker.get("tag", "") != self.document.tag:
            self._contradict(f"{where} has the tag {story.marker.get('tag')!r}, the certificate {self.document.tag!r}")
        names = [volume.name for volume in member.volumes if not story.volumes[volume.id].standing]
        if names:
            self._contradict(f"{where} does not cut {', '.join(names)}")

    def _check_void(self) -> None:
        """By what is left of the journal, and by the checkpoint: a marker that was recycled before it was read is in the newest."""
        if self.story.void:
            self.report.void.append(self.story.void)
        elif any(known is not None and self.document.cut in known.void for known in (self.past, past.read(self.walk.directory))):
            self.report.void.append("the checkpoint says that the cut is void")

    def _check_votes(self) -> None:
        story, marker, names = self.story, self.story.marker, {member.name for member in self.document.members}
        self.report.ready, self.report.agreed = bool(story.ready_at), bool(story.agreed_at)
        if not story.made_at:
            return
        members = {str(name) for name in marker.get("members") or ()}
        if not members and len(names) > 1:
            self._contradict(f"record {story.made_at} cuts this controller alone, the certificate has {len(names)}")
        elif members and members != names:
            self._contradict(
                f"record {story.made_at} cuts {', '.join(sorted(members))} together, the certificate has {', '.join(sorted(names))}"
            )
        elif members and marker.get("group") != self.document.group:
            self._contradict(f"record {story.made_at} cuts group {marker.get('group')!r}, the certificate has {self.document.group!r}")
        if members and not story.ready_at and not story.void:
            self._contradict("the journal does not say that the secondaries ever stood at the cut")

    # ------------------------------------------------------------------------------------------------------ the volumes

    def _check_volumes(self) -> None:
        checks = [VolumeCheck(self.story.volumes[each.id], self.images.get(each.name, ""), not self.given) for each in self.member.volumes]
        self.report.volumes = [each.row for each in checks]
        try:
            check_all(checks, self.walk, self._follow, self._primary_doubt())
        finally:
            for each in checks:
                each.close()
        for each in checks:
            if each.wrong:
                self.report.contradictions.append(each.wrong)

    def _primary_doubt(self) -> str:
        """Why primaries may hold what the journal does not have, or lack what it has; "" if they can't."""
        if self.given:
            return "where the primary of a journal given with --state-dir is, nothing says"
        boot, closed = self._boot()
        if closed or (boot and boot == past.boot_id()):
            return ""
        return "the machine was started since the daemon ran, so the primary says nothing; start the daemon"
