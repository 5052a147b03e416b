"""`verify-cut`: do the journals and images on this machine agree with a certificate?

The journal is a ring, and its daemon may recycle a segment, or be restarted, while it is read. A
check that met that is discarded and repeated, a few times; a daemon that is starting is waited
for. What is still in doubt then is reported as undecided: a false contradiction would be as bad as
a missed one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.limits import ProofLimits
from duplexd.verify_cut.one_controller import ControllerCheck
from duplexd.verify_cut.report import MemberReport, Report
from duplexd.verify_cut.segments import RecycledError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.verify_cut.document import CertifiedMember, Document

_LIMITS = ProofLimits()


def check(
    document: Document,
    state_dirs: Mapping[str, str],
    images: Mapping[tuple[str, str], str],
    limits: ProofLimits = _LIMITS,
    primaries: bool = True,
) -> Report:
    """Check every controller of a certificate whose state directory is on this machine.

    The directory is the one in the certificate, or that in `state_dirs` (by controller). `images`
    (by controller and volume) are other paths of secondaries: a copy may be checked even after a
    resync. Without `primaries`, secondaries are checked by the journal alone, which reads of them
    what the journal has changes of.
    """
    report = Report(document.cut, document.group, document.verdict)
    if not document.intact:
        report.contradictions.append(
            "the certificate was changed after it was written: "
            "its check-sum does not match its content"
        )
        return report
    if document.verdict != "consistent":
        report.void.append(f"the verdict in the certificate is {document.verdict}")
    for member in document.members:
        ours = {volume: path for (name, volume), path in images.items() if name == member.name}
        given = state_dirs.get(member.name, "")
        report.controllers.append(_check_member(document, member, given, ours, limits, primaries))
    return report


def _check_member(
    document: Document,
    member: CertifiedMember,
    given: str,
    images: Mapping[str, str],
    limits: ProofLimits,
    primaries: bool,
) -> MemberReport:
    """Check again if a daemon recycled a segment or started meanwhile, if that matters.

    What was found void stays void: no later check can make it consistent.
    """
    deadline = time.monotonic() + limits.start_seconds_max
    void: list[str] = []
    for _ in range(limits.tries):
        checked = ControllerCheck(document, member, given, images, limits, void, primaries)
        with suppress(RecycledError):
            checked.check(deadline)
            if not checked.moved:
                return checked.report
        void = checked.report.void
    checked = ControllerCheck(document, member, given, images, limits, void, primaries)
    with suppress(RecycledError):
        checked.check(0.0, trusting=False)
        return checked.report
    report = MemberReport(member.name, void=checked.report.void)
    report.unchecked.append(
        f"{checked.state_dir}: the journal is recycled faster than it can be read; "
        "try again when there is less load"
    )
    return report
