"""Clients without sockets: they call the controller as the NBD server does, and record answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO, Change

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.sim.machine import Machine

SECTOR = 512


class Promises:
    """The answers that the clients of one controller got, over all its lives."""

    def __init__(self) -> None:
        self.acknowledged = 0  # highest number of an acknowledged change
        self.flushed = 0  # highest number acknowledged before an acknowledged flush was asked for
        self.replies = 0
        self.refused = 0


class Payloads:
    """The receive buffers of a connection: each is used again, for other bytes, as soon as every
    change with a view of it is finished, or has its own copy, which is made while it waits.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._lent: list[tuple[list[Change], memoryview]] = []

    def lend(self, changes: list[Change], buffer: memoryview) -> None:
        """The payloads of `changes` are views of `buffer`."""
        self._lent.append(([change for change in changes if change.kind == WRITE], buffer))

    def take_back(self) -> None:
        """Make copies for some of those that wait: the room is wanted."""
        if self._rng.random() < 0.5:
            for changes, _ in self._lent:
                for change in changes:
                    if not change.begun:
                        change.own()
        self._use_again()

    def finished(self, change: Change) -> None:
        for changes, _ in self._lent:
            if change in changes:
                changes.remove(change)
        self._use_again()

    def _use_again(self) -> None:
        kept = []
        for changes, buffer in self._lent:
            if any(type(change.data) is memoryview for change in changes):
                kept.append((changes, buffer))
            else:
                buffer[:] = b"\xee" * len(buffer)
        self._lent = kept


class SimClient:
    """One connection. `run` issues some changes, several at a time. `flushes`: the share of
    requests that are a FLUSH; half as many changes have FUA.
    """

    def __init__(self, machine: Machine, rng: Random, flushes: float = 0.2) -> None:
        self._machine = machine
        self._rng = rng
        self._flushes = flushes
        self._under_way: dict[
            int, tuple[Change, bytes, int]
        ] = {}  # by cookie: with its payload, and what was acknowledged when it was issued
        self._cookie = 0
        self._gone = False
        self._payloads = Payloads(rng)
        self._woken = asyncio.Event()

    # As the write path sees a client

    def finished(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._finished(change)

    def _finished(self, change: Change) -> None:
        machine, promises = self._machine, self._machine.promises
        self._payloads.finished(change)
        if machine.disk.dead or self._gone:  # nobody hears it
            return
        _, payload, before = self._under_way.pop(change.cookie)
        promises.replies += 1
        if change.error:
            promises.refused += 1
            assert machine.may_refuse or machine.refuses(change), (
                f"a change of {change.volume.name} was refused with {change.error}"
            )
        elif change.kind == FLUSH:
            promises.flushed = max(promises.flushed, before)
        else:
            assert change.sequence > before, "a later change got an earlier number"
            machine.check_journaled(change, payload)
            promises.acknowledged = max(promises.acknowledged, change.sequence)
            if change.fua:
                promises.flushed = max(promises.flushed, before, change.sequence)
        self._woken.set()

    # What it does

    def names(self) -> list[str]:
        """The volumes that it may use."""
        return self._machine.controller.volume_names()

    async def run(self, wakeups: int) -> None:
        for _ in range(wakeups):
            self._issue()
            while len(self._under_way) > 6:
                await self._progress()
            if self._rng.random() < 0.3:
                await asyncio.sleep(self._rng.choice((0, 0.001, 0.05, 0.4)))
            if self._rng.random() < 0.04:
                self.disconnect()
                return
        while self._under_way:
            await self._progress()

    def disconnect(self) -> None:
        self._gone = True
        self._under_way.clear()
        self._machine.note("disconnect")
        self._machine.controller.disconnected(self)

    async def _progress(self) -> None:
        self._woken.clear()
        if self._under_way:
            await self._woken.wait()

    def _issue(self) -> None:
        rng, controller = self._rng, self._machine.controller
        if rng.random() < self._flushes:
            flush = self._change(FLUSH, rng.choice(self.names()))
            controller.flush(flush)
            return
        buffer, changes = bytearray(), list[Change]()
        for _ in range(rng.choice((1, 1, 2, 5))):
            changes.append(
                self._change(
                    rng.choice((WRITE, WRITE, WRITE, WRITE, ZERO, TRIM)),
                    rng.choice(self.names()),
                )
            )
            buffer += changes[-1].data
        view, at = memoryview(buffer), 0
        for change in changes:
            if change.kind == WRITE:
                change.data = view[at : at + change.length]
                at += change.length
        self._payloads.lend(changes, view)
        controller.submit(changes)
        self._payloads.take_back()

    def _change(self, kind: int, name: str) -> Change:
        rng, volume = self._rng, self._machine.controller.volume(name)
        assert volume is not None
        length = SECTOR * rng.choice((1, 3, 8, 8, 8, 16, 40, 90)) + rng.choice((0, 0, 0, 100))
        offset = min(
            SECTOR * int(volume.size / SECTOR * rng.random() ** 2) + rng.choice((0, 0, 0, 77)),
            volume.size - length,
        )
        self._cookie += 1
        data = bytes([rng.randrange(1, 256)]) * length if kind == WRITE else b""
        change = Change(
            self,
            self._cookie,
            volume,
            kind,
            offset,
            length,
            data,
            fua=kind != FLUSH and rng.random() < self._flushes / 2,
            allocate=kind == ZERO and rng.random() < 0.3,
        )
        promises = self._machine.promises
        self._under_way[self._cookie] = (change, data, promises.acknowledged)
        self._machine.note(
            f"{'?WZTF'[kind]} {name} {offset}+{length}{' fua' if change.fua else ''}"
        )
        return change
