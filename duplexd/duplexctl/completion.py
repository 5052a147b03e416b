"""`duplexctl completion`: the script that a shell loads."""

from __future__ import annotations

import click

from duplexd.duplexctl.options import common
from duplexd.duplexctl.settings import Settings
from duplexd.known import known

_COLONS = 'COMP_WORDBREAKS="${COMP_WORDBREAKS//:}"  # controller:volume is one word\n'


@click.command(short_help="Print a script for the shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common()
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for the shell: eval "$(duplexctl completion bash)"."""
    source = script(context.find_root().command, "duplexctl", shell)
    context.ensure_object(Settings).answer({"shell": shell, "script": source}, source)


def script(program: click.Command, name: str, shell: str) -> str:
    """The script with which a shell asks the program `name` what a word may become."""
    from click.shell_completion import get_completion_class

    found = known(get_completion_class(shell), "click has one for each of the choices")
    source = found(program, {}, name, f"_{name.upper()}_COMPLETE").source()
    return (_COLONS if shell == "bash" else "") + source
