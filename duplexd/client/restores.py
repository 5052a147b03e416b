"""Restores, of one controller or of several: who closes and opens the volumes that a backup is
written to. What is written is the caller's affair (`backup/restore.py`).

As in a rollback of several controllers: all are asked whether anything is in the way, then all
close, and only when all is written the first of them opens. One that has opened is not asked again:
its volumes are in use by then. So the same command goes on, whatever ended it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import survey
from duplexd.client.member import new_cut_id
from duplexd.client.results import titled
from duplexd.core import rollback as steps
from duplexd.core.rollback_state import ABANDONED, DONE, door
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.client.http import Http
    from duplexd.client.survey import Links
    from duplexd.config.groups import Directory, Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json

_ENDED = frozenset({DONE, ABANDONED})


class Wanted(NamedTuple):
    """The backup, by its name, and the cut that it was made of. `force`: disconnect clients."""

    backup: str
    cut: str
    force: bool = False


class Restores:
    """Of the targets of a client."""

    def __init__(
        self, groups: Directory, links_to: Callable[[Iterable[str]], dict[str, Http]]
    ) -> None:
        self._groups = groups
        self._links_to = links_to

    async def of(self, *targets: str) -> Restoring:
        """Volumes as they are now; see `Restoring`."""
        group = self._groups.resolve(targets)
        links = self._links_to(group.members)
        return Restoring(group, links, await survey.ask_status(group, links))


class Restoring:
    """The volumes of one restore. `controllers` and `volumes` are as in `Points`, so that
    `backup/sources.py` finds them; the export is the one that the restore writes to, from `begin`
    on; `member` is what the groups file calls the controller. `goes_on`: the restore was begun
    before, and `begin` has found it.
    """

    def __init__(self, group: Group, links: Links, statuses: dict[str, Json]) -> None:
        self.name = group.name
        self._group = group
        self._links = links
        self._statuses = statuses
        self._left: dict[str, Http] = dict(links)
        self._wanted = Wanted("", "")
        self.id = ""
        self.goes_on = False
        self.controllers = {
            name: {"nbd": status["controller"].get("nbd") or []}
            for name, status in statuses.items()
        }
        self.volumes: list[Json] = [
            {
                "name": group.title(name, volume["name"]),
                "member": name,
                "controller": status["controller"]["name"],
                "volume": volume["name"],
                "size": volume["size"],
                "state": volume["state"],
                "export": volume["name"],
            }
            for name, status in statuses.items()
            for volume in status["volumes"]
        ]

    def begin(self, wanted: Wanted) -> None:
        """Find out whether such a restore is to go on (`goes_on`), and where. Raises
        WrongStateError if another one is not finished.
        """
        self._wanted = wanted
        found = {
            rollback["id"]: rollback["backup"]
            for status in self._statuses.values()
            for volume in status["volumes"]
            if (rollback := _restore(volume)) and rollback["state"] not in _ENDED
        }
        if len(found) > 1 or any(backup != wanted.backup for backup in found.values()):
            listed = ", ".join(dict.fromkeys(found.values()))
            raise WrongStateError(
                f"another restore of these volumes is not finished (from backup {listed}): finish "
                "it, by its own targets and backup; or go back with `duplexctl rollback`; or give "
                "it up with `duplexctl restore --abandon`"
            )
        self.goes_on = bool(found)
        self.id = next(iter(found), "") or new_cut_id()
        self._left = {name: link for name, link in self._links.items() if not self._is_done(name)}
        for row in self.volumes:
            if row["volume"] in self._closed_on(row["member"]):
                row["export"] = door(row["volume"], self.id)

    def _is_done(self, controller: str) -> bool:
        """Whether all of a controller's volumes are restored by this one, and open."""
        return all(
            (rollback := _restore(volume)).get("id") == self.id and rollback["state"] == DONE
            for volume in self._statuses[controller]["volumes"]
        )

    def _closed_on(self, controller: str) -> list[str]:
        return [
            volume["name"]
            for volume in self._statuses[controller]["volumes"]
            if (rollback := _restore(volume)).get("id") == self.id
            and rollback["state"] not in _ENDED
        ]

    @property
    def left(self) -> list[Json]:
        """The volumes that are not restored and open yet."""
        return [row for row in self.volumes if row["member"] in self._left]

    async def check(self) -> list[Json]:
        """{name, served, undo} of each that is left. Raises what is in the way."""
        return await self._all(steps.CHECK)

    async def close(self) -> None:
        """From here on only this restore can use the volumes. Raises; those that are closed by then
        stay closed.
        """
        await self._all(steps.CLOSE)
        for row in self.left:
            row["export"] = door(row["volume"], self.id)

    async def open(self) -> tuple[list[Json], dict[str, DuplexdError]]:
        """Serve all of them again: those that are, as in `check`; and why some controllers did not.
        Raises if there is only one.
        """
        done, errors = await self._ask(steps.OPEN)
        if len(self._links) == 1:
            survey.raise_all(errors)
        return _rows(done), errors

    async def _all(self, step: str) -> list[Json]:
        done, errors = await self._ask(step)
        survey.raise_all(errors)
        return _rows(done)

    async def _ask(self, step: str) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
        return await survey.gather(
            {name: self._one(link, step) for name, link in self._left.items()}
        )

    async def _one(self, link: Http, step: str) -> Json:
        body = self._wanted._asdict() | {"id": self.id, "step": step}
        targets = {"targets": list(self._group.members[link.name])}
        answer = await link.call_patiently("POST", "/v1/restore", targets | body)
        return titled(self._group, link.name, answer)


def _rows(done: dict[str, Json]) -> list[Json]:
    return [row for answer in done.values() for row in answer["volumes"]]


def _restore(volume: Json) -> Json:
    """The last rollback of a volume, if it was a restore."""
    rollback: Json = volume.get("rollback") or {}
    return rollback if rollback.get("backup") else {}
