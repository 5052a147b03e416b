"""A seeded scenario: several lives of one controller on one disk, with clients, an administrator,
broken disks and crashes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError
from duplexd.units import KIB
from tests.sim import checks
from tests.sim.checks import Cuts
from tests.sim.clients import SimClient
from tests.sim.disk import PowerCut
from tests.sim.machine import Died, Machine, broken_sync, no_space

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLIENTS = 3


class Scenario:
    """Several lives; the last one ends with all pairs equal. `losses`: the share of crashes that
    lose un-synced writes; `flushes`: of requests that ask for a sync.
    """

    losses = 0.5
    flushes = 0.2
    patience_s = 150.0  # how long what the administrator does may take

    def __init__(self, seed: int, faults: bool = True) -> None:
        self.machine = Machine(seed)
        self.rng = self.machine.rng
        self.faults = faults and self.rng.random() < 0.5
        self.cuts = Cuts()
        # the journal may have lost its end since the last recovery that came to its end
        self.power = False
        self.unsure: set[str] = set()  # see `checks.check_quiet`
        self.kept: dict[str, tuple[str, bool]] | None = (
            None  # states before a kill that must not change them
        )
        self._last = False
        self.power_fails = False  # together with the process that died
        for number in range(self.rng.randint(2, 5)):
            self._add_volume(f"v{number}")
        self._regroup()

    def _add_volume(self, name: str) -> None:
        size = self.rng.choice((128, 256, 512)) * KIB
        self.machine.add_volume(
            name, size, self.rng.random() < 0.85, self.rng.choice(("sync", "sync", "async"))
        )

    def _regroup(self) -> None:
        names = list(self.machine.volumes)
        self.machine.groups = (
            {"all": names, "first": names[:2]} if self.rng.random() < 0.7 else {"first": names[:1]}
        )

    # ---------------------------------------------------------------------------------------- lives

    def run(self) -> None:
        """All lives. Raises AssertionError, or what the code under test raised."""
        with self.machine.history.tapped():
            for _ in range(self.rng.randint(2, 5)):
                self._live_and_die()
            self._last = True
            self._heal()
            self.machine.live(self._life)
            checks.check_failures(self.machine, self.faults)

    def _live_and_die(self) -> None:
        machine, rng = self.machine, self.rng
        if rng.random() < 0.85:  # else it shuts down cleanly, or at a quiet moment
            machine.disk.cut_at(
                rng.choice((rng.randint(1, 40), rng.randint(1, 250), rng.randint(1, 1500)))
            )
        power, self.power_fails = rng.random() < self.losses, False
        try:
            machine.live(self._life)
        except Died:
            power = power or self.power_fails
        else:
            power = power and rng.random() < 0.5
        checks.check_failures(machine, self.faults)
        self._note_states(power)
        if not self.faults or rng.random() < 0.5:
            self._heal()
        for directory in ("/state/journal", "/state/staging"):
            machine.disk.heal(directory)  # a start on a full disk may say so and end
        self._crash(power)

    def _crash(self, power: bool) -> None:
        self.machine.crash(power)

    def _note_states(self, power: bool) -> None:
        self.power = self.power or power
        if self.power or self.faults:
            self.kept = None

    def _heal(self) -> None:
        for name in self.machine.volumes:
            self.machine.disk.heal(checks.secondary_path(name))
        for directory in ("/state/journal", "/state/staging"):
            self.machine.disk.heal(directory)

    async def _life(self) -> None:
        machine = self.machine
        await self._start()
        machine.note(
            f"started at {machine.controller.timeline.written}, tail {machine.history.tail}"
        )
        checks.check_tail(machine, self.power)
        checks.check_primaries(machine)
        if not self.faults:
            checks.check_secondaries(machine, self.cuts)
        else:
            self.cuts.promised.clear()
            checks.check_secondaries(machine, self.cuts)
        after = checks.states(machine)
        if self.kept is not None:
            checks.check_kept(self.kept, after)
        self.power = False
        self.kept = after
        await (self._end() if self._last else self._busy())

    async def _start(self) -> None:
        await self.machine.start()

    async def _busy(self) -> None:
        """Clients and the administrator, concurrently."""
        machine, rng = self.machine, self.rng
        clients = [asyncio.ensure_future(self._client()) for _ in range(CLIENTS)]
        for _ in range(rng.randint(4, 25)):
            self.kept = (
                None  # what the administrator asks for may be done, or not, when the crash comes
            )
            await self._administrate()
            self.kept = checks.states(machine)
            if machine.controller.failed:
                machine.note("failed")
                break
        await machine.until(
            lambda: all(client.done() for client in clients), "answers to all changes"
        )
        await asyncio.gather(*clients)
        if not machine.controller.failed:
            await self._rest()
        if rng.random() < 0.3:
            machine.note("stop")
            await asyncio.wait_for(machine.controller.stop(), 100)
        else:
            machine.disk.die()

    async def _client(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            await SimClient(self.machine, self.rng, self.flushes).run(self.rng.randint(1, 25))

    async def _end(self) -> None:
        """Bring all to DUPLEX: then all legs are equal."""
        machine = self.machine
        self.cuts.promised.clear()
        await SimClient(machine, self.rng).run(5)
        await self._rest()
        names = [
            name
            for name, pair in machine.controller.volumes.by_name.items()
            if pair.state != state.SIMPLEX
        ]
        await machine.controller.resync(names)
        await asyncio.wait_for(machine.controller.resync_wait(names), 200)
        await self._rest()
        for name in names:
            pair = machine.controller.volumes.by_name[name]
            assert pair.state == state.DUPLEX, (
                f"{name} is {pair.state} ({pair.reason}) after a resync with nothing in its way"
            )
        checks.check_equal(machine)
        result = await machine.controller.verify(names)
        assert result["equal"], result
        if names:
            self.cuts.returned(await machine.controller.suspend(names))
            assert self.cuts.promised, "a suspend with nothing in its way was void"
            checks.check_secondaries(machine, self.cuts)
        await asyncio.wait_for(machine.controller.stop(), 100)

    async def _rest(self) -> None:
        """Wait until followers have arrived and nothing is in flight; then check everything
        exactly.
        """
        machine = self.machine
        controller = machine.controller

        def settled() -> bool:
            behind = any(
                pair.mode == "async"
                and pair.usable
                and not pair.failed
                and pair.applied < pair.limit(controller.timeline.written)
                and pair.state in {state.DUPLEX, state.SUSPENDED}
                for pair in controller.volumes.by_name.values()
            )
            return machine.quiet and not behind

        while True:
            await machine.until(settled, "rest")
            await asyncio.sleep(1e-6)  # what follows from the last answer has been done then
            if settled():
                break
        checks.check_quiet(machine, self.cuts, self.unsure)

    # ---------------------------------------------------------------------------- the administrator

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        actions: list[Callable[[], Awaitable[None]]] = [
            self._suspend, self._suspend, self._held_suspend, self._hold, self._resync,
            self._resync, self._checkpoint, self._reload, self._look, self._look,
        ]  # fmt: skip
        return actions + [self._trouble, self._trouble, self._cure] * self.faults

    async def _administrate(self) -> None:
        rng, machine = self.rng, self.machine
        action = rng.choice(self._actions())
        machine.note(action.__name__[1:])
        try:
            await asyncio.wait_for(action(), self.patience_s)
        except TimeoutError:
            raise AssertionError(
                f"{action.__name__} did not end in {self.patience_s:g} seconds\n"
                f"  {checks.describe(machine)}"
            ) from None
        except (DuplexdError, OSError) as error:
            if isinstance(error, OSError) and not machine.controller.failed:
                raise
            machine.note(f"  {type(error).__name__}: {error}")
        await asyncio.sleep(rng.choice((0, 0, 0.01, 0.3, 3)))

    def _names(self) -> list[str]:
        controller, rng = self.machine.controller, self.rng
        targets = rng.choice(
            (
                ["all"],
                ["first"],
                rng.sample(
                    list(controller.volumes.by_name),
                    rng.randint(1, len(controller.volumes.by_name)),
                ),
            )
        )
        names = controller.resolve(
            [
                target
                for target in targets
                if target in controller.volumes.groups or target in controller.volumes.by_name
            ]
        )
        return [name for name in names if controller.volumes.by_name[name].state != state.SIMPLEX]

    async def _suspend(self, lease: str | None = None, names: list[str] | None = None) -> None:
        names = self._names() if names is None else names
        result = await self.machine.controller.suspend(names, "tag", lease)
        self.machine.note(
            f"  {result['verdict']} {result['cut']} at {result['controllers']} {names}"
        )
        self.cuts.returned(result)

    async def _held_suspend(self) -> None:
        names, rng = self._names(), self.rng
        lease = await self.machine.controller.quiesce(names, rng.choice((0.05, 1.0, 5.0)), "sim")
        await asyncio.sleep(rng.choice((0, 0.01, 0.2)))
        await self._suspend(lease.id, names)

    async def _hold(self) -> None:
        rng, controller = self.rng, self.machine.controller
        lease = await controller.quiesce(self._names(), rng.choice((0.05, 1.0)), "sim")
        await asyncio.sleep(rng.choice((0, 0.01, 0.2)))
        if rng.random() < 0.5:
            controller.release(lease.id)
        if rng.random() < 0.3:
            await controller.leases.quiesce(
                [controller.volumes.by_name[name] for name in self._names()], 0.5, "another"
            )

    async def _resync(self) -> None:
        controller, names = self.machine.controller, self._names()
        self.cuts.forget(names)
        begun = {
            name: controller.volumes.by_name[name].applied
            for name in names
            if controller.volumes.by_name[name].state == state.SUSPENDED
        }
        report = await controller.resync(names)
        self.machine.note(f"  {[(entry['name'], entry['how']) for entry in report['volumes']]}")
        if self.rng.random() < 0.6:
            began_at = controller.timeline.written
            await controller.resync_wait(names)
            for name, cut in begun.items():
                self._check_copied(name, cut, began_at)

    def _check_copied(self, name: str, cut: int, began_at: int) -> None:
        """No more than changed, in grains, and what was written meanwhile."""
        machine = self.machine
        pair = machine.controller.volumes.by_name[name]
        if self.faults or pair.state != state.DUPLEX or machine.disk.lives:
            return
        meanwhile = sum(
            len(entry.data)
            for entry in machine.history.changed_between(
                pair.id, began_at - 1, machine.controller.timeline.written
            )
        )
        bound = (
            checks.grains_bytes(machine, name, cut, machine.controller.timeline.written) + meanwhile
        )
        assert pair.copied_bytes <= bound, (
            f"{name}: copied {pair.copied_bytes} bytes where {bound} changed since {cut}"
        )

    async def _checkpoint(self) -> None:
        await self.machine.controller.checkpointer.checkpoint()

    async def _look(self) -> None:
        await asyncio.sleep(0.3)
        machine = self.machine
        if machine.quiet and not machine.controller.timeline.busy:
            checks.check_secondaries(machine, self.cuts)

    async def _reload(self) -> None:
        machine, rng = self.machine, self.rng
        simplex = [name for name, config in machine.volumes.items() if config.secondary is None]
        if simplex and rng.random() < 0.6:
            name = rng.choice(simplex)
            old = machine.volumes[name]
            machine.add_volume(name, old.size, True, old.mode)
        elif len(machine.volumes) < 6:
            self._add_volume(f"v{len(machine.volumes)}")
        self._regroup()
        await machine.controller.reload(machine.config())

    # -------------------------------------------------------------------------------------- trouble

    async def _trouble(self) -> None:
        """A fault of a secondary, or a full disk under the journal."""
        machine, rng = self.machine, self.rng
        self.cuts.promised.clear()
        path = checks.secondary_path(rng.choice(list(machine.volumes)))
        kind = rng.choice(
            ("full", "tear", "sync", "error", "journal", "dead", "staging", "torn journal")
        )
        machine.note(f"  {kind} {path}")
        if kind == "full":
            no_space(machine, path)
        elif kind == "tear":
            machine.disk.tear(path, after=rng.randint(0, 5))
        elif kind == "sync":
            broken_sync(machine, path)
        elif kind == "error":
            machine.disk.fail(
                path, 5, after=rng.randint(0, 5), operation="write", times=rng.randint(1, 3)
            )
        elif kind == "dead":
            for operation in ("write", "zero", "reserve", "read", "sync"):
                machine.disk.fail(path, 5, after=rng.randint(0, 5), operation=operation)
        elif kind == "staging":
            no_space(machine, "/state/staging")
        elif kind == "journal":
            machine.may_refuse = True
            no_space(machine, "/state/journal")
        else:
            machine.may_refuse = True
            machine.disk.tear("/state/journal", after=rng.randint(0, 30))

    async def _cure(self) -> None:
        self._heal()


def run(seed: int, kind: Callable[[int], Scenario] = Scenario) -> None:
    """One seed; a failure names it, with the last operations."""
    scenario = kind(seed)
    try:
        scenario.run()
    except (Exception, PowerCut) as error:
        operations = "\n    ".join(scenario.machine.operations)
        raise AssertionError(
            f"seed {seed}: {type(error).__name__}: {error}\n"
            f"  {checks.describe(scenario.machine)}\n"
            f"  last operations:\n    {operations}"
        ) from error
