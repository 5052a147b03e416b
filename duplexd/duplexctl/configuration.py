"""`duplexctl reload`: a daemon reads its configuration again, and this says what came of it.

SIGHUP does the same, but nobody hears how it ended. So the unit's ExecReload is this command: a
refused reload is a failed one, with the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import common
from duplexd.duplexctl.runner import run
from duplexd.printable import joined

if TYPE_CHECKING:
    from duplexd.duplexctl.settings import Settings

_NOTHING = "nothing changed: this configuration is in force already"


@click.command(short_help="Apply the configuration file without a restart.")
@click.option("--check", is_flag=True, help="say what would change, or be refused; change nothing")
@common()
@click.pass_obj
def reload(settings: Settings, check: bool) -> None:
    """Let one daemon read its configuration file again: all of it is applied, or nothing."""
    result = run(settings, lambda client: client.reload(check=check), of_groups=False)
    settings.answer(result.json(), joined(result.changes or [_NOTHING]))
