"""Small calls on many disks, one after the other in one worker.

A call in a worker costs the loop ten times what a look at a path does, and there may be thousands
of paths. So one worker looks at all of them: two would take the interpreter lock from each other at
every look, which costs more than it saves. If it hangs, it is given up as in `watch.py`, and each
disk of those behind gets a worker.

A disk that hangs has hundreds of paths, and each would hang a thread. So two of its calls that hang
stand for the whole disk: no more is called there until one of them has returned. One is not enough,
because the files of a network file system can hang one by one. What has returned is not referred to
any more, for an image that was given up is closed with its last reference (`engine/hung.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from duplexd.runtime.tasks import several_at_once
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from duplexd.runtime.threads import Workers

T = TypeVar("T", bound="Hashable")
R = TypeVar("R")

HANG_MAX = 2  # calls on one disk
_TOGETHER = 64  # results that are said in one turn of the loop
_SAID_SECONDS = 1.0  # what a slow walk has found until then
_AT_ONCE = 32  # disks


class OneByOne(Generic[T, R]):
    """`call(thing)`, which raises nothing, is made in a worker. `disk_of(thing)`: what hangs
    together. Then one of these is called in the loop, as soon as it is known:

        done(thing, result)
        hung(thing)             it takes longer than `seconds`, or did so before and still hangs
        left(thing)             it was not called: others on its disk hang
    """

    def __init__(
        self,
        workers: Workers,
        call: Callable[[T], R],
        disk_of: Callable[[T], str],
        done: Callable[[T, R], None],
        hung: Callable[[T], None],
        left: Callable[[T], None] = lambda _thing: None,
    ) -> None:
        self._workers = workers
        self._call = call
        self._disk_of = disk_of
        self._done, self._hung, self._left = done, hung, left
        self._inside: set[T] = set()  # that a worker calls now, given up or not
        self._given_up: dict[T, str] = {}  # with the disk that it was on

    async def call_all(self, things: Sequence[T], seconds: float) -> None:
        """Once for each of them, except those that hang."""
        behind = await self._walk(things, seconds)
        disks: dict[str, list[T]] = {}
        for thing in behind:
            disks.setdefault(self._disk_of(thing), []).append(thing)
        await several_at_once(
            list(disks.values()), partial(self._on_disk, seconds=seconds), _AT_ONCE
        )

    async def _on_disk(self, things: Sequence[T], seconds: float) -> None:
        while things:
            things = await self._walk(things, seconds)

    async def _walk(self, things: Sequence[T], seconds: float) -> Sequence[T]:
        """Call them in one worker. Returns those behind one that hangs."""
        if not (asked := deque(self._answering(things))):
            return ()
        watch, found = Watch[T](), deque[tuple[T, R]]()
        calls = partial(self._calls, watch, asked, found)
        walking = asyncio.ensure_future(
            patiently(self._workers.of(watch), watch, calls, lambda _thing: seconds)
        )
        try:
            while not walking.done():
                await asyncio.wait((walking,), timeout=_SAID_SECONDS)
                await self._say(found)
            await self._say(found)  # of what was found meanwhile
            await walking
        except HungError as error:
            self._gave_up(cast("T", error.what))
            behind = list(asked)
            asked.clear()  # the thread that hangs has it
            return behind
        finally:
            walking.cancel()
            del walking  # it has the error, and that this frame: a cycle, which kept things open
        return ()

    def _gave_up(self, thing: T) -> None:
        self._given_up[thing] = self._disk_of(thing)
        if thing not in self._inside:  # it has returned meanwhile
            self._given_up.pop(thing, None)
        self._hung(thing)

    def _answering(self, things: Iterable[T]) -> Iterable[T]:
        """Those that can be called; of the others it is said why not."""
        hanging = list(self._given_up.values())
        silent = {disk for disk in hanging if hanging.count(disk) >= HANG_MAX}
        for thing in things:
            if thing in self._given_up:
                self._hung(thing)
            elif self._disk_of(thing) in silent:
                self._left(thing)
            else:
                yield thing

    async def _say(self, found: deque[tuple[T, R]]) -> None:
        for number in range(1, len(found) + 1):
            self._done(*found.popleft())
            if number % _TOGETHER == 0:
                await asyncio.sleep(0)

    def _calls(self, watch: Watch[T], things: deque[T], found: deque[tuple[T, R]]) -> None:
        """In a worker. One that hangs refers to nothing but what it hangs in."""
        while things:
            thing = things.popleft()
            self._inside.add(thing)
            try:
                with watch.at(thing):
                    result = self._call(thing)
            finally:
                self._inside.discard(thing)
                self._given_up.pop(thing, None)
            found.append((thing, result))
