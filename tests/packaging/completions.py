"""The scripts that make shells complete `duplexd` and `duplexctl`.

They ask the program itself for each word, so they know its options, and the volumes and groups of
daemons that run, without listing any. That is click's way; these files only say where to ask.
`duplexctl completion` prints the same script for a shell that has no such files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.daemon.program import cli as daemon
from duplexd.duplexctl.cli import cli as client
from duplexd.duplexctl.completion import script

if TYPE_CHECKING:
    import click

PROGRAMS: dict[str, click.Command] = {"duplexd": daemon, "duplexctl": client}
FILES = {  # where the shells look, below share/
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


# With this click tells a file that zsh loads as a function from one that is sourced. It does so by
# the first call alone, so the second one of a shell completes nothing. Ours are never sourced.
_ZSH_TAIL = "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then"


def completion(shell: str, program: str) -> str:
    """The file of a program for a shell."""
    text = script(PROGRAMS[program], program, shell).strip()
    if shell == "zsh":
        text, tail, _ = text.partition(_ZSH_TAIL)
        assert tail, "click writes another script: look at it again"
        text += f'_{program}_completion "$@"'
    return text + "\n"
