"""`duplexctl restore`: volumes get the content of a backup back, in place.

Everything that can be wrong is found before a volume is closed: the images and all that they lie on
are read and their check-sums compared, and each volume gets an image of its size. Then the pairs
are suspended, because what the secondaries hold is the way back; all volumes are closed to other
clients, on all controllers; what differs is written; and when all of it is durable, all are opened.

Whatever ends it in between leaves them closed. The same command compares again, and so writes what
is left. What is where a run was killed is in `Step`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from duplexd.backup import (
    catalogue,
    chosen,
    copies,
    destination,
    on_clones,
    programs,
    side_by_side,
    sources,
    write_back,
)
from duplexd.backup.scratch import scratch
from duplexd.client.restores import Restores, Wanted
from duplexd.client.results import Result
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.pair_states import DUPLEX, PENDING
from duplexd.core.readers import CLONE, NAMED
from duplexd.errors import DuplexdError, LeaseLostError, WrongStateError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from duplexd.backup.catalogue import Listed
    from duplexd.backup.saved import Manifest, SavedVolume
    from duplexd.client import Client
    from duplexd.client.restores import Restoring
    from duplexd.json_object import Json
    from duplexd.limits import BackupLimits

TAG = "before-restore"
SCRATCH = "duplexd-restore-"
RESTORED, MEASURED, NOT_FINISHED = "restored", "measured", "not finished"


class Step(Enum):
    """In order; the value is what a person reads. A run that is killed leaves nothing until CLOSE
    begins, but perhaps pairs at the cut that UNDO makes. From then on volumes may be closed, and
    from WRITE on all are, until OPEN has ended.
    """

    VERIFY = "checking the images of the backup"
    UNDO = "suspending the pairs, as the way back"
    CLOSE = "closing the volumes"
    WRITE = "writing what differs"
    OPEN = "serving the volumes again"


class Watch(Protocol):
    """Who is shown what a run does."""

    def step(self, step: Step) -> None: ...
    def progress(self, name: str, done: int, total: int) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What the command asks for. `source`: DEST[@BACKUP]; `undo`: only if there is a way back."""

    targets: tuple[str, ...]
    source: str
    dry_run: bool = False
    force: bool = False
    undo: bool = True


@dataclass(frozen=True)
class Restored(Result):
    """`outcome`: "restored"; "measured", with `dry_run`; or "not finished": then `failed` says of
    each controller why, and volumes that are not `served` wait for the same command. `undo`: the
    cut that `rollback` can go back to, "" for none. `left_out`: volumes of the backup that were not
    restored, with which these are not at one point.
    """

    group: str
    outcome: str
    path: str
    backup: str
    cut: str
    tag: str
    cut_time: float
    undo: str
    left_out: list[str]
    volumes: list[Json]  # {name, served, compared_bytes, differing_bytes, written_bytes}
    failed: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)


async def run(plan: Plan, client: Client, watch: Watch, limits: BackupLimits) -> Restored:
    """Restore. Raises DuplexdError; with nothing written unless volumes are closed by then."""
    programs.check()
    directory, wanted = chosen.parse(plan.source)
    with destination.read_only(directory):
        restoring = await Restores(client.groups, client.links_to).of(*plan.targets)
        named = _named(plan.targets, restoring.volumes)
        found = catalogue.find(directory)
        backup = chosen.choose(found, wanted, restoring.volumes, named, time.time())
        watch.step(Step.VERIFY)
        manifest = await _sound(backup, found)
        images = chosen.images(manifest, restoring.volumes, named)
        for text in chosen.elsewhere(restoring.volumes, images):
            watch.warn(text)
        restoring.begin(Wanted(manifest.id, manifest.cut, plan.force))
        work = _Run(plan, client, watch, limits, restoring, backup.path, manifest, images)
        return await work.run()


