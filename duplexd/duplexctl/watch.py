"""Output that goes on for a while: `status --watch`, and the progress of a resync or verify."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from duplexd.duplexctl import render
from duplexd.duplexctl.output import put, writing
from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Json = dict[str, Any]
    Show = Callable[[str, int, int], None]


def watch_status(
    ask: Callable[[], Json],
    interval_s: float,
    as_json: bool,
    whole: bool,
    view: Callable[[Json, int | None], render.View] = render.StatusView,
) -> None:
    """Show what `ask` says every `interval_s`, in place on a terminal, until interrupted."""
    lines = None if whole else render.screen_lines
    if as_json or not render.on_terminal():
        while True:
            status = ask()
            text = json.dumps(status) if as_json else view(status, lines and lines()).text() + "\n"
            put(text)
            time.sleep(interval_s)
    from rich.live import Live

    with Live(console=render.console(), auto_refresh=False, screen=True) as live:
        while True:
            shown = view(ask(), lines and lines()).renderable(watched=True)
            with writing():
                live.update(shown, refresh=True)
            time.sleep(interval_s)


@contextmanager
def progress_bars() -> Iterator[Show]:
    """Calls with (name, done, total) move a bar of that name; on a terminal only, on stderr."""
    if not sys.stderr.isatty():
        yield lambda _name, _done, _total: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=render.console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield show


def _broken_off() -> UnreachableError:
    return UnreachableError(
        "the daemon broke off before the end; `duplexctl status` shows where it stands"
    )


def watch_resync(lines: Iterable[Json], as_json: bool) -> Json:
    """Show the progress of a resync until its last line, which is returned."""
    with progress_bars() as show:
        for line in lines:
            show_resync_line(line, as_json, show)
            if line["event"] == "done":
                return line
    raise _broken_off()


def show_resync_line(line: Json, as_json: bool, show: Show) -> None:
    """One line of a resync's stream."""
    if as_json:
        put(json.dumps(line))
    elif line["event"] == "started":
        put(render.resync_text(line))
    elif line["event"] == "done":
        put(render.resync_done_texts(line))
    else:
        running = [row for row in line["volumes"] if row["total_bytes"]]
        for row in running[:20]:
            show(row["name"], row["done_bytes"], row["total_bytes"])
        if running and not sys.stderr.isatty():
            done, total = (
                sum(row["done_bytes"] for row in running),
                sum(row["total_bytes"] for row in running),
            )
            put(
                f"copying {len(running)} volumes: {render.copy_text({'done_bytes': done, 'total_bytes': total})}"
            )


def watch_verify(lines: Iterable[Json]) -> Json:
    """Show the progress of a comparison until its last line, which is returned without its `event`."""
    with progress_bars() as show:
        for line in lines:
            if line["event"] == "done":
                return {key: value for key, value in line.items() if key != "event"}
            show(line["name"], line["done_bytes"], line["total_bytes"])
    raise _broken_off()
