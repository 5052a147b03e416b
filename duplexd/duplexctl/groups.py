"""The commands whose targets are of the groups file. Loaded only when one is used: asyncio and pydantic take their time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from duplexd.client import Client
from duplexd.duplexctl import render, render_groups
from duplexd.duplexctl.options import StoppedError
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.watch import progress_bars, show_resync_line, watch_status
from duplexd.errors import NotFoundError, TimedOutError, UnreachableError, error_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.duplexctl.options import Settings

    Json = dict[str, Any]

T = TypeVar("T")


def run(
    settings: Settings,
    work: Callable[[Client], Awaitable[T]],
    client: Callable[[], Client] | None = None,
) -> T:
    """Do `work` with a client of the groups file, or with `client()`. An interrupt cancels it: no gate stays closed.

    One that comes later, when it is done, is remembered until the command has written its answer.
    """
    make, interrupts = client or partial(Client.open, settings.groups), settings.interrupts

    async def stopped_by_signals() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def stop(number: int) -> None:
            interrupts.came.append(number)
            loop.call_soon_threadsafe(task.cancel)

        interrupts.act, silent = stop, ""
        try:
            if interrupts.came:
                raise asyncio.CancelledError
            async with asyncio.timeout(settings.timeout_s), make() as made:
                try:
                    return await work(made)
                finally:
                    silent = ", ".join(made.silent)
        except asyncio.CancelledError:
            if not interrupts.came:
                raise
            raise StoppedError(interrupts.came[0]) from None
        except TimeoutError:
            who = f", no answer from {silent}" if silent else ""
            raise TimedOutError(
                f"not done within {settings.timeout_s:g} s{who}; no write waits any more; `duplexctl status` shows what was done, or allow more with --timeout"
            ) from None
        finally:
            interrupts.act = None

    interrupts.begin()
    return uvloop.run(stopped_by_signals())


def status(
    settings: Settings, targets: tuple[str, ...], interval_s: float | None, whole: bool
) -> None:
    """One table for each controller, one line for each group."""

    def ask() -> Json:
        return run(settings, lambda client: client.status(*targets)).json()

    if interval_s is not None:
        settings.wrote = True  # it ends with an interrupt, which is no problem

        def ask_again() -> Json:
            found = ask()
            settings.interrupts.end()  # until it asks again they end it at once
            if settings.interrupts.came:
                raise StoppedError(settings.interrupts.came[0])
            return found

        watch_status(ask_again, interval_s, settings.json, whole, render_groups.GroupsView)
        return
    found = ask()
    with settings.answering():
        if settings.json:
            settings.show(found, "")
        else:
            render.show(render_groups.GroupsView(found, None if whole else render.screen_lines()))
    if codes := found["exit_codes"]:
        silent = UnreachableError.exit_code
        code = silent if silent in codes.values() else next(iter(codes.values()))
        raise error_of({"exit_code": code, "detail": "; ".join(found["unreachable"].values())})
    if missing := [
        f"{member} (of {group['name']})" for group in found["groups"] for member in group["missing"]
    ]:
        raise NotFoundError(
            f"{', '.join(missing)}: no such volume or group there; correct the groups file"
        )


def release(settings: Settings, target: str) -> None:
    """End the holds for cuts of a group, or for one cut by its id."""
    result = run(settings, lambda client: client.release(target))
    text = (
        "\n".join(render_groups.released_text(*each) for each in result.leases.items())
        or f"{target}: nothing was held"
    )
    settings.answer(result.json(), text, done=text)


def resync(settings: Settings, targets: tuple[str, ...], wait: bool) -> None:
    """Bring secondaries back; DuplexdError if one failed."""
    with progress_bars() as bars:

        def show(controller: str, line: Json) -> None:
            if line.get("event") == "progress" and not settings.json:
                show_resync_line(render_groups.with_controller(controller, line), False, bars)

        settings.done = "the resync has begun"
        result = run(settings, lambda client: client.resync(*targets, wait=wait, progress=show))
    for warning in result.warnings:
        complain(f"warning: {warning}")
    text = render.resync_text if not wait else render.resync_done_texts
    settings.answer(
        result.json(),
        text(result.json()),
        done="all that was to be resynced " + ("was" if wait else "is on its way"),
    )
    render.check_resynced(result.json())


def verify(settings: Settings, targets: tuple[str, ...]) -> None:
    """Compare legs; DuplexdError if some differ."""
    with progress_bars() as bars:

        def show(controller: str, line: Json) -> None:
            bars(f"{controller}:{line['name']}", line["done_bytes"], line["total_bytes"])

        result = run(settings, lambda client: client.verify(*targets, progress=show))
    settings.answer(result.json(), render.verified_texts(result.json()))
    render.check_verified(result.json())


def settle(settings: Settings, targets: tuple[str, ...]) -> None:
    """Decide what was left undecided."""
    result = run(settings, lambda client: client.settle(*targets))
    text = (
        "\n".join(map(render_groups.settled_text, result.cuts))
        or f"{result.group}: no cut is undecided"
    )
    settings.answer(result.json(), text, done=text)
    untold = {name for cut in result.cuts for name in cut.untold}
    if untold:
        raise UnreachableError(
            f"{' and '.join(sorted(untold))} could not be told; run it again when they answer"
        )


def cuts(settings: Settings, targets: tuple[str, ...], of_groups: bool) -> None:
    """The history of cuts, of one controller or of several."""
    if of_groups:
        found = run(settings, lambda client: client.cuts(*targets))
    else:
        found = run(settings, lambda client: client.cuts(), lambda: Client.local(settings.socket))
    settings.answer(found.json(), render_groups.cuts_text(found))
    if found.unreachable:
        raise UnreachableError("; ".join(found.unreachable.values()))
