"""What the second reader says of the cut, where this machine has its journals and images.

The copies are compared with the exports by qemu-img, byte by byte. `verify-cut` says whether what
is exported is what the journal says the volumes were at the cut; so together they say it of the
copies. It needs the rights of the daemon's user. Where it cannot read, that is written into the
manifest and is no error: the daemon's verdict remains. A contradiction is one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from duplexd.backup.background import in_background
from duplexd.errors import DuplexdError, LeaseLostError
from duplexd.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.verify_cut.report import Report


async def outcome(certificate: Path, whole: bool) -> str:
    """`confirmed`, `recorded` or `unchecked`. Raises DuplexdError if it is refuted. If not `whole`,
    only what the journal says is checked: how long that takes has a limit, the journal's size.
    """
    return check(await in_background(partial(_report, str(certificate), whole)))


def _report(certificate: str, whole: bool) -> Report:
    from duplexd.verify_cut import document  # noqa: PLC0415 - `backups` lists without it
    from duplexd.verify_cut.check import check as verify  # noqa: PLC0415

    return verify(document.read(certificate), {}, {}, primaries=whole)


def check(report: Report) -> str:
    """The same of a report."""
    if report.is_void:
        void = [text for member in report.controllers for text in member.void]
        raise LeaseLostError(
            f"verify-cut: the cut is void: {printable('; '.join([*report.void, *void]))}"
        )
    if report.outcome == "refuted":
        wrong = [text for member in report.controllers for text in member.contradictions]
        raise DuplexdError(
            "verify-cut: what is on this machine contradicts the cut, so there is no backup:"
            f" {printable('; '.join([*report.contradictions, *wrong]))}; a resync copies what"
            " changed since the cut, not this: `duplexctl verify` finds where images differ"
        )
    return report.outcome
