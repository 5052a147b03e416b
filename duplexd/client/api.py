"""The commands over one daemon or groups of several controllers: one way for each verb."""

from __future__ import annotations

from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from duplexd.client import outcomes, roles, status, survey
from duplexd.client.http import Http
from duplexd.client.one_process import OneProcess
from duplexd.client.results import (
    Changes,
    Cuts,
    Points,
    ReaderEnded,
    Released,
    Repaired,
    Resynced,
    Roles,
    RolledBack,
    Settled,
    Status,
    Suspended,
    Verified,
    Wellness,
)
from duplexd.config.groups import OneDaemon
from duplexd.core.leaving import Leaving
from duplexd.errors import (
    NotFoundError,
    TimedOutError,
    UnreachableError,
    UsageError,
)
from duplexd.limits import HOLD_SECONDS_MAX, ClientLimits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from pathlib import Path

    from duplexd.client.clone_commands import Cloning
    from duplexd.client.hold import Hold
    from duplexd.client.mark_commands import Marking
    from duplexd.client.outcomes import OnCut
    from duplexd.client.settle import Settling
    from duplexd.config.groups import Directory, Group
    from duplexd.core.past_point import PastPoint
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json
    from duplexd.runtime.hooks import HookRun

    Progress = Callable[[str, Json], None]

_LIMITS = ClientLimits()


