"""`duplexctl suspend` of a group, or with a certificate: what is known of the cut is kept first, then told, whatever ends the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

from duplexd.client import Client, ControllerEntry, Groups, Suspended
from duplexd.client import certificate as certificates
from duplexd.duplexctl import render_groups
from duplexd.duplexctl.groups import run
from duplexd.duplexctl.options import StoppedError
from duplexd.duplexctl.output import complain
from duplexd.errors import (
    DuplexdError,
    LeaseLostError,
    TimedOutError,
    UndecidedError,
    WrongStateError,
)

if TYPE_CHECKING:
    from duplexd.duplexctl.options import Settings


def suspend(
    settings: Settings,
    targets: tuple[str, ...],
    tag: str,
    hold_max_s: float | None,
    certificate: str | None,
    of_groups: bool,
) -> None:
    """Cut; with `certificate`, write one. LeaseLostError if the verdict is void, WrongStateError if there is no certificate of an old cut."""
    if certificate is not None:
        certificates.check_place(certificate)
    outcome = _Outcome(certificate)
    make = None
    if not of_groups:
        name = settings.client().call("GET", "/v1/status")["controller"]["name"]
        here = Groups(controllers={name: ControllerEntry(socket=settings.socket)})
        targets, make = tuple(f"{name}:{target}" for target in targets), lambda: Client(here)

    async def cut(client: Client) -> Suspended:
        return await client.suspend(
            *targets,
            tag=tag,
            hold_max=hold_max_s,
            certificate=certificate is not None,
            on_cut=outcome.known,
        )

    try:
        result = run(settings, cut, make)
    except (StoppedError, TimedOutError) as error:
        outcome.tell_interrupted(settings, error)
    outcome.tell(settings, result)


class _Outcome:
    """What became of the cut. `known` is called in the event loop as soon as that is so: no signal comes between that and the certificate."""

    def __init__(self, certificate: str | None) -> None:
        self._certificate = certificate
        self._found: Suspended | UndecidedError | None = None
        self._uncertified: DuplexdError | None = None  # why there is no certificate

    def known(self, found: Suspended | UndecidedError) -> None:
        self._found = found
        if self._certificate is None or isinstance(found, UndecidedError) or found.already:
            return
        if (
            found.members or found.verdict == "consistent"
        ):  # of a cut that nobody made there is nothing to write
            self._uncertified = _certify(self._certificate, found)

    def tell(self, settings: Settings, result: Suspended) -> None:
        """Write the answer. Raises what is wrong with the cut, or else with the certificate."""
        text = render_groups.suspended_text(result)
        settings.answer(result.json(), text, done=text)
        if self._certificate is not None and result.already:
            self._uncertified = WrongStateError(
                "already suspended: a certificate is written only by the suspend that makes the cut; resync and suspend again"
            )
        errors = [error for error in (_fault(result), self._uncertified) if error is not None]
        for error in errors[1:]:
            complain(str(error))
        if errors:
            raise errors[0]

    def tell_interrupted(self, settings: Settings, error: StoppedError | TimedOutError) -> NoReturn:
        """The same of a command that did not come to its end: raises `error`, with what it leaves behind."""
        left = str(self._found) if isinstance(self._found, UndecidedError) else ""
        if isinstance(self._found, Suspended):
            left = f"cut {self._found.cut} was made before that"
            try:
                self.tell(settings, self._found)
            except DuplexdError as fault:
                left += f": {fault}"
        if not left:
            raise error
        raise (
            StoppedError(error.number, left)
            if isinstance(error, StoppedError)
            else TimedOutError(f"{error}; {left}")
        )


def _fault(result: Suspended) -> DuplexdError | None:
    """Why its secondaries are not to be read as they are."""
    if result.verdict != "consistent":
        return LeaseLostError(
            f"the verdict is void: these secondaries are of no one moment ({result.why}); resync, and suspend again"
        )
    if result.left:
        return LeaseLostError(
            f"the cut was consistent, but not all secondaries stand at it any more ({result.why}); resync, and suspend again"
        )
    return None


def _certify(path: str, result: Suspended) -> DuplexdError | None:
    """Write it; why that failed. A certificate can't be had again: what can't be written goes to stderr."""
    try:
        certificate = certificates.make(result)
        try:
            certificates.write(path, certificate)
        except DuplexdError as error:
            return DuplexdError(
                f"{error}; it is the next line, save that:\n{json.dumps(certificate)}"
            )
    except DuplexdError as error:
        return error
    return None
