"""A task that looks now and then: turned on and off, and not ended by a defect."""

from __future__ import annotations

import asyncio
from typing import Any

from duplexd.engine.periodic import Periodic
from tests.unit.engine.parts import Parts


async def test_it_looks_again_after_a_look_that_failed_which_is_reported() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    looks, done = 0, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("a defect")
        done.set()

    periodic = Periodic("a test", Parts().timeline, 0.0, look)
    periodic.enable(True)
    await done.wait()
    await periodic.stop()
    assert [context["message"] for context in reported] == ["unexpected error in a test"]


async def test_it_ceases_when_it_is_not_wanted() -> None:
    looking, ceased = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        looking.set()
        try:
            await asyncio.Event().wait()
        finally:
            ceased.set()

    periodic = Periodic("a test", Parts().timeline, 0.0, look)
    periodic.enable(True)
    await looking.wait()
    periodic.enable(False)
    await ceased.wait()


async def test_it_ends_once_the_controller_has_failed() -> None:
    parts, looks = Parts(), list[int]()

    async def look() -> None:
        looks.append(1)
        parts.timeline.fail("no sync")

    periodic = Periodic("a test", parts.timeline, 0.0, look)
    periodic.enable(True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert looks == [1]
    await periodic.stop()
