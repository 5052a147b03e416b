"""`duplexctl suspend` keeps what is known of the cut first, then says it, whatever ends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import click

from duplexd.client import Suspended
from duplexd.client import certificate as certificates
from duplexd.core.leg_differences import DIFFER
from duplexd.duplexctl import texts
from duplexd.duplexctl.at_option import Point
from duplexd.duplexctl.options import Name, Seconds, common, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.settings import Settings, StoppedError
from duplexd.errors import (
    DuplexdError,
    LeaseLostError,
    TimedOutError,
    UndecidedError,
    UsageError,
    WrongStateError,
)
from duplexd.limits import HOLD_SECONDS_MAX
from duplexd.printable import printable
from duplexd.runtime.hooks import AFTER, faults

if TYPE_CHECKING:
    from duplexd.client import Client
    from duplexd.core.past_point import PastPoint
    from duplexd.runtime.hooks import HookRun


@click.command(short_help="Cut at one point; secondaries keep that state, durably.")
@targets()
@click.option("--tag", default="", help="text to keep with the cut")
@click.option(
    "--lease",
    type=Name(),
    metavar="LEASE",
    help="the hold under which to cut; it ends with the cut. Of one controller only",
)
@click.option(
    "--hold-max",
    "hold_max_s",
    type=Seconds(maximum=HOLD_SECONDS_MAX),
    metavar="SECONDS",
    help="how long writes of a group may wait, instead of its hold_max",
)
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="write a certificate of the cut, for verify-cut",
)
@click.option(
    "--allow-existing",
    is_flag=True,
    help="if the targets are all at one cut already, succeed and name it; else that is an error",
)
@click.option(
    "--reader",
    type=Name(),
    metavar="NAME",
    default="",
    help="name who reads the cut: nothing moves it until `resync --reader NAME`",
)
@click.option(
    "--at",
    type=Point(),
    metavar="POINT",
    help="of delayed secondaries: suspend at this time (14:01:50), number or mark:ID, which has"
    " passed; of several controllers at that mark, or the newest one at or before that time",
)
@common()
@click.pass_obj
def suspend(
    settings: Settings,
    targets: tuple[str, ...],
    tag: str,
    lease: str | None,
    hold_max_s: float | None,
    certificate: str | None,
    allow_existing: bool,
    reader: str,
    at: PastPoint | None,
) -> None:
    """Cut at one point.

    When it returns, the secondaries are durable and readable at their paths.
    """
    of_groups = settings.of_groups(targets)
    _check_options(of_groups, lease, hold_max_s)
    if lease and at is not None:
        raise UsageError("--lease holds writes of now; leave it out to suspend at a past point")
    if certificate is not None:
        certificates.check_place(certificate)
    outcome = _Outcome(certificate, at is not None)

    async def cut(client: Client) -> Suspended:
        return await client.suspend(
            *targets,
            tag=tag,
            lease=lease,
            hold_max=hold_max_s,
            certificate=certificate is not None,
            allow_existing=allow_existing,
            reader=reader,
            on_cut=outcome.known,
            on_hook=outcome.hook,
            at=at,
        )

    try:
        result = run(settings, cut, of_groups)
    except (StoppedError, TimedOutError) as error:
        outcome.complain_of_hooks()
        outcome.say_interrupted(settings, error)
    outcome.say(settings, result)


def cut_at(settings: Settings, targets: tuple[str, ...], tag: str, point: PastPoint) -> None:
    """SUSPENDED secondaries go on to a later point; the answer is that of a suspend."""
    outcome = _Outcome(None, True)

    async def go_on(client: Client) -> Suspended:
        return await client.suspend(*targets, tag=tag, on_cut=outcome.known, at=point, onward=True)

    try:
        result = run(settings, go_on, settings.of_groups(targets))
    except (StoppedError, TimedOutError) as error:
        outcome.say_interrupted(settings, error)
    outcome.say(settings, result)


def _check_options(of_groups: bool, lease: str | None, hold_max_s: float | None) -> None:
    if lease == "":
        raise UsageError(
            '--lease is empty; is "$DUPLEXD_LEASE" set? `quiesce -- CMD` sets it for CMD. Without'
            " --lease no hold is needed"
        )
    if lease and of_groups:
        raise UsageError(
            "--lease is for targets of one controller, named at its socket (--socket PATH);"
            " a group of the groups file is held and cut in one step"
        )
    if hold_max_s is not None and not of_groups:
        raise UsageError(
            "--hold-max is for groups of the groups file; one controller needs no hold to cut"
        )


class _Outcome:
    """What became of the cut.

    `known` is called in the event loop as soon as that is so: no signal comes between that and the
    certificate.
    """

    def __init__(self, certificate: str | None, past: bool) -> None:
        """`past`: it is to be at a point that has passed."""
        self._certificate = certificate
        self._past = past
        self._found: Suspended | UndecidedError | None = None
        self._uncertified: DuplexdError | None = None  # why there is no certificate
        self._hooks: list[HookRun] = []

    def hook(self, ended: HookRun) -> None:
        """A hook has ended. Of one that failed all is said that it wrote; errors have a line."""
        self._hooks.append(ended)
        lines = ended.output.splitlines() if ended.fault else []
        if len(lines) > 1:
            for line in lines:
                complain(f"{ended.hook}: {printable(line)}")

    def complain_of_hooks(self) -> None:
        """Of those that failed to undo what was done before a suspend that was interrupted."""
        for each in self._hooks:
            if each.hook == AFTER and each.fault:
                complain(each.fault)

    def known(self, found: Suspended | UndecidedError) -> None:
        self._found = found
        if self._certificate is None or isinstance(found, UndecidedError) or found.already:
            return
        # of a cut that no controller made there is nothing to write
        if found.members or found.verdict == "consistent":
            self._uncertified = _certify(self._certificate, found)

    def say(self, settings: Settings, result: Suspended) -> None:
        """Write the answer. Raises what is wrong with the cut, or else with the certificate."""
        text = texts.suspended_text(result)
        settings.answer(result.json(), text, done=text)
        if self._certificate is not None and result.already:
            self._uncertified = WrongStateError(
                "already suspended: a certificate is written only by the suspend that makes the"
                " cut; resync and suspend again"
            )
        found = (_fault(result, self._past), _hook_fault(result), self._uncertified)
        errors = [error for error in found if error is not None]
        for error in errors[1:]:
            complain(str(error))
        if errors:
            raise errors[0]

    def say_interrupted(self, settings: Settings, error: StoppedError | TimedOutError) -> NoReturn:
        """The same for a command that was interrupted.

        Raises `error`, with what it leaves behind.
        """
        left = str(self._found) if isinstance(self._found, UndecidedError) else ""
        if isinstance(self._found, Suspended):
            left = f"cut {self._found.cut} was made before that"
            try:
                self.say(settings, self._found)
            except DuplexdError as fault:
                left += f": {fault}"
        if not left:
            raise error
        if isinstance(error, StoppedError):
            raise StoppedError(error.number, left)
        raise TimedOutError(f"{error}; {left}")


def _fault(result: Suspended, past: bool) -> DuplexdError | None:
    """Why its secondaries are not to be read as they are."""
    if result.verdict != "consistent":
        return LeaseLostError(
            "the verdict is void: the secondaries are not a consistent point-in-time copy"
            f" ({printable(result.why)}); {_remedy(result, past)}"
        )
    if result.left:
        return LeaseLostError(
            "the cut was consistent, but not all secondaries are still at it"
            f" ({printable(result.why)}); resync, and suspend again"
        )
    return None


def _hook_fault(result: Suspended) -> DuplexdError | None:
    """What hooks failed to do. Had it been before the cut, there would be no result."""
    if found := faults(result.hooks):
        return DuplexdError(
            f"{'; '.join(found)}; the cut is as shown, but look at the application: it may still"
            " be frozen"
        )
    return None


def _remedy(result: Suspended, past: bool) -> str:
    """What to do about a void verdict. A resync leaves alone what is known to differ, and gives up
    every point that has passed.
    """
    if past:
        return (
            "correct that, then `duplexctl resync TARGET --until POINT` goes on to a point; a"
            " resync without --until gives up all that has passed"
        )
    if DIFFER not in result.why:
        return "resync, and suspend again"
    return (
        "resync with --wait, say which image is right (`duplexctl repair TARGET --from"
        " primary|secondary`), and suspend again"
    )


def _certify(path: str, result: Suspended) -> DuplexdError | None:
    """Write it; why that failed. It can't be had again: what can't be written goes to stderr."""
    try:
        certificate = certificates.make(result)
        try:
            certificates.write(path, certificate)
        except DuplexdError as error:
            text = json.dumps(certificate)
            return DuplexdError(f"{error}; it is the next line, save that:\n{text}")
    except DuplexdError as error:
        return error
    return None
