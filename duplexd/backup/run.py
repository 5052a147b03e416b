"""One backup, from the suspend to the resync.

The pairs leave DUPLEX for as long as it takes, so every way out ends the reader and begins the
resync: an error, ctrl-C, SIGTERM, a terminal that closes. After a kill the next run does it, by the
record in DEST (`steps.py`).
"""

from __future__ import annotations

import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import duplexd
from duplexd.backup import catalogue, copies, programs, saved, second_reader, sources
from duplexd.backup.background import despite_an_interrupt, in_background
from duplexd.backup.destination import LeftReader, in_words, opened
from duplexd.backup.held_cut import HeldCut
from duplexd.backup.increment import Increment
from duplexd.backup.proofs import Proofs
from duplexd.backup.scratch import scratch
from duplexd.backup.side_by_side import SOCKETS_BYTES, DiffersError
from duplexd.backup.steps import Step
from duplexd.client import certificate as certificates
from duplexd.errors import DuplexdError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from duplexd.backup.destination import Destination
    from duplexd.backup.overlays import Overlay
    from duplexd.backup.retention import Part
    from duplexd.backup.saved import Manifest
    from duplexd.backup.steps import Watch
    from duplexd.client import Client, Suspended
    from duplexd.json_object import Json
    from duplexd.limits import BackupLimits

CERTIFICATE = "certificate.json"
SCRATCH = "duplexd-backup-"
SKIPPED = "skipped"  # what the manifest has instead of an outcome of verify-cut


@dataclass(frozen=True)
class Plan:
    """What the command asks for."""

    targets: tuple[str, ...]
    destination: str
    tag: str = ""
    keep: tuple[Part, ...] = ()
    resync: bool = True
    verify_cut: bool = True
    full_every: int = 1  # every n-th backup is a full one; those between have what changed
    verify: str = saved.CHANGED  # what of those is compared with the cut
    since: str = ""  # for a command of its own: a cut to say the changes since


@dataclass(frozen=True)
class Made:
    """A backup. `faults`: what went wrong although it is whole: no resync began, a hook failed."""

    path: Path
    manifest: Manifest
    removed: list[str]
    faults: list[DuplexdError]

    def json(self) -> Json:
        """As the answer has it. The certificate is in the manifest's file."""
        found = self.manifest.json()
        del found["certificate"]
        faults = [str(each) for each in self.faults]
        return {"path": str(self.path), **found, "removed": self.removed, "faults": faults}


async def run(plan: Plan, client: Client, watch: Watch, limits: BackupLimits) -> Made:
    """Make a backup. Raises DuplexdError if there is none."""
    programs.check()
    with opened(plan.destination) as place:
        return await _Run(plan, client, watch, limits, place).make()


