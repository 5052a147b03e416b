"""Every system call of a scripted day that changes a file: once it fails, once the process dies
just before it, once just after it.

The table of calls is made by a day without a fault, and printed. `make test` takes one call for
each kind of call on each kind of file; it fails, and it is the last, with or without its effect by
turns. `make test-long` takes all. What has to hold is in
tests/support/system_calls/aftermath.py.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.system_calls.aftermath import Outcome, live, live_well
from tests.support.system_calls.day import DAY
from tests.support.system_calls.launcher import Launcher
from tests.support.system_calls.tracer import AFTER, BEFORE, Fault, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AT_ONCE = 2
TRIES = 3  # to meet a call: threads make a few of them in varying order
DOES_NOT_NEED_ROOM = {"fsync", "fdatasync", "unlink"}
# For lost writes the kernel is asked only as long as something is not synced: a matter of time
VARIES = {"sync_file_range"}
# Failures that nothing has to name, and why
QUIET = {
    ("pwrite64", "state/lock", "ENOSPC"): "the number of the process, for people only",
    ("mkdir", "state", "EIO"): "it is there",
    ("mkdir", "state", "ENOSPC"): "it is there",
    ("unlink", "socket", "EIO"): "the next start removes it",
    ("fsetxattr", "image", "ENOSPC"): "an image need not carry a mark",
    ("fsetxattr", "image", "EIO"): "the same image is marked again at the next start",
    ("pwritev2", "journal segment", "ENOSPC"): "there is room again a second later",
    ("sync_file_range", "image", "EIO"): "the next sync says it",
    ("sync_file_range", "image", "ENOSPC"): "the next sync says it",
}
# The same of one step alone
QUIET_IN = {
    (
        "start again",
        "pwrite64",
        "image",
    ): "after a kill it holds already what is replayed",
}
KINDS = {
    "state/journal/NNNN.seg": "journal segment",
    "a": "directory of images",
    "b": "directory of images",
    "a/(new)": "new image",
    "b/(new)": "new image",
    "state/changes/NNNN.maps": "change map",
}
ENDINGS = {".img": "image", ".sock": "socket", ".stg": "staging log"}


def kind(file: str) -> str:
    """Of a file of the day."""
    return KINDS.get(file) or ENDINGS.get(Path(file).suffix) or file


def errors(place: Place) -> tuple[str, ...]:
    """That a call may give."""
    return ("EIO",) if place.call in DOES_NOT_NEED_ROOM else ("EIO", "ENOSPC")


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher() as started:
        yield started


@pytest.fixture(scope="module")
def table(launcher: Launcher) -> list[Place]:
    """The calls of a day in which nothing fails."""
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(live_well(Path(directory), launcher))
    counts = Counter((place.step, place.call, place.file) for place in found)
    print(
        "\n".join(
            f"{count:4}  {step}: {call} {file}" for (step, call, file), count in counts.items()
        )
    )
    print(f"{len(found)} calls")
    return found


async def run(launcher: Launcher, faults: Iterable[Fault]) -> list[Outcome]:
    """A day for each fault. Fails with all that is wrong, in one text."""
    places, wrong, done = asyncio.Semaphore(AT_ONCE), list[str](), list[Outcome]()

    async def one(fault: Fault) -> None:
        async with places:
            try:
                done.append(await meet(launcher, fault))
            except AssertionError as error:
                wrong.append(str(error))

    await asyncio.gather(*(one(fault) for fault in faults))
    done_well = [outcome for outcome in done if outcome.met]
    print(f"{len(done_well)} days with a fault, {len(done) - len(done_well)} that did not meet it")
    unnamed = [str(outcome.fault) for outcome in done_well if not is_named(outcome)]
    assert not wrong, f"{len(wrong)} days went wrong:\n\n" + "\n\n".join(wrong)
    assert not unnamed, "nothing names what failed:\n" + "\n".join(unnamed)
    return done


async def meet(launcher: Launcher, fault: Fault, tries: int = TRIES) -> Outcome:
    """A day that meets its fault, if one of a few does."""
    with tempfile.TemporaryDirectory() as directory:
        outcome = await live(Path(directory), launcher, fault)
    return outcome if outcome.met or tries == 1 else await meet(launcher, fault, tries - 1)


def is_named(outcome: Outcome) -> bool:
    """Whether a failure is named, or need not be."""
    place, what = outcome.fault.place, outcome.fault.what
    call, file = place.call, kind(place.file)
    return outcome.named or (call, file, what) in QUIET or (place.step, call, file) in QUIET_IN


def test_the_day_has_calls_of_every_kind(table: list[Place]) -> None:
    calls = {place.call for place in table}
    assert {"pwritev2", "pwrite64", "write", "fsync", "fdatasync", "renameat", "unlink"} <= calls
    assert {"fallocate", "openat", "linkat", "ftruncate", "mkdir", "fsetxattr"} <= calls
    kinds = {kind(place.file) for place in table}
    assert {"journal segment", "staging log", "image", "socket", "state/checkpoint"} <= kinds
    assert {place.step for place in table} == set(DAY)


async def test_one_call_of_each_kind_fails_or_is_the_last(
    launcher: Launcher, table: list[Place]
) -> None:
    rows: dict[tuple[str, str], list[Place]] = {}
    for place in table:
        rows.setdefault((place.call, kind(place.file)), []).append(place)
    chosen = [places[len(places) // 2] for places in rows.values()]
    faults = [
        Fault(place, what)
        for place, last in zip(chosen, itertools.cycle((BEFORE, AFTER)), strict=False)
        for what in (errors(place)[-1], last)
    ]
    outcomes = await run(launcher, faults)
    unmet = [str(outcome.fault) for outcome in outcomes if not outcome.met]
    assert len(unmet) <= len(faults) // 20, unmet


@pytest.mark.long
@pytest.mark.timeout(3600)  # a step has up to a hundred calls, and a start for each
@pytest.mark.parametrize("step", DAY)
async def test_each_call_of_a_step_fails_or_is_the_last(
    launcher: Launcher, table: list[Place], step: str
) -> None:
    places = [place for place in table if place.step == step]
    faults = [Fault(place, what) for place in places for what in (*errors(place), BEFORE, AFTER)]
    outcomes = await run(launcher, faults)
    unmet = [outcome.fault for outcome in outcomes if not outcome.met]
    missing = [str(fault) for fault in unmet if fault.place.call not in VARIES]
    assert len(missing) <= max(len(faults) // 20, AT_ONCE), missing
