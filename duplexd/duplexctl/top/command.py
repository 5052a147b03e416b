"""`duplexctl top`: the command."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import views
from duplexd.duplexctl.options import Seconds, common
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.top.answer import answer
from duplexd.duplexctl.top.feed import Feed
from duplexd.duplexctl.top.frame import WHOLE, frame, plain
from duplexd.duplexctl.top.moment import for_terminal
from duplexd.duplexctl.top.position import Position

if TYPE_CHECKING:
    from duplexd.client import Client
    from duplexd.duplexctl.settings import Settings
    from duplexd.duplexctl.top.overview import Overview


@click.command(short_help="Rates, latencies, lag, copies and cuts as they change.")
@click.option(
    "--interval", type=Seconds(0.1), default=2.0, metavar="SECONDS", help="between two looks"
)
@click.option(
    "--once", is_flag=True, help="print one frame, with the rates of one interval, and end"
)
@common()
@click.pass_obj
def top(settings: Settings, interval: float, once: bool) -> None:
    """Rates, latencies, lag, copies and cuts as they change.

    Of one daemon, or of all controllers of the groups file, as `status` has them. Without a
    terminal, and with --json, one frame is printed, as with --once. `?` lists the keys.
    """
    live = views.on_terminal() and not (once or settings.json or settings.quiet)

    async def work(client: Client) -> Overview | None:
        from duplexd.client.looking_on import LookingOn

        shown = str if settings.json else for_terminal(sys.stdout.encoding or "ascii")
        feed = Feed(LookingOn(client), interval, shown)
        await feed.look()
        if not live:
            await asyncio.sleep(interval)
            await feed.look()
            return feed.seen()
        from duplexd.duplexctl.top.live import Screen

        settings.wrote = True  # an interrupt ends it, which is not a problem
        await Screen(views.console(), feed).show()
        return None

    seen = run(settings, work, settings.of_groups(()))
    if seen is not None:
        _print(settings, seen)


def _print(settings: Settings, seen: Overview) -> None:
    """One frame, in colour on a terminal."""
    with settings.answering():
        if settings.json or settings.quiet or not views.on_terminal():
            settings.show(answer(seen), "\n".join(plain(seen, Position())))
            return
        from duplexd.duplexctl.output import writing
        from duplexd.duplexctl.top.live import drawn

        console = views.console()
        with writing():
            console.print(drawn(frame(seen, Position(), console.width, WHOLE)))
