"""Small calls on many disks, one after the other in one worker.

A call in a worker costs the loop ten times what a look at a path does, and there may be thousands
of paths. So one worker looks at all of them: two would take the interpreter lock from each other at
every look, which costs more than it saves. If it hangs, it is given up as in `watch.py`, and those
behind get a worker each: what they wait for is not their disk.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duplexd.runtime.tasks import several_at_once
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.runtime.threads import Workers

T = TypeVar("T")
R = TypeVar("R")

_TOGETHER = 64  # results that are said in one turn of the loop
_AT_ONCE = 32  # of those behind one that hangs


async def one_by_one(
    workers: Workers,
    things: Sequence[T],
    call: Callable[[T], R],
    seconds: float,
    done: Callable[[T, R], None],
    hung: Callable[[T], None],
) -> None:
    """`call(thing)` of each, which raises nothing, in a worker; then, in the loop, `done(thing,
    result)`, or `hung(thing)` for one that took longer than `seconds`. What a worker has found is
    said when it has ended or hangs, before those behind are begun.
    """
    watch, found = Watch[T](), list[tuple[T, R]]()
    behind: Sequence[T] = ()
    try:
        walk = partial(_walk, watch, things, call, found)
        await patiently(workers.of(watch), watch, walk, lambda _thing: seconds)
    except HungError as error:
        at = next(number for number, thing in enumerate(things) if thing is error.what)
        behind = things[at + 1 :]
        hung(things[at])
    for number, (thing, result) in enumerate(found, 1):
        done(thing, result)
        if number % _TOGETHER == 0:
            await asyncio.sleep(0)
    if behind:
        again = partial(_alone, workers, call=call, seconds=seconds, done=done, hung=hung)
        await several_at_once(behind, again, _AT_ONCE)


async def _alone(
    workers: Workers,
    thing: T,
    *,
    call: Callable[[T], R],
    seconds: float,
    done: Callable[[T, R], None],
    hung: Callable[[T], None],
) -> None:
    await one_by_one(workers, (thing,), call, seconds, done, hung)


def _walk(
    watch: Watch[T], things: Sequence[T], call: Callable[[T], R], found: list[tuple[T, R]]
) -> None:
    for thing in things:
        with watch.at(thing):
            result = call(thing)
        found.append((thing, result))