class Client(OneProcess):
    """Commands the volumes of one daemon, or groups of volumes of several controllers.

    Use it with `async with`; one event loop, many tasks. Targets of a groups file are names of its
    groups, or volumes and groups of one controller as `controller:target`; several targets are cut
    together. Of one daemon they are its volumes and groups. Errors are those of `duplexd.errors`. A
    cancelled command leaves no gate closed.
    """

    def __init__(self, groups: Directory, *, limits: ClientLimits = _LIMITS) -> None:
        self.groups = groups
        self.limits = limits
        self._links: dict[str, Http] = {}

    @classmethod
    def open(cls, path: str | Path | None = None, *, limits: ClientLimits = _LIMITS) -> Self:
        """The groups of a file, by default /etc/duplexd/groups.toml. Raises ConfigurationError."""
        from duplexd.config import groups_file  # noqa: PLC0415 - pydantic takes its time

        return cls(groups_file.load(path or groups_file.DEFAULT_PATH), limits=limits)

    @classmethod
    def local(cls, socket: str | Path, *, limits: ClientLimits = _LIMITS) -> Self:
        """One daemon of this machine: a group of one controller."""
        return cls(OneDaemon(socket), limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    @cached_property
    def _settling(self) -> Settling:
        from duplexd.client.settle import Settling  # noqa: PLC0415 - as in `suspend`

        return Settling(self.groups.controllers, self.links_to, self.limits.settle_seconds)

    @property
    def silent(self) -> list[str]:
        """Controllers that did not answer when they were last asked, by their names."""
        return [name for name, link in self._links.items() if link.silent]

    # -------------------------------------------------------------------------------- cutting

    async def suspend(
        self,
        *targets: str,
        tag: str = "",
        lease: str | None = None,
        hold_max: float | None = None,
        certificate: bool = False,
        allow_existing: bool = False,
        reader: str = "",
        on_cut: OnCut | None = None,
        on_hook: Callable[[HookRun], object] | None = None,
        at: PastPoint | None = None,
        onward: bool = False,
    ) -> Suspended:
        """Cut all targets at one point.

        `result.verdict` says whether that was achieved; a `void` result is not raised as an error.
        With `certificate` the result of one controller holds what `client.certificate.make` needs;
        that of several always does. `lease`: a hold of one controller, which ends with the cut.
        `reader`: who keeps the secondaries at the cut, until it is ended. `at`: of delayed ones.
        With `onward`, SUSPENDED ones go on to it from their cut.

        Raises with nothing suspended if it can't be done, or if all are at one cut already and not
        `allow_existing`; UndecidedError if a member that was cut no longer answers.

        `on_cut` gets the result, without hooks, before anything else is waited for. If the command
        is cancelled, it gets what became of a cut that was made or may have been: a result, or an
        UndecidedError. `on_hook` gets what each hook of the groups file did, as it ends.
        """
        from duplexd.client import member, suspend  # noqa: PLC0415 - most commands cut nothing

        suspend.check_tag(tag)
        group, hold_max_s = self._group(targets, hold_max)
        links = self.links_to(group.members)
        cut_id = member.new_cut_id()
        plan = member.Plan(
            cut_id, group, hold_max_s, tag, lease, certificate, allow_existing, reader, on_hook, at,
            onward,
        )  # fmt: skip
        if plan.alone:
            return await suspend.suspend_one(plan, links, self._settling, on_cut)
        return await suspend.suspend_together(plan, links, self._settling, on_cut)

    def quiesce(
        self,
        *targets: str,
        hold_max: float | None = None,
        on_suspended: Callable[[], object] | None = None,
    ) -> Hold:
        """Hold the writes of all targets: `async with client.quiesce("db") as hold`. See `Hold`."""
        from duplexd.client import hold, member  # noqa: PLC0415 - as above

        group, hold_max_s = self._group(targets, hold_max)
        links = self.links_to(group.members)
        plan = member.Plan(member.new_cut_id(), group, hold_max_s)
        return hold.hold_of(plan, links, self._settling, on_suspended)

    async def release(self, target: str) -> Released:
        """End a hold by its lease, or by the id of its cut; or all holds of a group of the file.

        One that had ended is not an error. Raises NotFoundError.
        """
        everything = self.groups.everything()
        if everything.alone:
            return await self._release_lease(target, self.links_to(everything.members))
        is_group = self.groups.has(target)
        group = self.groups.resolve([target]) if is_group else everything
        asked = self.links_to(group.members)
        statuses, errors = await survey.try_status(asked, group.members)
        survey.check_names(statuses, asked)
        held = outcomes.held(statuses, everything=not is_group, plain=is_group and len(asked) == 1)
        found = held if is_group else {lease: cut for lease, cut in held.items() if cut == target}
        if not found:
            await survey.identify(asked)  # perhaps another controller was asked for the volumes
            survey.raise_all(errors)
            if is_group:
                return Released(target, False, {})
            return await self._release_lease(target, asked)
        everywhere, failed = self.links_to(everything.members), dict(errors)
        for cut in {cut for cut in found.values() if cut}:
            failed |= (await self._ask_all("POST", f"/v1/cuts/{cut}/release", {}, everywhere))[1]
        for lease in (lease for lease, cut in found.items() if not cut):
            await self._release_lease(lease, asked)
        survey.raise_all(failed)  # all that answer have released by now
        return Released(target, True, dict.fromkeys(sorted(c or n for n, c in found.items()), True))

    async def _release_lease(self, lease: str, links: dict[str, Http]) -> Released:
        """End a hold that no status shows: it has ended, or is held for no cut."""
        path = f"/v1/leases/{quote(lease, safe='')}"
        answers, errors = await self._ask_all("DELETE", path, None, links)
        if not answers:
            others = {
                name: error
                for name, error in errors.items()
                if not isinstance(error, NotFoundError)
            }
            survey.raise_all(others or (errors if len(links) == 1 else {}))
            raise NotFoundError(
                f"{lease!r}: no group, and no cut that any controller of the groups file holds for"
            )
        released = any(each["released"] for each in answers.values())
        return Released(lease, released, {lease: released})

    async def _ask_all(
        self, method: str, path: str, body: Json | None, links: dict[str, Http]
    ) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
        seconds = self.limits.answer_seconds_max
        asked = {name: link.call(method, path, body, seconds) for name, link in links.items()}
        return await survey.gather(asked)

    async def settle(self, *targets: str) -> Settled:
        """Find out what became of cuts that a coordinator left undecided, and send it to all
        members.

        Raises UndecidedError if it can't be known of one; the others are settled nevertheless.
        """
        group, _ = self._group(targets, None)
        links = self.links_to(group.members)
        statuses, errors = await survey.try_status(links, group.members)
        survey.check_names(statuses, links)
        found = survey.undecided(statuses, group.name)
        others = {cut: each for cut, each in survey.standing(statuses).items() if cut not in found}
        found |= await self._settling.contradicted(others)
        if not found and errors:
            await survey.identify(links)  # perhaps another controller was asked for the volumes
            survey.raise_all(errors)
        cuts, undecided = await self._settling.settle(found, group.name)
        survey.raise_all(undecided)
        return Settled(group.name, cuts)

    # ----------------------------------------------------------------------------- the others

    async def status(self, *targets: str) -> Status:
        """What every controller says, and how the groups stand.

        A controller that does not answer, not to you, or is another, is in `unreachable`. Without
        targets: all. Raises NotFoundError; others if no controller is left to show.
        """
        names = list(dict.fromkeys(targets)) or list(self.groups.groups)
        group = self.groups.resolve(targets) if targets else self.groups.everything()
        links = self.links_to(group.members)
        statuses, errors = await survey.try_status(links, group.members)
        unknown = [name for name, error in errors.items() if isinstance(error, NotFoundError)]
        # perhaps another controller was asked for the volumes
        called, _ = await survey.ask_names({name: links[name] for name in unknown})
        errors |= survey.misplaced(statuses | called, links)
        statuses = {name: each for name, each in statuses.items() if name not in errors}
        survey.raise_all({name: e for name, e in errors.items() if isinstance(e, NotFoundError)})
        silent = UnreachableError.exit_code
        codes = {
            name: silent
            if isinstance(error, TimedOutError) and links[name].silent
            else error.exit_code
            for name, error in errors.items()
        }
        if not statuses:
            refused = {name: e for name, e in errors.items() if codes[name] != silent}
            survey.raise_all(errors if group.alone else refused)
        groups = [self.groups.resolve([name]) for name in names if name in self.groups.groups]
        return status.together(group, groups, statuses, errors, codes)

    async def health(self, *targets: str) -> Wellness:
        """What is not well with the targets, by default with everything, and their controllers."""
        from duplexd.client import unwell  # noqa: PLC0415 - its own command asks it, nobody else

        group = self.groups.resolve(targets) if targets else self.groups.everything()
        return await unwell.ask(group, self.links_to(group.members), not targets)

    async def events(self, *, follow: bool = False) -> AsyncGenerator[Json, None]:
        """The present state of one daemon, then `synced`; with `follow`, then every change."""
        (link,) = self.links_to(self.groups.controllers).values()
        path = f"/v1/events?follow={'true' if follow else 'false'}"
        async with aclosing(link.lines_patiently("GET", path)) as lines:
            async for line in lines:
                yield line

    async def cuts(self, *targets: str) -> Cuts:
        """The cuts of the targets (by default all) that their controllers know, oldest first.

        Raises NotFoundError for a target that its controller does not know.
        """
        group = self.groups.resolve(targets) if targets else self.groups.everything()
        links = self.links_to(group.members)
        await survey.identify(links)
        found, errors = await outcomes.ask(links, targets=group.members)
        unknown = {name: e for name, e in errors.items() if isinstance(e, NotFoundError)}
        survey.raise_all(errors if len(errors) == len(group.members) else unknown)
        return Cuts(
            outcomes.in_order(found.values()),
            {name: str(error) for name, error in errors.items()},
        )

    async def changes(self, *targets: str, since: str, until: str | None = None) -> Changes:
        """What changed between two cuts, each an id, a tag or `latest`; until now without `until`.
        Raises NotFoundError for a cut that is not remembered, WrongStateError where none is.
        """
        from duplexd.client import changed_blocks  # noqa: PLC0415 - only its command asks it

        group, _ = self._group(targets, None)
        return await changed_blocks.ask(group, self.links_to(group.members), since, until)

    async def resync(
        self,
        *targets: str,
        wait: bool = False,
        cut: str = "",
        reader: str = "",
        force: bool = False,
        progress: Progress | None = None,
    ) -> Resynced:
        """Bring suspended secondaries back, with `wait` until all are DUPLEX or failed. One that
        cannot be brought back keeps none of the others from it: the result says which and why.

        Nothing is begun on any controller, and WrongStateError raised, while somebody reads one of
        the secondaries, unless `force`, which ends all readers; or with `cut`, if they are not all
        at it. `reader` ends by it; if there are others then, the result names them.

        `progress` gets (controller, line), with volumes called as in the result. Members first get
        the outcome of the cut that they are at. A cut of which that can't be known is given up,
        with a warning in the result.
        """
        from duplexd.client import bringing_back  # noqa: PLC0415 - as in `suspend`

        group, _ = self._group(targets, None)
        order = bringing_back.Order(wait, Leaving(cut, reader, force), progress)
        return await bringing_back.resync(
            group, self.links_to(group.members), self._settling, order
        )

    async def release_reader(self, *targets: str, reader: str) -> ReaderEnded:
        """End a named reader of secondaries at their cut. Raises NotFoundError if none has it."""
        from duplexd.client import reading  # noqa: PLC0415 - as above

        group, _ = self._group(targets, None)
        return await reading.release(group, self.links_to(group.members), reader)

    async def points(self, *targets: str) -> Points:
        """What can be read of the targets' cuts, and where: what a backup needs to know."""
        from duplexd.client import manifest  # noqa: PLC0415 - as above

        group, _ = self._group(targets, None)
        return await manifest.ask(group, self.links_to(group.members))

    @property
    def marks(self) -> Marking:
        """Consistent points that suspend nobody."""
        from duplexd.client.mark_commands import Marking  # noqa: PLC0415 - as above

        return Marking(self._group, self.links_to, self.limits.settle_seconds)

    @property
    def clones(self) -> Cloning:
        """Cuts as exports that take writes."""
        from duplexd.client.clone_commands import Cloning  # noqa: PLC0415 - as above

        return Cloning(self.groups, self.links_to)

    async def verify(self, *targets: str, progress: Progress | None = None) -> Verified:
        """Compare the legs. `progress` gets (controller, line), as that of `resync`."""
        from duplexd.client import comparing  # noqa: PLC0415 - as above

        group, _ = self._group(targets, None)
        return await comparing.verify(group, self.links_to(group.members), progress)

    async def swap(
        self,
        *targets: str,
        roll_forward: bool = False,
        keep_to: str | None = None,
        lose_changes: bool = False,
        accept_differences: bool = False,
        force: bool = False,
    ) -> Roles:
        """Let the two images of each pair change roles; clients notice nothing.

        `roll_forward`, of SUSPENDED pairs: the secondary leaves its cut for the last change first,
        and with `keep_to` is copied there, as it is at the cut, before that. `lose_changes`: it is
        taken as it is. `accept_differences`: also where the legs are known to differ. `force`: end
        who reads a secondary at its cut. Raises WrongStateError if one of them is needed, or is not
        possible.
        """
        group, _ = self._group(targets, None)
        options = {"roll_forward": roll_forward, "keep_to": keep_to, "lose_changes": lose_changes}
        options |= {"accept_differences": True} if accept_differences else {}
        options |= {"force": True} if force else {}
        return await roles.change(group, self.links_to(group.members), "/v1/swap", options)

    async def repair(self, *targets: str, source: str, dry_run: bool = False) -> Repaired:
        """Make legs that are known to differ equal, with the content of the image of the role
        `source`; with `dry_run`, say where.
        """
        group, _ = self._group(targets, None)
        return await roles.repair(group, self.links_to(group.members), source, dry_run)

    async def rollback(
        self,
        *targets: str,
        to: str = "",
        dry_run: bool = False,
        force: bool = False,
        abandon: bool = False,
        progress: Progress | None = None,
    ) -> RolledBack:
        """Let volumes go back to the cut `to` of their secondaries; see `going_back`."""
        from duplexd.client import going_back  # noqa: PLC0415 - as above

        group, _ = self._group(targets, None)
        wanted = going_back.Wanted(to, dry_run, force, abandon, progress)
        return await going_back.rollback(group, self.links_to(group.members), wanted)

    async def adopt(self, *targets: str) -> Roles:
        """Take the primary images of volumes that are not served as they are."""
        group, _ = self._group(targets, None)
        return await roles.change(group, self.links_to(group.members), "/v1/adopt", {})

    # --------------------------------------------------------------------------------- inside

    def _group(self, targets: tuple[str, ...], hold_max: float | None) -> tuple[Group, float]:
        group = self.groups.resolve(targets)
        hold_max_s = group.hold_max if hold_max is None else hold_max
        if not 0 < hold_max_s <= HOLD_SECONDS_MAX:
            raise UsageError(
                f"invalid hold_max: {hold_max_s!r}; expected seconds above 0, at most"
                f" {HOLD_SECONDS_MAX:g}: Linux's NBD client gives up on a request later"
            )
        return group, float(hold_max_s)

    def links_to(self, names: Iterable[str]) -> dict[str, Http]:
        """Connections to controllers, made when they are first asked for."""
        alone = isinstance(self.groups, OneDaemon)
        found = {}
        for name in names:
            if name not in self._links:
                place = self.groups.controllers[name]
                self._links[name] = Http(name, place, any_name=alone, limits=self.limits)
            found[name] = self._links[name]
        return found
