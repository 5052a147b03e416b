"""`duplexctl verify-cut`: asks no daemon, only the journals and images on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import common, complete_file
from duplexd.errors import DuplexdError, LeaseLostError, UncheckedError, UsageError, WrongStateError
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.duplexctl.settings import Settings
    from duplexd.verify_cut.document import Document
    from duplexd.verify_cut.report import MemberReport, Report, VolumeReport


@click.command("verify-cut", short_help="Check a certificate against journals and images.")
@click.argument("file", metavar="FILE", shell_complete=complete_file)
@click.option(
    "--state-dir",
    "state_dirs",
    multiple=True,
    metavar="NAME=DIR",
    help="where the state directory of a controller is, or a copy of it",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="NAME:VOLUME=PATH",
    help="where the secondary of a volume is, or a copy of it",
)
@click.option(
    "--complete", is_flag=True, help="fail (5) if there is anything that could not be checked"
)
@common()
@click.pass_obj
def verify_cut(
    settings: Settings,
    file: str,
    state_dirs: tuple[str, ...],
    images: tuple[str, ...],
    complete: bool,
) -> None:
    """Check a certificate that suspend wrote against the journals and images on this machine.

    Daemons may run, or not.
    """
    from duplexd.verify_cut import document
    from duplexd.verify_cut.check import check

    found = document.read(file)
    report = check(found, _state_dirs(found, state_dirs), _images(found, images))
    settings.answer(report.json(), joined(_lines(report)))
    if report.is_void:
        raise LeaseLostError(
            "the cut is void: the secondaries are not a consistent point-in-time copy; resync, and"
            " suspend again"
        )
    if report.outcome == "refuted":
        raise DuplexdError(
            "what is on this machine contradicts the certificate; do not use these secondaries"
            " before you know why"
        )
    if report.undecided:
        raise WrongStateError(
            "it cannot be decided now: a daemon is still starting; try again when it serves"
        )
    if report.outcome == "unchecked":
        raise WrongStateError(
            "nothing could be checked: no journal that can be read on this machine has the cut;"
            " name its state directory with --state-dir"
        )
    if complete and not report.complete:
        raise WrongStateError("not everything could be checked; what could be agrees")
    if report.outcome == "recorded":
        raise UncheckedError(
            f"a journal has the cut as certified, but {_little(report)}: such images have left the"
            " cut, are not on this machine, or have changed too much; check earlier, or name copies"
            " of them with --image"
        )


def _state_dirs(document: Document, texts: tuple[str, ...]) -> dict[str, str]:
    names = {member.name for member in document.members}
    return dict(_assignments("--state-dir", texts, names))


def _images(document: Document, texts: tuple[str, ...]) -> dict[tuple[str, str], str]:
    volumes = {
        f"{member.name}:{volume.name}": (member.name, volume.name)
        for member in document.members
        for volume in member.volumes
    }
    return {volumes[name]: path for name, path in _assignments("--image", texts, set(volumes))}


def _assignments(option: str, texts: tuple[str, ...], names: set[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name = next((name for name in names if text.startswith(f"{name}=")), None)
        if name is None:
            known = printable(", ".join(sorted(names)))
            raise UsageError(
                f"{option} {text}: write NAME=PATH, with a NAME of the certificate: {known}"
            )
        yield name, text[len(name) + 1 :]


# ----------------------------------------------------------------------------------------- in words


def _lines(report: Report) -> Iterator[str]:
    group = f" of {report.group}" if report.group else ""
    outcome = (
        "VOID" if report.is_void else "REFUTED" if report.outcome == "refuted" else report.outcome
    )
    if outcome == "recorded":
        outcome = f"recorded as certified; {_little(report)}"
    yield f"cut {report.cut}{group}: {outcome}"
    yield from (f"  WRONG: {text}" for text in report.contradictions + report.void)
    for member in report.controllers:
        yield f"{member.name}: {_record(member)}"
        yield from (f"  WRONG: {text}" for text in member.contradictions + member.void)
        yield from (
            f"  not as at the cut, but a daemon is starting, or was ended while it did: {text}"
            for text in member.undecided
        )
        yield from (f"  not checked: {text}" for text in member.unchecked)
        for volume in member.volumes:
            yield f"  {volume.name}: {_volume(volume)}"
            yield from (f"    not checked: {text}" for text in volume.unchecked)


def _little(report: Report) -> str:
    """Of what too little was checked to confirm anything."""
    found = [member for member in report.controllers if member.record == "found"]
    volumes = [volume for member in found for volume in member.volumes]
    if not any(volume.checked_bytes for volume in volumes):
        return "of the images nothing was checked"
    short = [volume.name for volume in volumes if not volume.confirmed]
    return f"too little was checked of {printable(', '.join(short))}"


def _record(member: MemberReport) -> str:
    reach = (
        f"the journal has records {member.first_sequence} to {member.last_sequence}"
        if member.last_sequence
        else "no journal was read"
    )
    votes = "".join(
        f", {name}" for name, said in (("ready", member.ready), ("agreed", member.agreed)) if said
    )
    record = "as certified" if member.record == "found" else member.record
    return f"the cut's record is {record}; {reach}{votes}"


def _volume(volume: VolumeReport) -> str:
    wrong = f"; {format_size(volume.wrong_bytes)} WRONG" if volume.wrong_bytes else ""
    if volume.checked_bytes == 0:
        return (
            f"nothing of {format_size(volume.size)} is right{wrong}"
            if wrong
            else f"nothing of {format_size(volume.size)} checked"
        )
    by = (
        f"{format_size(volume.by_journal_bytes)} by the journal,"
        f" {format_size(volume.by_primary_bytes)} by the primary"
    )
    if volume.checked_bytes < volume.size // 2:
        checked = format_size(volume.checked_bytes)
    else:
        checked = (
            f"all but {format_size(volume.size - volume.checked_bytes)}"
            if volume.checked_bytes < volume.size
            else "all"
        )
    word = "right" if wrong else "checked"
    return f"{checked} of {format_size(volume.size)} {word}{_of_data(volume)} ({by}){wrong}"


def _of_data(volume: VolumeReport) -> str:
    """How much of what is in no hole; holes that agree say little."""
    if volume.checked_bytes + volume.wrong_bytes == volume.size:
        return ""
    data = f"{format_size(volume.checked_data_bytes)} of {format_size(volume.data_bytes)}"
    return f", of its data {data}"