class _Run:
    def __init__(
        self, plan: Plan, client: Client, watch: Watch, limits: BackupLimits, place: Destination
    ) -> None:
        self._plan = plan
        self._client = client
        self._watch = watch
        self._limits = limits
        self._place = place
        self._started = time.time()
        self._reader = LeftReader(new_reader(), plan.targets, ())
        self._cut = HeldCut(client, plan.targets, self._reader.name, watch, limits)
        self._proved = Proofs(place.path)
        self._increment = Increment(
            client, plan.targets, plan.full_every, plan.verify, self._proved, watch
        )

    async def make(self) -> Made:
        """See `run`."""
        self._watch.step(Step.TIDY)
        await self._tidy()
        if self._plan.full_every > 1:
            self._watch.step(Step.BASE)
            await self._increment.choose(self._place.path)
        self._watch.step(Step.DUPLEX)
        self._reader = self._reader._replace(volumes=await self._cut.prepare())
        self._place.note(self._reader)
        try:
            with scratch(SCRATCH, SOCKETS_BYTES) as sockets:
                found, path = await self._from_cut(sockets)
        except BaseException:
            await despite_an_interrupt(self._give_up())
            raise
        self._watch.step(Step.RELEASE)
        unresynced = await despite_an_interrupt(self._leave())
        self._watch.step(Step.PRUNE)
        self._remember()
        faults = [each for each in (unresynced, self._cut.hook_fault) if each is not None]
        return Made(path, found, self._prune(found), faults)

    # --------------------------------------------------------------------------- before the cut

    async def _tidy(self) -> None:
        """What dead runs left. Readers of other targets may be at daemons that this command does
        not ask, so a run for those targets ends them.
        """
        self._place.discard_partial()
        for reader in self._place.left_readers():
            if set(reader.targets) == set(self._plan.targets):
                for volume in reader.volumes:
                    with suppress(NotFoundError):  # it never began, or the cut was left
                        await self._client.release_reader(volume, reader=reader.name)
                self._place.forget(reader)
            else:
                self._watch.warn(
                    f"a backup of {' '.join(reader.targets)} was killed here, and its reader"
                    f" {reader.name} was not ended; the next backup of these targets does that"
                )

    # ------------------------------------------------------------------------------ at the cut

    async def _from_cut(self, sockets: Path) -> tuple[Manifest, Path]:
        """A backup that has its name. The reader is there still."""
        self._watch.step(Step.SUSPEND)
        cut = await self._cut.make(self._plan.tag)
        points = await self._cut.points()
        found = sources.find(points, self._client.groups.controllers)
        name = _name(cut)
        directory = self._place.begin(name)
        changed = await self._cut.while_it_lasts(self._increment.overlays(found, cut.cut))
        try:
            each = await self._copied(found, directory, changed, sockets)
        except DiffersError as error:
            if not changed:
                raise
            self._increment.give_up(str(error))
            self._place.discard_partial()
            directory = self._place.begin(name)
            each = await self._copied(found, directory, {}, sockets)
        shutil.rmtree(directory / copies.CREDENTIALS, ignore_errors=True)
        self._watch.step(Step.PROVE)
        certificate = certificates.make(cut)
        certificates.write(directory / CERTIFICATE, certificate)
        proved = await self._cut.while_it_lasts(self._prove(directory / CERTIFICATE))
        self._watch.step(Step.CONFIRM)
        await self._cut.points()
        self._increment.look_again()
        made = self._manifest(name, cut, certificate, proved, each.saved())
        self._watch.step(Step.PUBLISH)
        with in_words(directory):
            (directory / saved.FILE).write_text(made.text())
        await in_background(partial(self._place.sync, name))
        path = self._place.publish(name)
        for volume in made.volumes:
            self._proved.note(path / volume.file, each.sums[volume.name])
        return made, path

    async def _copied(
        self,
        found: list[sources.Source],
        directory: Path,
        changed: Mapping[str, Overlay],
        sockets: Path,
    ) -> copies.Copies:
        """Copies that are what the cut is. Raises DiffersError."""
        self._watch.step(Step.COPY)
        each = copies.Copies(
            found,
            directory,
            self._limits.copies,
            self._watch.progress,
            changed,
            self._increment.verify == saved.FULL,
            sockets,
        )
        await self._cut.while_it_lasts(self._copy(found, each, directory))
        self._watch.step(Step.COMPARE)
        await self._cut.while_it_lasts(each.compare())
        self._increment.look_again()
        return each

    async def _copy(
        self, found: list[sources.Source], each: copies.Copies, directory: Path
    ) -> None:
        with in_words(directory):
            for source in found:
                source.link_credentials(directory / copies.CREDENTIALS)
        copies.check_room(await each.needed_bytes(), self._place.free_bytes(), self._place.path)
        await each.copy()

    async def _prove(self, certificate: Path) -> str:
        if not self._plan.verify_cut:
            return SKIPPED
        return await second_reader.outcome(certificate, self._increment.verify == saved.FULL)

    def _manifest(
        self,
        name: str,
        cut: Suspended,
        certificate: Json,
        proved: str,
        volumes: tuple[saved.SavedVolume, ...],
    ) -> Manifest:
        return saved.Manifest(
            id=name,
            targets=self._plan.targets,
            tag=cut.tag,
            cut=cut.cut,
            verdict=cut.verdict,
            cut_time=cut.time or self._started,
            started=self._started,
            finished=time.time(),
            program=f"duplexd {duplexd.__version__}",
            controllers=dict(cut.controllers),
            verify_cut=proved,
            volumes=volumes,
            certificate=certificate,
            base=self._base(),
            verify=self._increment.verify,
        )

    def _base(self) -> saved.Base | None:
        base = self._increment.base
        return saved.Base(base.id, base.sha256) if base is not None else None

    # --------------------------------------------------------------------------- after the cut

    async def _leave(self) -> DuplexdError | None:
        """End the reader and begin the resync; why that did not happen."""
        try:
            await self._cut.release()
            self._forget()
            if self._plan.resync:
                await self._cut.resync()
        except DuplexdError as error:
            return type(error)(f"the reader has not ended, or no resync began: {error}")
        return None

    def _forget(self) -> None:
        """A full disk does not prevent the resync: the next run finds that the reader ended."""
        try:
            self._place.forget(self._reader)
        except DuplexdError as error:
            self._watch.warn(str(error))

    async def _give_up(self) -> None:
        """Without a backup: nothing is left of it, and the error that ended it is raised."""
        try:
            self._place.discard_partial()
        except DuplexdError as error:
            self._watch.warn(f"{error}; the next backup removes it")
        why = await self._leave()
        if why is not None:
            self._watch.warn(f"{self._reader.name}: {why}; the next backup does both")

    def _remember(self) -> None:
        """What was read. Without it the next run reads it again."""
        try:
            self._proved.save()
        except DuplexdError as error:
            self._watch.warn(str(error))

    def _prune(self, newest: Manifest) -> list[str]:
        """A backup is there, so what fails here does not fail the command."""
        removed: list[str] = []
        if not self._plan.keep:
            return removed
        try:
            unsound = self._increment.unsound
            for name in catalogue.surplus(self._place.path, newest, self._plan.keep, unsound):
                self._place.remove([name])
                removed.append(name)
        except DuplexdError as error:
            self._watch.warn(f"older backups were not all removed: {error}")
        return removed


def new_reader() -> str:
    """A name that no other run has, and that says whose it is."""
    return f"backup-{socket.gethostname()}-{secrets.token_hex(8)}"


def _name(cut: Suspended) -> str:
    """Sorts by time, and is of this cut alone."""
    when = datetime.fromtimestamp(cut.time or time.time(), UTC)
    return f"{when:%Y%m%dT%H%M%SZ}-{cut.cut}"
