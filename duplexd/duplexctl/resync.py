"""`duplexctl resync`, and `settle`, which decides cuts that a resync would otherwise give up."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import texts
from duplexd.duplexctl.at_option import Point
from duplexd.duplexctl.options import Name, common, targets
from duplexd.duplexctl.output import complain, put
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.suspend import cut_at
from duplexd.duplexctl.watch import progress_bars
from duplexd.errors import DuplexdError, UnreachableError, UsageError, WrongStateError
from duplexd.printable import joined, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.client import Resynced
    from duplexd.core.past_point import PastPoint
    from duplexd.duplexctl.settings import Settings
    from duplexd.duplexctl.watch import Show
    from duplexd.json_object import Json

_BARS_MAX = 20
_ERRORS_MAX = 5


@click.command()
@targets()
@click.option(
    "--wait",
    is_flag=True,
    help="return when all are DUPLEX; exit code 1 if one failed or has legs that differ",
)
@click.option(
    "--cut",
    type=Name(),
    metavar="ID",
    default="",
    help="only if all targets are at this cut, on all controllers; else exit code 5",
)
@click.option(
    "--reader",
    type=Name(),
    metavar="NAME",
    default="",
    help="end this reader of the cut, and resync if it was the last one",
)
@click.option("--force", is_flag=True, help="end all readers of the cut first, and resync")
@click.option(
    "--until",
    type=Point(),
    metavar="POINT",
    help="only up to this time (14:01:50), number or mark:ID, and be at a new cut there",
)
@click.option("--tag", default="", help="text to keep with the cut of --until")
@common()
@click.pass_obj
def resync(
    settings: Settings,
    targets: tuple[str, ...],
    wait: bool,
    cut: str,
    reader: str,
    force: bool,
    until: PastPoint | None,
    tag: str,
) -> None:
    """Bring suspended secondaries back: copies only what changed.

    Volumes for which that is not possible are left out: exit code 5, and stderr says why. While
    somebody reads one of the cuts, nothing is started at all. With --until, they go on to a later
    point and are suspended there: the answer is that of a suspend.
    """
    of_groups = settings.of_groups(targets)
    if tag and until is None:
        raise UsageError("--tag is for the cut of --until POINT; leave it out")
    if until is not None:
        if wait or cut or reader or force:
            raise UsageError(
                "--until waits itself, and is refused while the cut has readers;"
                " leave --wait, --cut, --reader and --force out"
            )
        cut_at(settings, targets, tag, until)
        return
    with progress_bars() as bars:

        def show(controller: str, line: Json) -> None:
            _show_line(settings, controller, line, bars)

        settings.done = "the resync has begun"
        result = run(
            settings,
            lambda client: client.resync(
                *targets, wait=wait, cut=cut, reader=reader, force=force, progress=show
            ),
            of_groups,
        )
    for warning in result.warnings:
        complain(f"warning: {warning}")
    if result.readers:
        text = f"reader {printable(reader)} has ended; {texts.read_still_text(result)}"
        settings.answer({"event": "done", **result.json()} if wait else result.json(), text)
    elif wait:
        settings.answer(
            {"event": "done", **result.json()},
            texts.resynced_text(result.volumes),
            done="all that was to be resynced was",
        )
    else:
        text = texts.resync_text(result.volumes)
        settings.answer(result.json(), text, done="the resync has begun")
    _check(result)


def _show_line(settings: Settings, controller: str, line: Json, bars: Show) -> None:
    """A line of progress. The last line is the answer, which is about all controllers."""
    if line["event"] == "done":
        return
    if settings.json:
        put(json.dumps({**line, "controller": controller}))
        settings.wrote = True
    elif settings.quiet:
        return
    elif line["event"] == "started":
        put(texts.resync_text(line["volumes"]))
    else:
        running = [row for row in line["volumes"] if row["total_bytes"]]
        for row in running[:_BARS_MAX]:
            bars(row["name"], row["done_bytes"], row["total_bytes"])
        if running and not sys.stderr.isatty():
            sums = {key: sum(row[key] for row in running) for key in ("done_bytes", "total_bytes")}
            count = texts.volumes_text(len(running))
            put(f"copying {count}: {texts.copy_text(sums)}")


def _check(result: Resynced) -> None:
    """Raises WrongStateError for volumes that were left out, DuplexdError if a resync that was
    waited for failed, or the legs of a pair differ where no resync copies.
    """
    failed = [row for row in result.volumes if _is_away(row)] if result.waited else []
    refused = _refused(result.refused) if result.refused else ""
    differing = [row for row in result.volumes if result.waited and row.get("differs")]
    if failed or differing:
        texts = (_failed(failed) if failed else "", _differing(differing), refused)
        raise DuplexdError("; ".join(filter(None, texts)))
    if refused:
        raise WrongStateError(refused)


def _is_away(row: Json) -> bool:
    return row["state"] != "DUPLEX" and row.get("how") != "read"


def _refused(rows: Sequence[Json]) -> str:
    names = " ".join(row["name"] for row in rows)
    errors = list(dict.fromkeys(row.get("error") or "no reason was given" for row in rows))
    more = f" (and {len(errors) - _ERRORS_MAX} more)" if len(errors) > _ERRORS_MAX else ""
    return printable(f"not started for {names}: {'; '.join(errors[:_ERRORS_MAX])}{more}")


def _differing(rows: Sequence[Json]) -> str:
    listed = "; ".join(
        f"{row['name']}: {row['differs']}, and the resync has not changed that: run"
        f" `duplexctl repair {row['name']}` with --from primary or secondary"
        for row in rows[:_ERRORS_MAX]
    )
    more = " ".join(row["name"] for row in rows[_ERRORS_MAX:])
    return printable(listed + (f"; the legs of these differ, too: {more}" if more else ""))


def _failed(failed: Sequence[Json]) -> str:
    names = " ".join(row["name"] for row in failed)
    errors = "; ".join(dict.fromkeys(row["error"] for row in failed if row.get("error")))
    why = f"; `duplexctl status {names}` says why"
    if errors:
        why = f": {errors}; correct that and resync again"
    return printable(f"not DUPLEX: {names}{why}")


@click.command(short_help="Find out what became of cuts that were left undecided.")
@targets()
@common()
@click.pass_obj
def settle(settings: Settings, targets: tuple[str, ...]) -> None:
    """Find out what became of a group's undecided cuts, and send it to all members."""
    if not settings.group_is_meant(targets):
        raise UsageError(
            "cuts of one controller are always decided; name a group of the groups file"
            " (--groups FILE)"
        )
    result = run(settings, lambda client: client.settle(*targets), of_groups=True)
    text = joined(map(texts.settled_text, result.cuts))
    text = text or f"{result.group}: no cut is undecided"
    settings.answer(result.json(), text, done=text)
    if untold := {name for cut in result.cuts for name in cut.untold}:
        raise UnreachableError(
            f"{' and '.join(sorted(untold))} did not get the outcome; run it again when they answer"
        )
