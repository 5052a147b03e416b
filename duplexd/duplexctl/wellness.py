"""`duplexctl health`: a question with two answers, for scripts and for people who wake at night.

Status shows everything and leaves the judgement to its reader. This shows nothing but what is not
well, and exits with 1 if there is anything. A daemon that does not answer is not well either, and
has an exit code of its own: then nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.core.findings import NO_SERVICE_LOST
from duplexd.duplexctl.documents import document
from duplexd.duplexctl.options import common, targets
from duplexd.duplexctl.runner import run
from duplexd.errors import DuplexdError, error_of
from duplexd.printable import joined, printable

if TYPE_CHECKING:
    from duplexd.client.results import Wellness
    from duplexd.duplexctl.settings import Settings
    from duplexd.json_object import Json


@click.command(short_help="What is not well: exit code 1 if there is anything.")
@targets(required=False)
@click.option(
    "--service", is_flag=True, help="only what costs service now: errors, without warnings"
)
@common()
@click.pass_obj
def health(settings: Settings, targets: tuple[str, ...], service: bool) -> None:
    """What is not well, a line for each thing: exit code 1 if there is anything.

    An error costs service, a warning costs redundancy or a backup.
    """
    of_groups = settings.of_groups(targets)
    found = run(settings, lambda client: client.health(*targets), of_groups)
    if service:
        found = found.only("error", besides=NO_SERVICE_LOST)
    settings.answer(found.json(), text(found))
    if found.exit_codes:
        code = next(iter(found.exit_codes.values()))
        raise error_of({"exit_code": code, "detail": "; ".join(found.unreachable.values())})
    if not found.well:
        raise DuplexdError(_count(found.findings))


def text(found: Wellness) -> str:
    """A line for each finding, errors first."""
    lines = [_line(finding) for finding in found.findings]
    count = f"{found.volumes} volume{'' if found.volumes == 1 else 's'}"
    return joined(lines) if lines or found.unreachable else f"well: {count}"


def _line(finding: Json) -> str:
    where = finding["volume"] or f"controller {finding['controller']}"
    return printable(f"{finding['severity'].upper()}: {where}: {finding['text']}")


def _count(findings: list[Json]) -> str:
    errors = sum(finding["severity"] == "error" for finding in findings)
    counts = [(errors, "error"), (len(findings) - errors, "warning")]
    words = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    return f"not well: {', '.join(words)}; see {document('health.md')} for what each means"
