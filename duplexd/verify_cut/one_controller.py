"""One controller of a certificate: its journal, the votes in it, then its images.

The order matters. The checkpoint is read before the journal, so that the journal holds at least
what the checkpoint knows; the lock before the images, so that a start of the daemon meanwhile is
noticed; the votes last, since the journal is read on while images are compared. A void cut is
looked for whatever else fails: that the cut is void needs no intact journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DamageError, NotFoundError
from duplexd.journal.format import MARKER, Record, unpack_marker
from duplexd.known import known
from duplexd.verify_cut import past
from duplexd.verify_cut.report import CONTRADICTED, DROPPED, FOUND, MemberReport
from duplexd.verify_cut.segments import journal_directory
from duplexd.verify_cut.story import CHANGES, Story
from duplexd.verify_cut.volume_check import VolumeCheck, check_all
from duplexd.verify_cut.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from duplexd.limits import ProofLimits
    from duplexd.verify_cut.document import CertifiedMember, Document


class ControllerCheck:
    """One attempt to check one controller, into `report`.

    `given` is a journal named by hand; then the paths in the certificate may be those of another
    machine. `void` is what an earlier attempt found. Afterwards `moved` says that a daemon was
    started meanwhile and that this matters, so that nothing in the report counts but `void`.
    """

    def __init__(
        self,
        document: Document,
        member: CertifiedMember,
        given: str,
        images: Mapping[str, str],
        limits: ProofLimits,
        void: Sequence[str],
        primaries: bool = True,
    ) -> None:
        self.document = document
        self.given = bool(given)
        self.state_dir = given or member.directory
        self.member = member
        self.images = images
        self.limits = limits
        self.primaries = primaries
        self.report = MemberReport(member.name, void=list(void))
        self.moved = False
        self.story = Story(document.cut, member.sequence, member.volumes, limits.ranges_max)
        self.past: past.Past | None = None
        self.directory: Path
        self.walk: Walk
        # No daemon writes to the images, or was killed half-way through that, what they hold
        # already.
        self._trusting = True

    def check(self, deadline: float, trusting: bool = True) -> None:
        """Wait until the deadline for a daemon that is starting, then check all.

        Without `trusting`, what a starting daemon may be changing is left undecided. Raises
        RecycledError: then nothing in the report counts but `void`.
        """
        report = self.report
        try:
            self.directory = journal_directory(self.state_dir)
            report.journal = str(self.directory)
            self._check(deadline, trusting)
        except NotFoundError as error:
            report.unchecked.append(str(error))
        except DamageError as error:
            self._contradict(str(error))
        except OSError as error:
            report.unchecked.append(f"{error.filename or report.journal}: {error.strerror}")

    def _check(self, deadline: float, trusting: bool) -> None:
        self.past = past.read(self.directory)
        replayed = any(
            self._replays_from(volume.id) < self.member.sequence for volume in self.member.volumes
        )
        start = past.await_start(self.directory, deadline) if replayed else None
        self._trusting = start is None or (start.over and trusting)
        if self.past is not None:
            at_cut = [
                volume
                for volume, cut in self.past.at_cut.items()
                if cut == self.document.cut and volume in self.story.volumes
            ]
            promised = self.document.cut in self.past.promised
            self.story.remember(self.past.sequence, at_cut, promised)
            self.story.grew(self.past.sizes)
        try:
            self._check_journal()
        finally:
            self._check_void()
            self.moved = (
                start is not None and self._trusting and past.latest_start(self.directory) != start
            )

    def _check_journal(self) -> None:
        self.walk = Walk(self.directory, self.limits.tries)
        if self.walk.controller != self.member.identity:
            self._another_journal(
                f"{self.report.journal}: this is the journal of another controller "
                "than the one in the certificate"
            )
            return
        self._follow()
        self._check_end()
        if self._find_record():
            self._check_record()
            self._check_volumes()
            self._check_votes()

    def _replays_from(self, volume: int) -> int:
        return self.past.replays_from(volume) if self.past is not None else 0

    def _contradict(self, text: str) -> None:
        self.report.contradictions.append(text)
        self.report.record = CONTRADICTED

    def _another_journal(self, text: str) -> None:
        if self.given:
            self._contradict(text)
        else:  # the path leads to a journal of this machine; the certificate may be from another
            self.report.unchecked.append(
                f"{text}; if the certificate is from another machine, "
                "give its state directory here with --state-dir"
            )

    # The journal

    def _follow(self) -> None:
        """Read the journal up to its present end."""
        for buffer, record in self.walk.records():
            if record.sequence == self.story.sequence:
                self.story.record = record
            if record.kind in CHANGES:
                self.story.change(record)
            elif record.kind == MARKER:
                self._marker(record, memoryview(buffer)[record.payload_start : record.end])
        self.report.first_sequence, self.report.last_sequence = self.walk.first, self.walk.sequence

    def _marker(self, record: Record, payload: memoryview) -> None:
        try:
            self.story.marked(record.sequence, unpack_marker(payload))
        except (ValueError, KeyError, TypeError) as error:
            raise DamageError(
                f"{self.walk.place}: marker {record.sequence} cannot be decoded ({error!r})"
            ) from error

    def _check_end(self) -> None:
        """Raise DamageError if records are missing at the end that were known to be durable."""
        walk, durable = self.walk, self.past.sequence if self.past is not None else 0
        later = walk.durable_beyond()
        known = max(durable, later[1] if later is not None else 0)
        if known > walk.sequence:
            raise DamageError(
                f"{walk.place}: record {walk.sequence + 1} is missing or damaged, "
                "although it was durable"
            )

    def _find_record(self) -> bool:
        sequence, walk = self.member.sequence, self.walk
        if walk.sequence < sequence:
            self._contradict(
                f"{walk.place}: the journal ends at record {walk.sequence}, "
                f"before the cut ({sequence})"
            )
            return False
        if walk.first > sequence:
            self.report.record = DROPPED
            self.report.unchecked.append(
                f"the journal reaches back to record {walk.first} only; "
                f"the record of the cut ({sequence}) was dropped"
            )
            return False
        return True

    def _check_record(self) -> None:
        story, member = self.story, self.member
        record = known(story.record, "the walk has found it")
        self.report.record = FOUND
        where = f"record {member.sequence}"
        if member.crc is None:
            self.report.unchecked.append("the certificate has no check-sum of the record")
        elif record.crc != member.crc:
            self._contradict(
                f"{where} has check-sum {record.crc:08x}, the certificate says {member.crc:08x}"
            )
        if member.chain is not None and record.chain != member.chain:
            self._contradict(
                f"the record before {where} has check-sum {record.chain:08x}, "
                f"the certificate says {member.chain:08x}"
            )
        if not story.made_at:
            self._contradict(f"{where} does not make cut {self.document.cut}")
            return
        tag = story.marker.get("tag", "")
        if tag != self.document.tag:
            self._contradict(
                f"{where} has the tag {tag!r}, the certificate says {self.document.tag!r}"
            )
        names = [volume.name for volume in member.volumes if not story.volumes[volume.id].place]
        if names:
            self._contradict(f"{where} does not cut {', '.join(names)}")

    def _check_void(self) -> None:
        """Look for a void marker in the journal, and in the checkpoint if it was recycled since.

        The checkpoint is read again: a marker recycled before it was read is in the newest one.
        """
        checkpoints = self.past, past.read(self.directory)
        if self.story.void:
            self.report.void = [self.story.void]
        elif any(known is not None and self._void_by(known) for known in checkpoints):
            self.report.void = ["the checkpoint says that the cut is void"]

    def _void_by(self, known: past.Past) -> bool:
        return known.controller == self.member.identity.hex() and self.document.cut in known.void

    def _check_votes(self) -> None:
        story, marker = self.story, self.story.marker
        names = {member.name for member in self.document.members}
        self.report.ready, self.report.agreed = bool(story.ready_at), bool(story.agreed_at)
        if not story.made_at:
            return
        where = f"record {story.made_at}"
        members = {str(name) for name in marker.get("members") or ()}
        if not members and len(names) > 1:
            self._contradict(
                f"{where} cuts this controller alone, the certificate has {len(names)}"
            )
        elif members and members != names:
            self._contradict(
                f"{where} cuts {', '.join(sorted(members))} together, "
                f"the certificate has {', '.join(sorted(names))}"
            )
        elif members and marker.get("group") != self.document.group:
            self._contradict(
                f"{where} cuts group {marker.get('group')!r}, "
                f"the certificate has {self.document.group!r}"
            )
        if members and not story.ready_at and not story.void:
            self._contradict(
                "the journal has no READY marker for the cut: "
                "it does not say that the secondaries reached it"
            )

    # The volumes

    def _check_volumes(self) -> None:
        trusting = self.story.arrived or (self._trusting and not self._left_behind())
        checks = [
            VolumeCheck(
                self.story.volumes[each.id],
                self.images.get(each.name, ""),
                not self.given,
                None if trusting else self._replays_from(each.id),
                self.limits,
            )
            for each in self.member.volumes
        ]
        self.report.volumes = [each.row for each in checks]
        try:
            check_all(
                checks,
                self.walk,
                self._follow,
                self._primary_doubt(),
                self.limits.ranges_max,
            )
        finally:
            for each in checks:
                each.close()
        for each in checks:
            self.report.contradictions += each.wrong
            self.report.undecided += each.undecided

    def _left_behind(self) -> bool:
        """Whether the last daemon is gone without a clean shutdown.

        Then the next one still has to bring the images to what the journal says: a disk may have
        lost what was not synced, with or without a boot of the machine.
        """
        before = not self.story.opened and self.past is not None and self.past.closed
        closed = self.story.closed or before
        return not closed and not past.is_running(self.directory)

    def _primary_doubt(self) -> str:
        """Why a primary may not match the journal; "" if it must."""
        if not self.primaries:
            return "it was to be checked by the journal alone"
        if self.given:
            return "the location of the primary is not known for a journal given with --state-dir"
        if not self._trusting:
            return (
                "a daemon was starting, or was killed while it did, so the primary may be "
                "half-way; "
                "try again when it serves"
            )
        if self._left_behind():
            return (
                "the daemon was not shut down cleanly, so the primary may differ; start the daemon"
            )
        return ""
