"""A primary that can't be read: one good leg is enough."""

from __future__ import annotations

import errno

import pytest

from tests.unit.engine.cores import Core, run, running

DATA = bytes(range(256)) * 16


async def _read(core: Core) -> tuple[int, bytes]:
    buffer = bytearray(len(DATA))
    answers: list[int] = []
    core.controller.read(core.pair(), 4096, memoryview(buffer), answers.append)
    await core.until(lambda: bool(answers))
    return answers[0], bytes(buffer)


def test_a_mirrored_secondary_answers_and_the_trouble_is_told_once() -> None:
    async def scenario() -> None:
        async with running() as core:
            assert await core.write("data", 4096, DATA) == 0
            primary, _ = core.faulty()
            primary.fail("read_into")
            assert await _read(core) == (0, DATA)
            assert await _read(core) == (0, DATA)
            assert [event["volume"] for event in core.named("primary-error")] == ["data"]
            primary.heal()

    run(scenario())


@pytest.mark.parametrize("stale", [True, False])
def test_a_secondary_that_stands_still_or_fails_too_does_not(stale: bool) -> None:
    async def scenario() -> None:
        async with running() as core:
            assert await core.write("data", 4096, DATA) == 0
            if stale:
                await core.controller.suspend(["data"])
            primary, secondary = core.faulty()
            assert secondary is not None
            primary.fail("read_into", errno.EREMOTEIO)
            if not stale:
                secondary.fail("read_into")
            assert (await _read(core))[0] == errno.EREMOTEIO
            primary.heal()
            secondary.heal()

    run(scenario())