def _named(targets: Sequence[str], rows: Sequence[Json]) -> set[str]:
    """Those of the volumes that are targets themselves."""
    plain = {target.removeprefix("local:") for target in targets} | set(targets)
    return {str(row["name"]) for row in rows} & plain


async def _sound(backup: Listed, found: Sequence[Listed]) -> Manifest:
    """Its manifest. Raises DuplexdError unless all that it needs is there, as it was written."""
    chain = catalogue.chain(backup, found)
    checked = [backup] if backup.wrong else await catalogue.check(chain)
    wrong = [f"{each.id}: {text}" for each in checked for text in each.wrong]
    if wrong or backup.manifest is None:
        raise DuplexdError(
            printable(
                f"backup {backup.id} cannot be restored: {'; '.join(wrong)}. Nothing was changed;"
                " `duplexctl backups --check` shows which others are sound"
            )
        )
    return backup.manifest


class _Run:
    def __init__(
        self,
        plan: Plan,
        client: Client,
        watch: Watch,
        limits: BackupLimits,
        restoring: Restoring,
        path: Path,
        manifest: Manifest,
        images: Mapping[str, SavedVolume],
    ) -> None:
        self._plan = plan
        self._client = client
        self._watch = watch
        self._slots = asyncio.Semaphore(limits.copies)
        self._restoring = restoring
        self._path = path
        self._manifest = manifest
        self._images = images
        self._figures = {str(row["name"]): write_back.Figures() for row in restoring.left}
        self._undo = ""

    async def run(self) -> Restored:
        """See the function of that name."""
        if self._plan.dry_run:
            await self._write(writes=False)
            served = {str(row["name"]) for row in self._restoring.volumes}
            return self._restored(MEASURED, served, {})
        rows = await self._restoring.check()
        if not self._restoring.goes_on:
            self._watch.step(Step.UNDO)
            rows = await self._make_way_back(rows)
        self._undo = _way_back(rows)
        if not self._undo and self._plan.undo and not self._restoring.goes_on:
            raise WrongStateError(self._no_way_back(rows))
        if self._plan.undo and not self._restoring.goes_on:
            await self._refuse_readers()
        self._watch.step(Step.CLOSE)
        await self._restoring.close()
        try:
            self._watch.step(Step.WRITE)
            await self._write(writes=True)
            self._watch.step(Step.OPEN)
            opened, errors = await self._restoring.open()
        except DuplexdError as error:
            raise type(error)(
                f"{error}; the restore is not finished, and its volumes are not served: the same"
                " command goes on with it"
            ) from None
        self._look_at_way_back(rows, opened)
        served = {str(row["name"]) for row in self._restoring.volumes}
        for row in self._restoring.left:
            if row["member"] in errors:
                served.discard(str(row["name"]))
        return self._restored(NOT_FINISHED if errors else RESTORED, served, errors)

    # ----------------------------------------------------------------------------- the way back

    async def _make_way_back(self, rows: list[Json]) -> list[Json]:
        """Suspend those that are DUPLEX; `check` after that. If others are at a cut already, there
        is no one cut of all, and nothing is suspended.
        """
        left = self._restoring.left
        if pending := [str(row["name"]) for row in left if row["state"] == PENDING]:
            raise WrongStateError(
                printable(
                    f"{', '.join(pending)}: its secondary is being copied; wait for that with"
                    " `duplexctl resync TARGET --wait`"
                )
            )
        duplex = [str(row["name"]) for row in left if row["state"] == DUPLEX]
        if not duplex or (self._plan.undo and len(duplex) < len(left)):
            return rows
        made = await self._client.suspend(*duplex, tag=TAG)
        if made.verdict != CONSISTENT:
            raise LeaseLostError(
                f"cut {made.cut} is {made.verdict}, so it is no way back: {printable(made.why)};"
                " nothing was restored. `duplexctl resync` leaves it; then try again"
            )
        return await self._restoring.check()

    async def _refuse_readers(self) -> None:
        """A named reader ends with a resync, as a backup does, and so does a drill that made its
        cut: the way back would end with it.
        """
        found = await self._client.status(*self._plan.targets)
        readers = [
            f"{row['name']} by {reader['name']}"
            for row in found.volumes
            for reader in row.get("readers") or ()
            if reader["kind"] == NAMED or (reader["kind"] == CLONE and _is_of_a_drill(row))
        ]
        if readers:
            raise WrongStateError(
                printable(
                    f"cut {self._undo} would be the way back, and is read: {', '.join(readers)}."
                    " Who reads it resyncs then, and nothing could be undone any more. Nothing was"
                    " changed. Wait until that has ended, or end it with `duplexctl release-reader"
                    " TARGET NAME`; or say --no-undo"
                )
            )

    def _look_at_way_back(self, rows: Sequence[Json], opened: Sequence[Json]) -> None:
        """A secondary may have failed, or its cut be found void, since `rows` were asked for."""
        now = {row["name"]: row for row in (*rows, *opened)}
        before, self._undo = self._undo, _way_back([*now.values()])
        if before and not self._undo:
            lost = ", ".join(str(row["name"]) for row in now.values() if row["undo"] != before)
            self._watch.warn(
                printable(
                    f"{lost}: there is no way back any more: its secondary has left cut {before},"
                    " or the cut was found to be void; `duplexctl status` shows which"
                )
            )

    def _no_way_back(self, rows: list[Json]) -> str:
        states = {str(row["name"]): row["state"] for row in self._restoring.left}
        away = ", ".join(
            f"{row['name']} ({states[row['name']]}, cut {row['undo'] or 'none'})" for row in rows
        )
        return printable(
            "there would be no way back: the secondaries are not all at one consistent cut:"
            f" {away}. Nothing was changed. Bring the pairs to DUPLEX first, or say --no-undo"
        )

    # ------------------------------------------------------------------------------- the content

    async def _write(self, writes: bool) -> None:
        found = sources.find(self._restoring, self._client.groups.controllers)
        names = {str(row["name"]) for row in self._restoring.left}
        with scratch(SCRATCH, side_by_side.SOCKETS_BYTES) as above:
            works = [self._one(each, above, writes) for each in found if each.name in names]
            await side_by_side.together(works)

    async def _one(self, source: sources.Source, above: Path, writes: bool) -> None:
        image = self._path / self._images[source.name].file
        show = partial(self._watch.progress, source.name)
        source.link_credentials(above / copies.CREDENTIALS)
        credentials = source.credentials(above / copies.CREDENTIALS)
        job = side_by_side.Job(image, source, credentials, above, writes)
        async with self._slots:
            await write_back.bring_back(job, self._figures[source.name], show)

    def _restored(
        self, outcome: str, served: set[str], errors: Mapping[str, DuplexdError]
    ) -> Restored:
        manifest = self._manifest
        return Restored(
            group=self._restoring.name,
            outcome=outcome,
            path=str(self._path),
            backup=manifest.id,
            cut=manifest.cut,
            tag=manifest.tag,
            cut_time=manifest.cut_time,
            undo=self._undo,
            left_out=chosen.left_out(manifest, self._images),
            volumes=[
                {"name": name, "served": name in served, **figures.json()}
                for name, figures in self._figures.items()
            ],
            failed={name: str(error) for name, error in errors.items()},
            exit_codes={name: error.exit_code for name, error in errors.items()},
        )


def _is_of_a_drill(volume: Json) -> bool:
    """Whether the cut that it is at was made by `drill --suspend`."""
    cut = (volume.get("secondary") or {}).get("cut") or {}
    return bool(cut.get("tag") == on_clones.TAG)


def _way_back(rows: Sequence[Json]) -> str:
    """The consistent cut that all secondaries are at; "" for none."""
    cuts = {str(row["undo"]) for row in rows}
    return cuts.pop() if len(cuts) == 1 else ""
