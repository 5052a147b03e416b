"""`duplexctl swap` and `adopt`: which image of a pair is what clients read and write.

What loses changes asks first, but only where somebody can answer: on a terminal. A script has said
what it wants by naming the option; a question there would hang it, or be answered by an accident of
its input. The question is made of the status, so that it names numbers, times and bytes.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import texts
from duplexd.duplexctl.options import Name, common, targets
from duplexd.duplexctl.runner import run
from duplexd.errors import DuplexdError, UsageError, error_of
from duplexd.printable import only_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.backup.restore import Restored
    from duplexd.client import Repaired, Roles, RolledBack
    from duplexd.duplexctl.settings import Settings
    from duplexd.json_object import Json

_yes = click.option("--yes", is_flag=True, help="do not ask, also on a terminal")


@click.command(short_help="Let the two images of a pair change roles.")
@targets()
@click.option(
    "--roll-forward",
    is_flag=True,
    help="of a suspended pair: bring the secondary from its cut to the last change first",
)
@click.option(
    "--keep-to",
    type=Name(),
    metavar="PATH",
    help="with --roll-forward, of one volume: first copy the secondary, as it is at its cut",
)
@click.option(
    "--lose-changes",
    is_flag=True,
    help="of a suspended pair: take the secondary as it is; changes after its cut are lost",
)
@click.option(
    "--accept-differences",
    is_flag=True,
    help="swap also a pair whose legs are known to differ, as they are",
)
@click.option("--force", is_flag=True, help="end all readers of the secondaries' cuts first")
@_yes
@common()
@click.pass_obj
def swap(
    settings: Settings,
    targets: tuple[str, ...],
    roll_forward: bool,
    keep_to: str | None,
    lose_changes: bool,
    accept_differences: bool,
    force: bool,
    yes: bool,
) -> None:
    """Let the two images of a pair change roles, between two writes: clients notice nothing."""
    _check_options(roll_forward, keep_to, lose_changes)
    of_groups = settings.of_groups(targets)
    if keep_to is not None:
        keep_to = _absolute(keep_to, of_groups)
    if lose_changes and not yes:
        ask(settings, targets, of_groups, texts.would_be_lost, "Lose these changes?")
    result = run(
        settings,
        lambda client: client.swap(
            *targets,
            roll_forward=roll_forward,
            keep_to=keep_to,
            lose_changes=lose_changes,
            accept_differences=accept_differences,
            force=force,
        ),
        of_groups,
    )
    say(settings, result, texts.swapped_text(result.volumes))


@click.command(short_help="Take the primary image of a volume as it is.")
@targets()
@_yes
@common()
@click.pass_obj
def adopt(settings: Settings, targets: tuple[str, ...], yes: bool) -> None:
    """Serve a volume that is refused because its primary image is not the one that was known."""
    of_groups = settings.of_groups(targets)
    if not yes:
        question = "Take these images as they are?"
        ask(settings, targets, of_groups, texts.would_be_adopted, question)
    result = run(settings, lambda client: client.adopt(*targets), of_groups)
    say(settings, result, texts.adopted_text(result.volumes))


def _check_options(roll_forward: bool, keep_to: str | None, lose_changes: bool) -> None:
    if roll_forward and lose_changes:
        raise UsageError(
            "--roll-forward keeps the changes that --lose-changes gives up; name one of them"
        )
    if keep_to is not None and not roll_forward:
        raise UsageError("--keep-to is for --roll-forward: only that changes the image of the cut")


def _absolute(path: str, of_groups: bool) -> str:
    """A path as the daemon finds it: on this machine by where this command runs."""
    if of_groups and not os.path.isabs(path):
        raise UsageError(
            f"--keep-to {path!r} is a relative path; controllers of the groups file need an"
            " absolute one, on their own machine"
        )
    return os.path.abspath(path) if path else path


def ask(
    settings: Settings,
    targets: tuple[str, ...],
    of_groups: bool,
    consequences: Callable[[Sequence[Json]], str],
    question: str,
) -> None:
    """On a terminal, what would be done is shown and must be confirmed. Raises DuplexdError."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    found = run(settings, lambda client: client.status(*targets), of_groups)
    text = consequences(found.volumes)
    if found.unreachable:  # the command may reach them by then
        unknown = ", ".join(found.unreachable)
        text = "\n".join(filter(None, (text, f"{unknown}: no answer, so this is not known there")))
    if not text:  # the command does nothing, or is refused: it says so itself
        return
    click.echo(only_text(text), err=True)
    if not click.confirm(question, err=True):
        raise DuplexdError("not confirmed; nothing was changed")


def say(settings: Settings, result: Roles | Repaired | RolledBack | Restored, text: str) -> None:
    """Write the answer. Raises what the controllers said that refused."""
    settings.answer(result.json(), text, done=text)
    if result.failed:
        code = next(iter(result.exit_codes.values()))
        raise error_of({"exit_code": code, "detail": "; ".join(result.failed.values())})
