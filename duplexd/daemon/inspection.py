"""`duplexd journal inspect`: the findings of `journal.inspect`, as lines or as one JSON object.

Entries are printed as they are read, so that a journal of any size needs the memory of one segment.
The daemon has to be stopped: a journal that is being written looks torn.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from duplexd.errors import DamageError, UsageError, WrongStateError
from duplexd.journal.inspect import inspect
from duplexd.printable import printable
from duplexd.runtime.disk import RealDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.json_object import Json

DAMAGE_EXIT_CODE = DamageError.exit_code


def show(directory: Path, as_json: bool) -> int:
    """Print the journal of a state directory; the exit code: 0, or that of DamageError if the next
    start would refuse it.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; give the state_dir of a controller")
    _refuse_running(directory)
    entries = _entries(directory)
    verdict = _print_json(entries) if as_json else _print_lines(entries)
    return DAMAGE_EXIT_CODE if verdict["verdict"] == "damage" else 0


def _refuse_running(directory: Path) -> None:
    """A journal that is being written looks torn: the daemon must be stopped."""
    for lock in (directory / "lock", directory.parent / "lock"):
        with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WrongStateError(
                    f"{directory}: in use by a running duplexd; stop it first, or inspect a copy"
                ) from None
            return


def _entries(directory: Path) -> Iterator[Json]:
    try:
        yield from inspect(RealDisk(), str(directory))
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename or directory}: no such file;"
            f" {directory} is not a state_dir of duplexd"
        ) from None
    except DamageError as error:  # nothing more can be read, which is a verdict as well
        yield {"type": "verdict", "verdict": "damage", "why": str(error)}


def _print_json(entries: Iterator[Json]) -> Json:
    verdict: Json = {}
    separator = '{"entries": [\n'
    for entry in entries:
        if entry["type"] == "verdict":
            verdict = entry
        else:
            click.echo(f"{separator}{json.dumps(entry, default=str)}", nl=False)
            separator = ",\n"
    opened = separator.startswith(",")
    click.echo(
        ("\n" if opened else separator) + f'], "verdict": {json.dumps(verdict, default=str)}}}'
    )
    return verdict


def _print_lines(entries: Iterator[Json]) -> Json:
    verdict: Json = {}
    names: dict[int, str] = {}
    for entry in entries:
        if entry["type"] == "verdict":
            verdict = entry
        else:
            if entry["type"] == "checkpoint":
                names = dict(entry["volumes"])
            elif entry["type"] == "marker" and entry["marker"].get("m") == "volume":
                names[entry["marker"]["id"]] = entry["marker"]["name"]
            click.echo(printable(_line(entry, names)))
    where = f" at {verdict['path']} byte {verdict['offset']}" if verdict.get("path") else ""
    why = f": {verdict['why']}" if verdict.get("why") else ""
    last = f", last record {verdict['sequence']}" if "sequence" in verdict else ""
    click.echo(printable(f"verdict     {verdict['verdict']}{last}{where}{why}"))
    return verdict


def _line(entry: Json, names: dict[int, str]) -> str:
    kind = entry["type"]
    if kind == "checkpoint":
        volumes = ", ".join(names.values()) or "none"
        return f"checkpoint  {entry['path']}: up to {entry['sequence']}; volumes {volumes}"
    if kind == "segment":
        return (
            f"segment     {entry['path']}: number {entry['index']}, from {entry['first_sequence']}"
        )
    when = datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="milliseconds")
    start = f"{entry['sequence']:>11} {when}"
    if kind == "marker":
        return f"{start} marker {json.dumps(entry['marker'], default=str)}"
    volume = names.get(entry["volume"], f"#{entry['volume']}")
    return f"{start} {entry['kind']:<6} {volume} offset {entry['offset']} length {entry['length']}"
