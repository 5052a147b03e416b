"""`duplexctl restart`: another program takes the daemon's place, and its clients see two pauses.

For upgrades, and for what a reload cannot change. `systemctl restart` disconnects every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import common
from duplexd.duplexctl.runner import run

if TYPE_CHECKING:
    from duplexd.client.results import RestartedInPlace
    from duplexd.duplexctl.settings import Settings


@click.command(short_help="Start the daemon's program anew; NBD clients stay connected.")
@click.option("--force", is_flag=True, help="also where there are clones, which end")
@common()
@click.pass_obj
def restart(settings: Settings, force: bool) -> None:
    """Let one daemon start its program anew, which may be another version: it keeps its process and
    its NBD clients, which see two pauses.

    Holds are released. Clients with TLS are disconnected.
    """
    result = run(settings, lambda client: client.restart(force=force), of_groups=False)
    settings.answer(result.json(), restarted_text(result))


def restarted_text(result: RestartedInPlace) -> str:
    """One line."""
    version = f"version {result.version}"
    if result.version != result.previous_version:
        version = f"from version {result.previous_version} to {result.version}"
    lost = f", {result.clients_lost} disconnected" if result.clients_lost else ""
    return (
        f"restarted, {version}: {result.clients_kept} NBD connections kept{lost},"
        f" pauses of at most {result.pause_s * 1000:.0f} ms"
    )
