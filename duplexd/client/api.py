"""The commands over groups of several controllers."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from duplexd.client import outcomes, survey
from duplexd.client.alone import suspend_alone
from duplexd.client.answers import need
from duplexd.client.coordinator import SETTLE_PAUSE_S, Drive
from duplexd.client.hold import Hold, check_tag, close, suspended
from duplexd.client.http import Http
from duplexd.client.results import (
    Cut,
    Cuts,
    Released,
    Resynced,
    Settled,
    Status,
    Suspended,
    Verified,
)
from duplexd.client.standing import group_state
from duplexd.config import groups_file as group_file
from duplexd.config.groups_file import ControllerEntry, Group, Groups
from duplexd.config.values import check_hold_max
from duplexd.core.cut_states import CUT, NONE, VOID
from duplexd.errors import (
    DuplexdError,
    NotFoundError,
    TimedOutError,
    UndecidedError,
    UnreachableError,
    UsageError,
)
from duplexd.limits import CLIENT_ANSWER_SECONDS_MAX, SETTLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.client.hold import OnCut

    Json = dict[str, Any]

_LOCAL = "local"
_CALM_POLL_S = 0.05


class Client:
    """Commands groups of volumes that are spread over several controllers. Use it with `async with`; one event loop, many tasks.

    Targets are names of groups of the file, or volumes and groups of one controller as `controller:target`; several targets stand for all of
    them together. Errors are those of `duplexd.errors`. A cancelled command leaves no gate closed. `settle_s`: how long members that do not
    answer are asked again for the outcome of a cut; those that are still making their secondaries durable are waited for.
    """

    def __init__(self, groups: Groups, *, settle_s: float = SETTLE_SECONDS) -> None:
        self.groups = groups
        self.settle_s = settle_s
        self._any_name = False  # whether controllers may have other names than `groups` gives them
        self._links: dict[str, Http] = {}

    @classmethod
    def open(
        cls, path: str | Path = group_file.DEFAULT_PATH, *, settle_s: float = SETTLE_SECONDS
    ) -> Self:
        """The groups of a file. Raises ConfigurationError."""
        return cls(group_file.load(path), settle_s=settle_s)

    @classmethod
    def local(cls, socket: str | Path) -> Self:
        """One controller of this machine; its volumes and groups are named as `local:target`."""
        client = cls(Groups(controllers={_LOCAL: ControllerEntry(socket=socket)}))
        client._any_name = True
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    @property
    def silent(self) -> list[str]:
        """Controllers that did not answer when they were last asked, by their names."""
        return [name for name, link in self._links.items() if link.silent]

    # -------------------------------------------------------------------------------------------------------------- cutting

    async def suspend(
        self,
        *targets: str,
        tag: str = "",
        hold_max: float | None = None,
        certificate: bool = False,
        on_cut: OnCut | None = None,
    ) -> Suspended:
        """Cut all targets at one point. `result.verdict` says whether that was achieved; a `void` result is not raised as an error.

        With `certificate` the result of a group on one controller holds what `client.certificate.make` needs, too; that of others always does.

        Raises with nothing suspended if it can't be done; UndecidedError if a member that was cut does not answer any more.

        `on_cut` gets the result before anything else is waited for. If the command is cancelled, it gets what became of the cut if one was
        made or may have been: a result, or an UndecidedError.
        """
        check_tag(tag)
        group, hold_max_s = self._group(targets, hold_max)
        links = self._links_of(group)
        if len(links) == 1:
            (link,) = links.values()
            return await suspend_alone(
                link, group, tag, certificate, lambda: self._calm(group, links), on_cut
            )
        cut_id = secrets.token_hex(8)
        with survey.nothing_suspended():
            statuses = await self._calm(group, links)
            survey.check_members(statuses)
            if (cut := survey.common_cut(statuses)) is not None:
                return _already(group, cut, statuses)
            survey.check_duplex(statuses)
            await survey.measure(links, hold_max_s, cut_id)
        drive = Drive(cut_id, group, links, hold_max_s)
        try:
            await close(drive)
            return await suspended(drive, tag, self.settle_s, on_cut)
        finally:
            await drive.end()

    def quiesce(self, *targets: str, hold_max: float | None = None) -> Hold:
        """Hold the writes of all targets: `async with client.quiesce("db") as hold`. See `Hold`."""
        group, hold_max_s = self._group(targets, hold_max)

        async def drive() -> Drive:
            links = self._links_of(group)
            cut_id = secrets.token_hex(8)
            with survey.nothing_suspended():
                statuses = await self._calm(group, links)
                survey.check_members(statuses)
                survey.check_duplex(statuses)
                await survey.measure(links, hold_max_s, cut_id)
            return Drive(cut_id, group, links, hold_max_s)

        return Hold(drive, self.settle_s)

    async def release(self, target: str) -> Released:
        """End the holds for cuts of a group, or that for one cut by its id, wherever it is held: one that had ended is no error. Raises NotFoundError."""
        is_group = self.groups.has(target)
        group = self.groups.resolve([target]) if is_group else self._everything()
        asked = self._links_of(group)
        statuses, errors = await survey.try_status(asked, group.members)
        survey.check_names(statuses, asked)
        held = {
            cut
            for status in statuses.values()
            for cut in _held_cuts(status, everything=not is_group)
        }
        cuts = held if is_group else held & {target}
        if not cuts:
            await survey.identify(
                asked
            )  # perhaps it is another controller that does not know the volumes
            survey.raise_all(errors)
            if is_group:
                return Released({})
            return await self._release_unseen(target, asked)
        links = self._links_of(self._everything())
        for cut in cuts:
            told = {
                name: link.call("POST", f"/v1/cuts/{cut}/release", {}, CLIENT_ANSWER_SECONDS_MAX)
                for name, link in links.items()
            }
            survey.raise_all((await survey.gather(told))[1])
        return Released(dict.fromkeys(sorted(cuts), True))

    async def _release_unseen(self, lease: str, links: dict[str, Http]) -> Released:
        """End a hold that no status shows: it has ended, or is held for no cut. Raises NotFoundError if no controller knows it."""
        path = f"/v1/leases/{quote(lease, safe='')}"
        told, errors = await survey.gather(
            {
                name: link.call("DELETE", path, None, CLIENT_ANSWER_SECONDS_MAX)
                for name, link in links.items()
            }
        )
        if not told:
            survey.raise_all(
                {
                    name: error
                    for name, error in errors.items()
                    if not isinstance(error, NotFoundError)
                }
            )
            raise NotFoundError(
                f"{lease!r}: no group, and no cut that any controller of the groups file holds for"
            )
        return Released({lease: any(each["released"] for each in told.values())})

    # ------------------------------------------------------------------------------------------------------------- settling

    async def settle(self, *targets: str) -> Settled:
        """Find out, and tell every member, what became of cuts that a coordinator left undecided.

        Raises UndecidedError if it can't be known of one; that of the others is found out all the same.
        """
        group, _ = self._group(targets, None)
        links = self._links_of(group)
        statuses, errors = await survey.try_status(links, group.members)
        survey.check_names(statuses, links)
        found = survey.undecided(statuses, group.name)
        found |= await self._contradicted(
            {cut: each for cut, each in survey.standing(statuses).items() if cut not in found}
        )
        if not found and errors:
            await survey.identify(
                links
            )  # perhaps it is another controller that does not know the volumes
            survey.raise_all(errors)
        cuts, undecided = await self._settle_all(found, group.name)
        survey.raise_all(undecided)
        return Settled(group.name, cuts)

    async def _contradicted(self, cuts: dict[str, list[str]]) -> dict[str, list[str]]:
        """Those of these cuts that are void on a member, perhaps one where no volume stands at them any more, and not on all."""
        found: dict[str, list[str]] = {}
        for cut, members in cuts.items():
            known = [name for name in members if name in self.groups.controllers]
            asked, _ = await outcomes.ask(self._links_of(Group("", dict.fromkeys(known, ()))), cut)
            states = (
                {asked[cut].states.get(name) for name in known} - {NONE, None}
                if cut in asked
                else set()
            )
            if VOID in states and len(states) > 1:
                found[cut] = members
        return found

    async def _calm(self, group: Group, links: dict[str, Http]) -> dict[str, Json]:
        """The status of all members, once these volumes stand at no cut that is undecided or being made. Raises UndecidedError."""
        statuses = await survey.ask_status(group, links)
        survey.check_free(statuses)
        found = survey.undecided(statuses)
        if not found:
            return statuses
        _, undecided = await self._settle_all(found, group.name)
        for error in undecided.values():
            raise UndecidedError(
                f"{error}; or, if that will never be, `duplexctl resync {group.name} --wait` gives the cut up: then suspend"
            )
        return await survey.ask_status(group, links)

    async def _settle_all(
        self, cuts: dict[str, list[str]], group: str
    ) -> tuple[list[Cut], dict[str, DuplexdError]]:
        """What became of each, and why that can't be known of the others, by id."""
        settled: list[Cut] = []
        undecided: dict[str, DuplexdError] = {}
        for cut, members in cuts.items():
            try:
                settled.append(await self._settle_cut(cut, members, group))
            except UndecidedError as error:
                undecided[cut] = error
        return settled, undecided

    async def _settle_cut(self, cut: str, members: list[str], group_name: str) -> Cut:
        unknown = [name for name in members if name not in self.groups.controllers]
        if unknown:
            raise UndecidedError(
                f"cut {cut} was taken together with {', '.join(unknown)}, which the groups file does not know; add it there, and run "
                f"`duplexctl settle {group_name}`"
            )
        group = Group(group_name, dict.fromkeys(members, ()))
        links = self._links_of(group)
        await self._let_stand(cut, links)
        drive = Drive(cut, group, links)
        try:
            await drive.settle()
            await drive.finish(self.settle_s)
        finally:
            await drive.end()
        found, _ = await outcomes.ask(links, cut)
        whole = found.get(cut)
        if drive.round.outcome is None or whole is None:
            raise outcomes.undecided_error(cut, drive.round.unreached, group.name)
        return whole

    async def _let_stand(self, cut: str, links: dict[str, Http]) -> None:
        """While a member's lease lasts, or its secondaries are on their way, it decides by itself; to ask it to would make the cut void.

        However long its disks take. One whose journal has failed decides nothing any more.
        """
        loop = asyncio.get_running_loop()
        pause_s, look_at = _CALM_POLL_S, loop.time() + self.settle_s
        while True:
            found, _ = await outcomes.ask(links, cut)
            states = found[cut].states if cut in found else {}
            deciding = {name: links[name] for name, state in states.items() if state == CUT}
            if not deciding or VOID in states.values():
                return
            if loop.time() >= look_at:
                statuses, _ = await survey.try_status(deciding, dict.fromkeys(deciding, ()))
                if all(status["controller"].get("failed") for status in statuses.values()):
                    return
                look_at = loop.time() + self.settle_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, SETTLE_PAUSE_S)

    # ------------------------------------------------------------------------------------------------------------ the others

    async def status(self, *targets: str) -> Status:
        """What every controller says, and how the groups stand. One that does not answer, not to you, or is another, is in `unreachable`.

        Without targets: all. Raises NotFoundError; ForbiddenError and others if there is nobody else.
        """
        names = list(dict.fromkeys(targets)) or list(self.groups.groups)
        group = self.groups.resolve(targets) if targets else self._everything()
        links = self._links_of(group)
        statuses, errors = await survey.try_status(links, group.members)
        unknown = [name for name, error in errors.items() if isinstance(error, NotFoundError)]
        called, _ = await survey.ask_names(
            {name: links[name] for name in unknown}
        )  # perhaps it is another that does not know it
        errors |= survey.misplaced(statuses | called, links)
        statuses = {name: status for name, status in statuses.items() if name not in errors}
        survey.raise_all(
            {name: error for name, error in errors.items() if isinstance(error, NotFoundError)}
        )
        codes = {
            name: UnreachableError.exit_code
            if isinstance(error, TimedOutError)
            else error.exit_code
            for name, error in errors.items()
        }
        if not statuses:
            survey.raise_all(
                {
                    name: error
                    for name, error in errors.items()
                    if codes[name] != UnreachableError.exit_code
                }
            )
        groups = [
            group_state(self.groups.resolve([name]), statuses)
            for name in names
            if name in self.groups.groups
        ]
        return Status(groups, statuses, {name: str(error) for name, error in errors.items()}, codes)

    async def cuts(self, *targets: str) -> Cuts:
        """The cuts that the controllers of the targets (all, without targets) remember, oldest first."""
        group = self.groups.resolve(targets) if targets else self._everything()
        links = self._links_of(group)
        await survey.identify(links)
        found, errors = await outcomes.ask(links)
        if len(errors) == len(group.members):
            survey.raise_all(errors)
        return Cuts(
            sorted(found.values(), key=lambda cut: cut.time),
            {name: str(error) for name, error in errors.items()},
        )

    async def resync(
        self, *targets: str, wait: bool = False, progress: Callable[[str, Json], None] | None = None
    ) -> Resynced:
        """Bring suspended secondaries back, with `wait` until all are DUPLEX or failed. `progress` gets (controller, line).

        Members are told first what became of the cut they stand at. One of which that can't be known is given up, with a warning in the result.
        """
        group, _ = self._group(targets, None)
        links = self._links_of(group)
        statuses = await survey.ask_status(group, links)
        survey.check_free(statuses)
        _, undecided = await self._settle_all(survey.undecided(statuses), group.name)
        work = self._resync_wait if wait else self._resync
        rows, errors = await survey.gather(
            {name: work(link, group.members[name], progress) for name, link in links.items()}
        )
        survey.raise_all(errors)
        volumes = [
            row | {"name": f"{name}:{row['name']}"} for name, each in rows.items() for row in each
        ]
        warnings = [
            f"secondaries gave up a cut of which nobody knows whether it is consistent: {error}"
            for error in undecided.values()
        ]
        return Resynced(
            volumes, wait, not wait or all(row["state"] == "DUPLEX" for row in volumes), warnings
        )

    async def verify(
        self, *targets: str, progress: Callable[[str, Json], None] | None = None
    ) -> Verified:
        """Compare the legs. `progress` gets (controller, line)."""
        group, _ = self._group(targets, None)
        links = self._links_of(group)
        survey.raise_all(await survey.identify(links))
        asked = {
            name: self._verify(link, group.members[name], progress) for name, link in links.items()
        }
        rows, errors = await survey.gather(asked)
        survey.raise_all(errors)
        volumes = [
            row | {"name": f"{name}:{row['name']}"} for name, each in rows.items() for row in each
        ]
        return Verified(all(row["equal"] for row in volumes), volumes)

    # ---------------------------------------------------------------------------------------------------------------- inside

    def _group(self, targets: tuple[str, ...], hold_max: float | None) -> tuple[Group, float]:
        group = self.groups.resolve(targets)
        try:
            return group, check_hold_max(group.hold_max if hold_max is None else hold_max)
        except ValueError as error:
            raise UsageError(f"hold_max: {error}") from None

    def _everything(self) -> Group:
        return Group("", dict.fromkeys(self.groups.controllers, ()))

    def _links_of(self, group: Group) -> dict[str, Http]:
        for name in group.members:
            if name not in self._links:
                self._links[name] = Http(name, self.groups.controllers[name], self._any_name)
        return {name: self._links[name] for name in group.members}

    async def _resync(self, link: Http, targets: tuple[str, ...], _progress: object) -> list[Json]:
        answer = await link.call_patiently("POST", "/v1/resync", {"targets": list(targets)})
        rows: list[Json] = need(answer, link.name, "volumes")
        return rows

    async def _resync_wait(
        self, link: Http, targets: tuple[str, ...], progress: Callable[[str, Json], None] | None
    ) -> list[Json]:
        how: dict[str, str] = {}
        async with aclosing(
            link.lines_patiently("POST", "/v1/resync", {"targets": list(targets), "wait": True})
        ) as lines:
            async for line in lines:
                if progress is not None:
                    progress(link.name, line)
                if line.get("event") == "started":
                    how = {row["name"]: row["how"] for row in need(line, link.name, "volumes")}
                elif line.get("event") == "done":
                    return [
                        row | {"how": how.get(row["name"])}
                        for row in need(line, link.name, "volumes")
                    ]
        raise UnreachableError(
            f"{link.name}: broke off before the resync ended; `duplexctl status` shows where it stands"
        )

    async def _verify(
        self, link: Http, targets: tuple[str, ...], progress: Callable[[str, Json], None] | None
    ) -> list[Json]:
        async with aclosing(
            link.lines_patiently("POST", "/v1/verify", {"targets": list(targets), "progress": True})
        ) as lines:
            async for line in lines:
                if line.get("event") == "done":
                    rows: list[Json] = need(line, link.name, "volumes")
                    return rows
                if progress is not None:
                    progress(link.name, line)
        raise UnreachableError(f"{link.name}: broke off before the comparison ended")


def _held_cuts(status: Json, everything: bool) -> list[str]:
    names = {volume["name"] for volume in status["volumes"]}
    leases = [
        lease
        for lease in status.get("leases", ())
        if everything or names.intersection(lease.get("volumes", ()))
    ]
    return [lease["cut"] for lease in leases if lease.get("cut")]


def _already(group: Group, cut: Json, statuses: dict[str, Json]) -> Suspended:
    sequences = {
        name: volume["secondary"]["cut"]["sequence"] for name, status in statuses.items() for volume in status["volumes"]
    }  # fmt: skip
    return Suspended(
        cut["verdict"],
        cut["id"],
        cut.get("tag", ""),
        group.name,
        sequences,
        list(survey.volumes(statuses)),
        already=True,
    )
