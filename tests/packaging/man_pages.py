"""The man pages, made of what --help prints and of docs/.

A page of its own words would be a third place to correct. So duplexd(8) is what the parser of
`duplexd` knows, and the other two are pages of docs/ whose options and keys the tests compare with
the parsers. pandoc writes the roff: the pages are committed, because one who builds a wheel does
not need pandoc then.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from duplexd import __version__
from duplexd.daemon.program import cli as daemon
from duplexd.duplexctl.cli import cli as client

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FILTER = Path(__file__).with_name("man.lua")
FORMAT = "markdown-smart"

_SEE = {
    "duplexd.8": "**duplexctl**(1), **duplexd.toml**(5), **systemd.unit**(5)",
    "duplexctl.1": "**duplexd**(8), **duplexd.toml**(5)",
    "duplexd.toml.5": "**duplexd**(8), **duplexctl**(1)",
}
_KINDS = {"1": "User Commands", "5": "File Formats", "8": "System Administration"}
_OTHER_PAGES = "The documents that are named here lie in share/doc/duplexd below the prefix."


def man_path(name: str) -> Path:
    """Where a page is in the sources."""
    return ROOT / "configs" / "share" / "man" / f"man{name[-1]}" / name


def page(name: str) -> str:
    """The roff of one of `PAGES`."""
    title, section = name.rsplit(".", 1)
    head = f"% {title.upper()}({section}) duplexd {__version__} | {_KINDS[section]}\n%\n%\n\n"
    text = f"{head}{PAGES[name]()}\n# SEE ALSO\n\n{_SEE[name]}\n\n{_OTHER_PAGES}\n"
    roff = subprocess.run(
        ["pandoc", "--standalone", f"--from={FORMAT}", "--to=man", f"--lua-filter={FILTER}"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    roff = re.sub(r'^\.\\" Automatically generated.*\n', "", roff, flags=re.MULTILINE)
    # a paragraph that a heading begins anyway, and a font that man-pages have no use for
    roff = re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", roff, flags=re.MULTILINE)
    return roff.replace(".nf\n\\f[C]\n", ".EX\n").replace("\\f[R]\n.fi\n", ".EE\n")


def _name(title: str, command: click.Command) -> str:
    summary = (command.help or "").splitlines()[0].rstrip(".")
    return f"# NAME\n\n{title} - {summary[0].lower()}{summary[1:]}\n\n"


def _duplexd() -> str:
    return (
        _name("duplexd", daemon)
        + "# SYNOPSIS\n\n"
        + "".join(f"| **duplexd** {_usage(words, each)}\n" for words, each in commands(daemon))
        + f"\n# DESCRIPTION\n\n{daemon.help}\n\n# COMMANDS\n\n"
        + "\n".join(_command(words, each) for words, each in commands(daemon))
        + f"\n# EXIT STATUS\n\n{_section('exit-codes.md', '# Exit codes').split(chr(10) * 2, 1)[1]}"
        + f"\n# EXAMPLES\n\n{_epilog(daemon)}"
    )


def commands(group: click.Command, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command of a group, and of groups in it, with the words that name it."""
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _usage(words: str, command: click.Command) -> str:
    pieces = command.collect_usage_pieces(click.Context(command, info_name=words))
    return f"**{words}** {' '.join(pieces)}".replace("[", r"\[")


def _command(words: str, command: click.Command) -> str:
    context = click.Context(command, info_name=words)
    options = [
        parameter.get_help_record(context)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
    listed = "".join(f"`{names}`\n\n:   {text}\n\n" for names, text in filter(None, options))
    return f"## {words}\n\n{' '.join((command.help or '').split())}\n\n{listed}"


def _epilog(command: click.Command) -> str:
    lines = (command.epilog or "").splitlines()
    return "".join(f"    {line.strip()}\n" for line in lines if line.startswith("  "))


def _duplexctl() -> str:
    intro = _section("cli.md", "# duplexctl").split("\n\n", 1)[1]
    return (
        _name("duplexctl", client)
        + r"# SYNOPSIS"
        + "\n\n**duplexctl** \\[OPTIONS\\] COMMAND \\[ARGS\\]...\n\n"
        + f"# DESCRIPTION\n\n{intro}\n"
        + f"# OPTIONS\n\n{_section('cli.md', '## Options of every command')}\n"
        + f"# COMMANDS\n\n{_demoted(_section('cli.md', '## Commands'))}\n"
        + f"# EXIT STATUS\n\n{_section('cli.md', '## Exit codes')}\n"
    )


def _configuration() -> str:
    text = (DOCS / "configuration.md").read_text()
    intro, _, rest = text.partition("\n## ")
    example = (ROOT / "configs" / "duplexd.toml").read_text()
    return (
        "# NAME\n\nduplexd.toml - configuration of the daemon duplexd\n\n"
        f"# DESCRIPTION\n\n{intro.split(chr(10), 1)[1]}\n\n# SECTIONS\n\n## {rest}\n"
        "# FILES\n\n`/etc/duplexd/NAME.toml`\n\n:   the configuration of `duplexd@NAME.service`\n\n"
        "# EXAMPLE\n\n" + "".join(f"    {line}\n" for line in example.splitlines())
    )


def _section(document: str, heading: str) -> str:
    """What is below a heading, up to the next one of its level, or, of the title, to the first."""
    level = max(heading.index(" "), 2)
    text = (DOCS / document).read_text().partition(f"{heading}\n")[2]
    return re.split(rf"^{'#' * level} ", text, flags=re.MULTILINE)[0].strip() + "\n"


def _demoted(text: str) -> str:
    return text.replace("\n### ", "\n## ").removeprefix("#")


PAGES = {"duplexd.8": _duplexd, "duplexctl.1": _duplexctl, "duplexd.toml.5": _configuration}
