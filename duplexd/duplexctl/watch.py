"""Output that goes on for a while: `status --watch`, and bars of progress."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from duplexd.duplexctl import views
from duplexd.duplexctl.output import put, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from rich.progress import TaskID

    from duplexd.json_object import Json

    Show = Callable[[str, int, int], None]


def watch_status(
    ask: Callable[[], Json], interval_s: float, as_json: bool, whole: bool, of_groups: bool
) -> NoReturn:
    """Show what `ask` says every `interval_s`, in place on a terminal, until interrupted."""

    def view() -> views.StatusView:
        lines = None if whole else views.screen_lines()
        return views.StatusView(ask(), lines, of_groups, views.screen_columns())

    if as_json or not views.on_terminal():
        while True:
            put(json.dumps(ask()) if as_json else view().text() + "\n")
            time.sleep(interval_s)
    from rich.live import Live

    with Live(console=views.console(), auto_refresh=False, screen=True) as live:
        while True:
            shown = view().renderable(watched=True)
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
    with Progress(*columns, console=views.console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield show
