"""The commands that look: status, events, cuts, verify."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import texts, views
from duplexd.duplexctl.columns import output_option, rows_text
from duplexd.duplexctl.documents import document
from duplexd.duplexctl.options import Seconds, common, targets
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.settings import Settings, StoppedError
from duplexd.errors import (
    DuplexdError,
    NotFoundError,
    UncheckedError,
    UnreachableError,
    UsageError,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from duplexd.client import Client
    from duplexd.json_object import Json


@click.command()
@targets(required=False)
@click.option("--watch", is_flag=True, help="show it again and again, until interrupted")
@click.option("--interval", type=Seconds(0.1), default=1.0, metavar="SECONDS", help="with --watch")
@click.option("--all", "whole", is_flag=True, help="all volumes, also if they exceed the screen")
@click.option("--details", is_flag=True, help="also paths, modes, ages, and since when errors are")
@output_option
@common()
@click.pass_obj
def status(
    settings: Settings,
    targets: tuple[str, ...],
    watch: bool,
    interval: float,
    whole: bool,
    details: bool,
    columns: str | None,
) -> None:
    """State of the volumes, groups and holds."""
    of_groups = settings.of_groups(targets)

    def ask() -> Json:
        return run(settings, lambda client: client.status(*targets), of_groups).json()

    if watch and columns:
        raise UsageError("--output is for one answer, --watch for many; leave one of them out")
    if watch:
        _watch(settings, ask, interval, whole, of_groups)
    found = ask()
    chosen = rows_text(found["volumes"], columns) if columns else ""
    with settings.answering():
        if settings.json or settings.quiet or columns:
            settings.show(found, chosen)
        else:
            lines = None if whole else views.screen_lines()
            width = views.screen_columns()
            views.show(views.StatusView(found, lines, of_groups, width, details))
    _check(found)


def _watch(
    settings: Settings, ask: Callable[[], Json], interval_s: float, whole: bool, of_groups: bool
) -> NoReturn:
    from duplexd.duplexctl.watch import watch_status

    settings.wrote = True  # it ends with an interrupt, which is not a problem

    def ask_again() -> Json:
        found = ask()
        settings.interrupts.end()  # until it asks again they end it at once
        if settings.interrupts.came:
            raise StoppedError(settings.interrupts.came[0])
        return found

    watch_status(ask_again, interval_s, settings.json, whole, of_groups)


def _check(found: Json) -> None:
    """Raises what the status shows of controllers, and of members of groups, that are not there."""
    if codes := found["exit_codes"]:
        silent = UnreachableError.exit_code
        code = silent if silent in codes.values() else next(iter(codes.values()))
        raise error_of({"exit_code": code, "detail": "; ".join(found["unreachable"].values())})
    if missing := [
        f"{member} (of {group['name']})" for group in found["groups"] for member in group["missing"]
    ]:
        raise NotFoundError(
            f"{', '.join(missing)}: no such volume or group there; correct the groups file"
        )


@click.command(short_help="The present state of one daemon; --follow: every change.")
@click.option("--follow", is_flag=True, help="go on with changes as they happen, until interrupted")
@common()
@click.pass_obj
def events(settings: Settings, follow: bool) -> None:
    """The present state of one daemon; with --follow, then every change of state."""

    async def show(client: Client) -> None:
        async with aclosing(client.events(follow=follow)) as lines:
            async for line in lines:
                first = line["event"] == "state"
                head = views.head_line(line["status"]) if first else ""
                settings.show(line, texts.event_text(line, head))

    run(settings, show, of_groups=False)
    if follow:
        raise DuplexdError(
            "the daemon ended the stream of events: it stopped, or this reader was too slow;"
            " run the command again"
        )


@click.command(short_help="The cuts that are kept, with their verdicts.")
@targets(required=False)
@output_option
@common()
@click.pass_obj
def cuts(settings: Settings, targets: tuple[str, ...], columns: str | None) -> None:
    """The cuts that are kept, with their verdicts; with targets, those of any of them."""
    of_groups = settings.of_groups(targets)
    found = run(settings, lambda client: client.cuts(*targets), of_groups)
    shown = found.json()
    settings.answer(shown, rows_text(shown["cuts"], columns) if columns else texts.cuts_text(found))
    if found.unreachable:
        raise UnreachableError("; ".join(found.unreachable.values()))


@click.command()
@targets()
@common()
@click.pass_obj
def verify(settings: Settings, targets: tuple[str, ...]) -> None:
    """Compare the legs: exit code 1 if any differ.

    10 if nothing of a volume was compared: all of it may have changed since its cut.
    """
    from duplexd.duplexctl.watch import progress_bars

    of_groups = settings.of_groups(targets)
    with progress_bars() as bars:

        def show(_controller: str, line: Json) -> None:
            bars(line["name"], line["done_bytes"], line["total_bytes"])

        result = run(settings, lambda client: client.verify(*targets, progress=show), of_groups)
    settings.answer(result.json(), texts.verified_text(result.volumes))
    if any(row.get("why") for row in result.volumes):
        raise DuplexdError(
            "an image cannot be read, or is not the one that the daemon has open; see"
            f" {document('operations.md')}, 'When something fails', for the repair"
        )
    if result.equal is False:
        raise DuplexdError(
            "primary and secondary differ; find out which image is right, then `duplexctl repair`:"
            f" see {document('operations.md')}, 'Legs that differ'"
        )
    if left := [row["name"] for row in result.volumes if row["equal"] is None]:
        raise UncheckedError(
            f"nothing was compared of {' '.join(left)}: all of it may have changed since the cut;"
            " `duplexctl verify-cut` may know the cut from the journal; else resync, then verify"
        )
