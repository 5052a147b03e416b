"""Jobs: what brings secondaries to the tail of the journal, and keeps `async` ones there.

A job is a task that alternates blocking calls in a worker (follow the journal, copy a run) with steps of the controller (markers). Stopped or
killed at any point it leaves what recovery knows how to go on with; see ARCHITECTURE.md, "Copies and resync".
"""

from __future__ import annotations

import asyncio
import errno
import math
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import UNCOMMITTED, pack_map
from duplexd.errors import DamageError, DuplexdError, WrongStateError
from duplexd.images.place import lost_image
from duplexd.limits import ASYNC_LAG_BYTES_MAX, FOLLOWER_CHUNK_BYTES, FOLLOWER_FINAL_BYTES
from duplexd.replication.async_follower import Trail, backlog
from duplexd.replication.copying import Copying, Job, in_work
from duplexd.replication.follower import Follower, SecondarySink, SinkError
from duplexd.replication.staging import apply_staging, remove_staging

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller

JOURNAL, MAP, COPY, ALREADY = "journal", "map", "copy", "already"


class Jobs:
    """All jobs of a controller, and the follower of its `async` pairs."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._watchers: list[asyncio.Future[None]] = []
        self.running: dict[str, Job] = {}
        self.trail = Trail(controller, self.moved)
        self.copying = Copying(controller, self.moved)
        self.errors: dict[Pair, str] = {}  # why the last resync of a pair failed
        self.again: list[Pair] = []  # resyncs that a restart cut short: given by recovery

    @property
    def staging_directory(self) -> str:
        """Where staging logs lie."""
        return f"{self._controller.config.controller.state_dir}/staging"

    # -------------------------------------------------------------------------------------------------- seen from outside

    def start(self) -> None:
        """Go on with what was under way."""
        self.trail.start()
        self.adopt(list(self._controller.pairs.values()))
        if self.again:
            self._controller.batches.when_idle(lambda: self._begin(self.again, []))

    def adopt(self, pairs: list[Pair]) -> None:
        """Take care of pairs that are new here: copy those that are PENDING, follow for those that are DUPLEX and `async`, or not at their cut."""
        self.trail.add(
            [pair for pair in pairs if pair.mode == "async" and pair.state == state.DUPLEX]
        )
        self.trail.add(
            [
                pair
                for pair in pairs
                if pair.state == state.SUSPENDED and pair.usable and pair.applied < pair.limit(0)
            ]
        )
        pending = [pair for pair in pairs if pair.state == state.PENDING]
        if pending:
            self._launch(
                Job(
                    secrets.token_hex(4),
                    COPY,
                    pending,
                    min(pair.applied for pair in pending),
                    self._now(),
                )
            )

    async def stop(self) -> None:
        """End all tasks; what they were at is in the journal."""
        tasks = [job.task for job in self.running.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.trail.stop()

    def written(self) -> None:
        """Something was appended."""
        self.trail.wake()

    def behind(self) -> bool:
        """Whether a follower trails so far that new changes must wait for it."""
        if self.trail.lag_bytes > ASYNC_LAG_BYTES_MAX:
            return True
        if not self.running:
            return False
        position = self._controller.writer.log_position
        return any(
            job.follower is not None and job.follower.lag_bytes(position) > job.cap
            for job in self.running.values()
        )

    def _job_of(self, pair: Pair) -> Job | None:
        return next((job for job in self.running.values() if pair in job.pairs), None)

    def lag_bytes(self, pair: Pair) -> int:
        """How many bytes of journal a secondary that is being followed for trails behind."""
        if pair.state == state.DUPLEX:
            return self.trail.lag_bytes
        job = self._job_of(pair)
        return (
            job.follower.lag_bytes(self._controller.writer.log_position)
            if job is not None and job.follower is not None
            else 0
        )

    def began(self, pair: Pair) -> float | None:
        """When the job that works on this pair began."""
        job = self._job_of(pair)
        return None if job is None else job.began

    def floor(self) -> int:
        """The number after which somebody still needs the journal."""
        return min(
            [job.floor for job in self.running.values()] + [self.trail.floor], default=1 << 62
        )

    async def reached(self, pairs: list[Pair], sequence: int) -> None:
        """Wait until the secondaries of suspended pairs stand at `sequence`, or something came in between."""
        trailing = [pair for pair in pairs if pair.mode == "async"]
        await self.until(
            lambda: all(
                pair.applied >= sequence
                or pair.cut is None
                or pair.cut.sequence != sequence
                or not pair.usable
                for pair in trailing
            )
        )

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until `true()`; asked again whenever a job moves. Raises DuplexdError once the controller has failed: then nothing moves."""
        while not true():
            if self._controller.failed:
                raise DuplexdError(f"{self._controller.failed}; restart the daemon")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(future)
            await future

    def moved(self) -> None:
        """Something that `until` may wait for has happened."""
        watchers, self._watchers = self._watchers, []
        for future in watchers:
            if not future.done():
                future.set_result(None)
        self._controller.batches.kick()

    def _now(self) -> float:
        return self._controller.clock.monotonic()

    async def resync(self, pairs: list[Pair]) -> dict[str, Any]:
        """Start; says how for each volume. Raises WrongStateError for a volume without secondary, or whose secondary's path leads to another image,
        with nothing started.
        """
        unsettled = self._controller.cuts.unsettled
        await self.until(
            lambda: (
                not any(
                    (pair.cut is not None and pair.cut.id in unsettled) or self.trail.takes(pair)
                    for pair in pairs
                )
            )
        )
        report: list[dict[str, str]] = []
        # A resync leaves the cuts behind, and a restart does not go back to them: what a freeze left there has to be durable.
        suspended = [pair for pair in pairs if pair.state == state.SUSPENDED]
        await self._controller.maintenance.sync_secondaries(suspended)
        lost = await self._controller.work(
            lambda: [
                str(error.strerror) for pair in suspended if (error := lost_image(pair.secondary))
            ]
        )
        if lost:
            raise WrongStateError(
                lost[0]
                + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else "")
                + "; nothing was started"
            )
        await self._controller.step(lambda: self._begin(pairs, report))
        return {"job": next(iter(self.running), ""), "volumes": report}

    async def wait(self, pairs: list[Pair]) -> dict[str, Any]:
        """Until none of the pairs is PENDING."""
        await self.until(lambda: not any(pair.state == state.PENDING for pair in pairs))
        return {
            "volumes": [
                {
                    "name": pair.name,
                    "state": pair.state,
                    "reason": pair.reason,
                    "copied_bytes": pair.copied_bytes,
                    "error": self.errors.get(pair),
                }
                for pair in pairs
            ]
        }

    # ---------------------------------------------------------------------------------------------------------- beginning

    def _begin(self, pairs: list[Pair], report: list[dict[str, str]]) -> None:
        simplex = [pair.name for pair in pairs if pair.state == state.SIMPLEX]
        if simplex:
            raise WrongStateError(
                f"{', '.join(simplex)}: SIMPLEX, there is no secondary to resync; give it one in the configuration"
            )
        todo = [pair for pair in pairs if pair.state == state.SUSPENDED]
        usable = [pair for pair in todo if pair.usable]
        how = self._how(usable)
        report += [
            {
                "name": pair.name,
                "how": ALREADY if pair not in todo else how if pair.usable else COPY,
                "state": pair.state,
            }
            for pair in pairs
        ]
        for pair in todo:
            pair.copied_bytes = 0
            self.errors.pop(pair, None)
        torn = [pair for pair in todo if not pair.usable]
        if torn:
            maps = {
                str(pair.id): pack_map(
                    pair.changed if pair.changed is not None else ChangeMap(pair.size)
                )
                for pair in torn
            }
            self._controller.mark({"m": "copy", "volumes": maps, "reason": state.RESYNCING})
            self._launch(
                Job(secrets.token_hex(4), COPY, torn, self._controller.writer.written, self._now())
            )
        if usable:
            job = Job(
                secrets.token_hex(4), how, usable, self._controller.writer.written, self._now()
            )
            self._controller.mark(
                {"m": "resync", "job": job.id, "how": how, "volumes": [pair.id for pair in usable]}
            )
            if (
                how == JOURNAL
            ):  # a restart needs the journal from there too, until a checkpoint knows more
                job.floor = min(pair.applied for pair in usable)
                self._controller.maintenance.keep_from(job.floor)
            self._launch(job)
        if todo:
            self._controller.emit("resync-started", volumes=[pair.name for pair in todo], how=how)

    def _how(self, pairs: list[Pair]) -> str:
        """By journal if it reaches back and copies of no volume more than the map would."""
        changed = [pair for pair in pairs if pair.changed is not None]
        if not changed:
            return JOURNAL
        oldest = self._controller.ring.oldest
        reaches = 0 < oldest <= min(pair.applied for pair in changed) + 1
        shorter = all(
            pair.tracked_bytes <= pair.changed.changed_bytes
            for pair in changed
            if pair.changed is not None
        )
        return JOURNAL if reaches and shorter else MAP

    def _launch(self, job: Job) -> None:
        self.running[job.id] = job
        job.task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.id}")

    async def _run(self, job: Job) -> None:
        controller = self._controller
        try:
            if job.how == MAP:
                await self._commit(job, await self.copying.stage(job, self.staging_directory))
            elif job.how == COPY:
                job.whole = False
                await self._copy(job)
            else:
                job.follower = Follower(
                    controller.ring,
                    job.pairs,
                    job.floor,
                    SecondarySink(),
                    controller.writer.written,
                )
                await controller.durable(
                    controller.writer.written
                )  # a cut that nobody knows was left must not be left
            if job.pairs:
                await self._catch_up(job, list(job.pairs))
        except SinkError as error:
            await self._end(partial(self._failed, job, error))
        except Exception as error:  # noqa: BLE001  whatever it is, a pair that nobody works on must not stay PENDING
            await self._end(partial(self._ended_early, job, error))
        finally:
            self.running.pop(job.id, None)
            self.moved()

    async def _end(self, consequences: Callable[[], None]) -> None:
        try:
            await self._controller.step(consequences)
        except OSError:
            if not self._controller.failed:  # then the journal says nothing of it, and the restart that has to come will find out
                raise

    # ------------------------------------------------------------------------------------------------------------- the end

    async def _copy(self, job: Job) -> None:
        """A first copy, or one of what may differ: straight to the secondary, which is unusable until it is done."""
        job.follower = Follower(self._controller.ring, job.pairs, job.floor, SecondarySink())
        for pair in list(job.pairs):
            pair.copy_total = pair.changed.changed_bytes if pair.changed is not None else 0
            pair.copy_done = 0
            await self.copying.changed(job, pair)
            await self._catch_up(job, [pair])

    async def _commit(self, job: Job, count: int) -> None:
        controller, directory = self._controller, self.staging_directory
        assert job.follower is not None
        at = job.floor = job.follower.position
        marker = {
            "m": "commit",
            "job": job.id,
            "at": at,
            "count": count,
            "volumes": [pair.id for pair in job.pairs],
        }
        job.whole = False  # from here on the journal may say that the secondaries are at `at`
        await controller.durable(await controller.step(lambda: controller.mark(marker)))
        pairs = {pair.id: pair for pair in job.pairs}
        await controller.work(
            lambda: apply_staging(controller.disk, directory, job.id, pairs, count, SecondarySink())
        )
        await controller.maintenance.sync_secondaries(job.pairs)
        job.whole = True
        self.copying.copied_bytes += sum(pair.copied_bytes for pair in job.pairs)
        in_work(job.pairs)
        settled = await controller.step(
            lambda: controller.mark(
                {"m": "settled", "job": job.id, "volumes": [pair.id for pair in job.pairs]}
            )
        )
        job.follower = Follower(controller.ring, job.pairs, at, SecondarySink())
        await controller.durable(settled)  # until then a restart needs the staging log
        await controller.work(
            lambda: remove_staging(controller.disk, directory, set(self.running) - {job.id})
        )

    async def _catch_up(self, job: Job, pairs: list[Pair]) -> None:
        """Follow to the tail; these pairs are DUPLEX then. New changes wait ever sooner, so that it ends under any load."""
        controller = self._controller
        first_tail, passed = controller.writer.written, 0.0
        while True:
            assert job.follower is not None
            if job.follower.lag_bytes(
                controller.writer.log_position
            ) <= FOLLOWER_FINAL_BYTES and await controller.step(lambda: self._finish(job, pairs)):
                break
            if not await self.copying.follow(job):
                await controller.step(
                    lambda: None
                )  # what there is belongs to a batch that is under way
                await asyncio.sleep(0)
            if job.follower.position >= first_tail:
                passed = passed or self._now()
                job.cap = max(
                    ASYNC_LAG_BYTES_MAX / 2 ** ((self._now() - passed) * 2), FOLLOWER_FINAL_BYTES
                )
        job.cap = math.inf
        self.moved()

    def _finish(self, job: Job, pairs: list[Pair]) -> bool:
        controller, follower = self._controller, job.follower
        assert follower is not None
        in_work(pairs)
        follower.reach()
        if follower.lag_bytes(controller.writer.log_position) > FOLLOWER_FINAL_BYTES:
            return False
        while follower.position < controller.writer.written:
            follower.step(controller.writer.written, FOLLOWER_CHUNK_BYTES)
        job.floor = follower.position
        if job.how == COPY and not all(
            pair.changed is None or not pair.changed.any() for pair in pairs
        ):
            return False
        sequence = controller.mark({"m": "equal", "volumes": [pair.id for pair in pairs]})
        for pair in pairs:
            pair.applied = sequence
            pair.copy_done = pair.copy_total = 0
            follower.pairs.pop(pair.id, None)
            job.pairs.remove(pair)
        self.trail.add([pair for pair in pairs if pair.mode == "async"])
        controller.emit(
            "duplex",
            volumes=[pair.name for pair in pairs],
            copied_bytes=sum(pair.copied_bytes for pair in pairs),
        )
        return True

    def _failed(self, job: Job, error: SinkError) -> None:
        """A secondary failed: the job's pairs stand where they are, at one number."""
        controller = self._controller
        self._tell(job, f"{error.pair.name}: {error.error.strerror or error.error}")
        at = (
            job.follower.position
            if job.follower is not None and job.follower.sink.moves_secondary
            else job.floor
        )
        unusable = set(job.pairs) if not job.whole else {error.pair} if error.torn else set()
        missed = {}
        if job.how == COPY:
            missed = backlog(controller.ring, job.pairs, at, controller.writer.written)
            for pair, changed in missed.items():
                if pair.changed is not None:
                    changed.merge(pair.changed)
        controller.trouble.freeze(set(job.pairs), error.pair, at, error.error, unusable, missed)

    def _tell(self, job: Job, error: str) -> None:
        self.errors |= dict.fromkeys(job.pairs, error)

    def _ended_early(self, job: Job, error: Exception) -> None:
        """Not the secondary's fault. Untouched secondaries stand at their cut again."""
        controller = self._controller
        self._tell(job, getattr(error, "strerror", None) or str(error))
        untouched = [
            pair
            for pair in job.pairs
            if pair.state == state.PENDING and pair.staging == UNCOMMITTED
        ]
        if job.how == JOURNAL and isinstance(error, DamageError | LookupError):
            self._go_by_map(job, error)
        elif untouched:
            controller.mark(
                {
                    "m": "abandon",
                    "job": job.id,
                    "volumes": [pair.id for pair in untouched],
                    "reasons": job.reasons,
                }
            )
            remove_staging(controller.disk, self.staging_directory, set(self.running) - {job.id})
        elif job.pairs:
            cause = error if isinstance(error, OSError) else OSError(str(error))
            failed = job.pairs[0]
            self._failed(job, SinkError(failed, 0, cause))
        controller.emit(
            "resync-failed", volumes=[pair.name for pair in job.pairs], error=str(error)
        )

    def _go_by_map(self, job: Job, error: Exception) -> None:
        """The part of the journal that only these secondaries still wanted can't be read: their change maps stand for it."""
        controller = self._controller
        pairs, at = (
            list(job.pairs),
            job.follower.position if job.follower is not None else job.floor,
        )
        controller.trouble.freeze(
            set(pairs), pairs[0], at, OSError(errno.EIO, str(error)), set(), {}
        )
        controller.mark(
            {
                "m": "missed",
                "volumes": {str(pair.id): pack_map(ChangeMap(pair.size)) for pair in pairs},
            }
        )
        self._begin(pairs, [])
