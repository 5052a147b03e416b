"""Many small calls in one worker: one that hangs keeps no other disk from being asked, and a disk
that hangs takes two threads.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest_asyncio

from duplexd.runtime.one_by_one import HANG_MAX, OneByOne
from duplexd.runtime.threads import ThreadWorkers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_SECONDS = 60
SECONDS = 0.05


class Disks:
    """Things are named DISK:NUMBER. Calls on those in `hangs` wait until `answers` is set."""

    def __init__(self, workers: ThreadWorkers, *hangs: str) -> None:
        self.hangs = hangs
        self.answers = threading.Event()
        self.threads: defaultdict[str, list[int]] = defaultdict(list)
        self.found: dict[str, int] = {}
        self.hung: list[str] = []
        self.left: list[str] = []
        self.looks = OneByOne(
            workers, self.call, lambda thing: thing.split(":")[0], self.found.__setitem__,
            self.hung.append, self.left.append,
        )  # fmt: skip

    def call(self, thing: str) -> int:
        self.threads[thing].append(threading.get_ident())
        if thing.startswith(self.hangs):
            self.answers.wait(PATIENCE_SECONDS)
        return len(thing)

    async def look(self, *things: str) -> None:
        for said in (self.found, self.hung, self.left):
            said.clear()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.looks.call_all(things, SECONDS)


@pytest_asyncio.fixture
async def workers() -> AsyncIterator[ThreadWorkers]:
    made = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    yield made
    made.close()


async def test_one_that_hangs_keeps_none_of_its_disk_or_of_others(workers: ThreadWorkers) -> None:
    """As one file of a network file system."""
    disks = Disks(workers, "a:2")
    try:
        await disks.look("a:1", "b:1", "a:2", "b:2", "a:3", "a:4")
        assert disks.found.keys() == {"a:1", "b:1", "b:2", "a:3", "a:4"}
        assert (disks.hung, disks.left) == (["a:2"], [])
        assert disks.threads["a:1"] == disks.threads["b:1"] == disks.threads["a:2"]
        assert disks.threads["a:2"] != disks.threads["a:3"]
    finally:
        disks.answers.set()


async def test_two_that_hang_stand_for_their_disk_until_one_answers(
    workers: ThreadWorkers,
) -> None:
    disks = Disks(workers, "a:")
    things = [f"{disk}:{number}" for number in range(500) for disk in "ab"]
    on_b = {thing for thing in things if thing.startswith("b")}
    try:
        for _ in range(3):
            await disks.look(*things)
            assert disks.found.keys() == on_b, "one on a disk that answers was not looked at"
            assert sorted(disks.hung) == ["a:0", "a:1"]
            assert len(disks.left) == 500 - HANG_MAX
        assert sum(len(calls) for thing, calls in disks.threads.items() if "a:" in thing) == 2
    finally:
        disks.answers.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while disks.found.keys() != set(things):
            await disks.look(*things)


async def test_what_was_found_before_is_said_while_others_hang_behind(
    workers: ThreadWorkers,
) -> None:
    answers, said = threading.Event(), list[str]()

    def call(name: str) -> None:
        if name != "first":
            answers.wait(PATIENCE_SECONDS)

    looks = OneByOne(
        workers, call, lambda _name: "disk", lambda name, _none: said.append(name),
        lambda name: said.append(f"{name} hangs"), lambda name: said.append(f"{name} left"),
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_SECONDS):
        await looks.call_all(("first", "second", "third", "fourth"), SECONDS)
    assert said == ["first", "second hangs", "third hangs", "fourth left"]
    answers.set()


async def test_what_a_slow_walk_has_found_is_said_before_its_end(workers: ThreadWorkers) -> None:
    said, goes_on = asyncio.Queue[int](), threading.Event()

    def call(number: int) -> int:
        if number == 1:
            goes_on.wait(PATIENCE_SECONDS)
        return number

    looks = OneByOne(
        workers, call, str, lambda number, _same: said.put_nowait(number), lambda _number: None
    )
    walking = asyncio.create_task(looks.call_all(range(2), PATIENCE_SECONDS))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await said.get() == 0
        assert not walking.done()
        goes_on.set()
        await walking
        assert await said.get() == 1


async def test_many_results_leave_the_loop_to_others(workers: ThreadWorkers) -> None:
    found, turns = list[int](), list[int]()

    async def others() -> None:
        while True:
            turns.append(len(found))
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    looks = OneByOne[int, int](
        workers, abs, str, lambda number, _same: found.append(number), lambda _number: None
    )
    await looks.call_all(range(1000), PATIENCE_SECONDS)
    other.cancel()
    assert found == list(range(1000))
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 64


class Image:
    """An open image, which its last reference closes."""


async def test_nothing_refers_to_what_was_given_up_once_its_call_has_returned(
    workers: ThreadWorkers,
) -> None:
    answers, threads = threading.Event(), list[threading.Thread]()

    def call(_image: Image) -> None:
        threads.append(threading.current_thread())
        answers.wait(PATIENCE_SECONDS)

    hung: list[bool] = []
    looks: OneByOne[Image, None] = OneByOne(
        workers, call, lambda _image: "disk", lambda _image, _none: None,
        lambda _image: hung.append(True),
    )  # fmt: skip
    image = Image()
    open_still = weakref.ref(image)
    gc.disable()
    try:
        await looks.call_all([image], SECONDS)
        assert hung == [True]
        del image
        assert open_still() is not None, "a thread uses it"
        answers.set()
        threads[0].join(PATIENCE_SECONDS)
        assert open_still() is None
    finally:
        gc.enable()


async def test_a_call_that_hangs_refers_to_no_other_that_was_to_be_called(
    workers: ThreadWorkers,
) -> None:
    """Neither before it nor behind it: those may be given up elsewhere, and have to close then."""
    answers = threading.Event()
    images = [Image(), Image(), Image()]
    hangs, others = images[1], [weakref.ref(images[0]), weakref.ref(images[2])]

    def call(image: Image) -> None:
        if image is hangs:
            answers.wait(PATIENCE_SECONDS)

    looks: OneByOne[Image, None] = OneByOne(
        workers, call, lambda image: str(id(image)), lambda _image, _none: None,
        lambda _image: None,
    )  # fmt: skip
    gc.disable()
    try:
        await looks.call_all(images, SECONDS)
        images.clear()
        assert [open_still() for open_still in others] == [None, None]
    finally:
        answers.set()
        gc.enable()
