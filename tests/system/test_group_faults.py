"""Failures of a coordinator or a member between any two messages of a group suspend.

A wire between the coordinator and the control sockets (tests/support/wire.py) counts the messages,
so that a failure falls exactly between two of them, in every phase; coordinator and daemons run as
they are. After each failure:

- every gate is open again, by itself: the writers, who go round all volumes, go on;
- no controller has shown the cut consistent while another does not have it
  (tests/support/cut_watch.py looks all the time);
- another coordinator settles it, and then all members say the same;
- if they say consistent, the secondaries are what the writers know them to have been at one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from duplexd.canary.record import Placement
from duplexd.core import cut_states as votes
from tests.support.by_hand import ByHand
from tests.support.cluster import THREE, Cluster, Member, spread
from tests.support.cut_watch import CutWatch
from tests.support.group_faults import LOST, Attempt, Lane
from tests.support.group_writers import GroupWriters
from tests.support.wire import ANSWER, REQUEST, Message, Wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    Process = subprocess.Popen[bytes]
    Strike = Callable[[Wire, Message, Process], str | None]

pytestmark = pytest.mark.timeout(1800)

LANES = 4  # groups of the same controllers: while one waits for its holds to end, the others go on
HOLD_MAX_S = 1.0  # at first: a machine that is too slow for it gets more
TRIES_MAX = 6
PLACEMENT = Placement(writers=3, volumes=len(THREE), slots=2)
ALL_PAIRS = Placement(writers=8, volumes=16, slots=2)
PAUSE_S = 0.002  # of a writer after each record: here they need not be many
STRUCK = "struck"
SHORT_S = 0.1


def kill(_wire: Wire, _message: Message, process: Process) -> None:
    process.kill()


def stop(_wire: Wire, _message: Message, process: Process) -> None:
    process.send_signal(signal.SIGSTOP)


def cut_off_one(wire: Wire, message: Message, _process: Process) -> None:
    wire.cut(message.member)


def cut_off_all(wire: Wire, _message: Message, _process: Process) -> None:
    wire.cut(*THREE)


FATES = {
    "killed": kill,
    "stopped": stop,
    "cut off from one": cut_off_one,
    "cut off from all": cut_off_all,
}


@contextlib.asynccontextmanager
async def lanes_of(cluster: Cluster, directory: Path, count: int) -> AsyncIterator[list[Lane]]:
    """Groups of one volume on each controller."""
    async with contextlib.AsyncExitStack() as stack:
        lanes = []
        for name in sorted({member.volume for member in cluster.members})[:count]:
            writers = GroupWriters(
                cluster, [Member(controller, name) for controller in THREE], PLACEMENT, PAUSE_S
            )
            lanes.append(
                Lane(
                    cluster,
                    await stack.enter_async_context(writers),
                    directory / name,
                    [name],
                    HOLD_MAX_S,
                    name,
                )
            )
        yield lanes


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(
        tmp_path, {name: [f"lane{number}" for number in range(LANES)] for name in THREE}
    ) as cluster:
        yield cluster


def at(number: int, fate: Callable[[Wire, Message, Process], None]) -> Strike:
    def strike(wire: Wire, message: Message, process: Process) -> str | None:
        if message.number < number:
            return None
        fate(wire, message, process)
        return STRUCK

    return strike


async def undisturbed(lane: Lane) -> list[Message]:
    """The messages of an undisturbed suspend, from the first CLOSE on."""

    async def nothing(_: Process) -> None:
        raise AssertionError

    for _ in range(TRIES_MAX):
        attempt = Attempt(lane, lambda *_: None)
        await attempt.run(nothing)
        outcome = await attempt.judge()
        await lane.resync()
        if outcome == votes.CONSISTENT:
            break
        lane.be_patient()
    else:
        raise AssertionError("not one was consistent")
    first = next(message for message in attempt.messages if message.verb == "close")
    return attempt.messages[first.number - 1 :]


async def restart_all(cluster: Cluster) -> None:
    for daemon in cluster.daemons.values():
        daemon.kill()
        await asyncio.to_thread(daemon.start)


@pytest.mark.parametrize(
    ("to_its_end", "step"),
    [
        (False, len(FATES)),
        pytest.param(False, 1, marks=pytest.mark.long),
        pytest.param(True, 1, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("fate", FATES)
async def test_the_coordinator_fails_between_any_two_messages(
    cluster: Cluster, tmp_path: Path, fate: str, to_its_end: bool, step: int
) -> None:
    """A coordinator without connection would retry for long.

    It is killed once all gates are open, or, with `to_its_end`, may report its outcome. With a
    `step` the fates take turns: each message has one of them, and each of the three members has
    all, because four and three have no common factor.
    """
    outcomes: Counter[str] = Counter()
    refused = 0

    async with lanes_of(cluster, tmp_path / "lanes", LANES) as lanes:
        with CutWatch(cluster) as watch:
            messages = await undisturbed(lanes[0])
            for lane in lanes:
                lane.hold_max_s = lanes[0].hold_max_s
            points = iter(messages[list(FATES).index(fate) % step :: step])

            async def once(lane: Lane, point: Message) -> None:
                nonlocal refused
                attempt = Attempt(lane, at(point.number, FATES[fate]))

                async def then(process: Process) -> None:
                    await lane.write_everywhere()
                    if fate == "stopped":
                        process.send_signal(signal.SIGCONT)
                    elif not to_its_end:
                        process.kill()

                await attempt.run(then)
                outcomes[await attempt.judge() or "nothing cut"] += 1
                late = attempt.messages[attempt.struck.number :] if attempt.struck else []
                refused += sum(message.status == 410 for message in late)
                await lane.resync()

            async def work(lane: Lane) -> None:
                for point in points:
                    await once(lane, point)

            await asyncio.gather(*(work(lane) for lane in lanes))
            for _ in range(TRIES_MAX):
                if not outcomes[votes.CONSISTENT]:  # not one came to its end within its hold
                    lanes[0].be_patient()
                    await once(lanes[0], messages[-1])
            await restart_all(cluster)
            await watch.looked_again()
    print(
        f"{fate}: {len(messages)} points, {dict(outcomes)}, {refused} late commands"
        f" refused; looked {watch.rounds} times"
    )
    assert not watch.sights.contradictions
    assert outcomes[votes.CONSISTENT], "none came late enough"
    assert outcomes[votes.VOID], "none came while it mattered"
    assert outcomes["nothing cut"], "none came early enough"


PHASES: dict[
    str, tuple[str, str, str, set[str]]
] = {  # how it is called: verb, way, what becomes of the message, what may become of the cut
    "before it closes": ("close", REQUEST, STRUCK, {votes.NONE, votes.VOID}),
    "once it is closed": ("close", ANSWER, STRUCK, {votes.NONE, votes.VOID}),
    "before its cut": ("cut", REQUEST, STRUCK, {votes.VOID}),
    "after its cut": ("cut", ANSWER, STRUCK, {votes.VOID}),
    "after its cut, of which nobody heard": ("cut", ANSWER, LOST, {votes.VOID}),
    "before it opens": ("open", REQUEST, STRUCK, {votes.VOID}),
    "once it is ready": (
        "open",
        ANSWER,
        STRUCK,
        {votes.CONSISTENT, votes.VOID},
    ),  # void if another was not ready yet
    "once it is ready, of which nobody heard": (
        "open",
        ANSWER,
        LOST,
        {votes.CONSISTENT, votes.VOID},
    ),
    "before it has the outcome": ("agree", REQUEST, STRUCK, {votes.CONSISTENT}),
    "once it has the outcome": ("agree", ANSWER, STRUCK, {votes.CONSISTENT}),
}


def _leases(cluster: Cluster, name: str) -> object:
    return cluster.ask(name, "GET", "/v1/status")["leases"]


async def held_nowhere(cluster: Cluster, names: list[str]) -> None:
    """Return once these controllers hold nothing."""
    for name in names:
        while await asyncio.to_thread(_leases, cluster, name):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_a_member_is_killed_in_each_phase(tmp_path: Path) -> None:
    """Sixteen pairs.

    The coordinator continues with the other members; the killed one is restarted and settled.
    """
    with Cluster(tmp_path, spread(ALL_PAIRS.volumes)) as cluster:
        async with GroupWriters(cluster, cluster.members, ALL_PAIRS, PAUSE_S) as writers:
            lane = Lane(cluster, writers, tmp_path / "lane", ["here"], HOLD_MAX_S)
            with CutWatch(cluster) as watch:
                for number, (phase, (verb, way, then, expected)) in enumerate(PHASES.items()):
                    victim = THREE[number % len(THREE)]
                    outcome = await struck_by_death(lane, victim, verb, way, then)
                    print(f"{victim} killed {phase}: {outcome or 'nothing cut'}")
                    assert outcome in expected, (phase, outcome)
                    await lane.resync()
                await restart_all(cluster)
                await watch.looked_again()
        assert writers.lost_connections
    assert not watch.sights.contradictions


async def struck_by_death(lane: Lane, victim: str, verb: str, way: str, then: str) -> str:
    daemon = lane.cluster[victim]
    others = [name for name in THREE if name != victim]

    def strike(_wire: Wire, message: Message, _process: Process) -> str | None:
        if (message.member, message.verb, message.way) != (victim, verb, way):
            return None
        daemon.signal(signal.SIGKILL)
        return then

    async def come_back(_: Process) -> None:
        await held_nowhere(lane.cluster, others)
        daemon.kill()
        await asyncio.to_thread(daemon.start)
        await lane.write_everywhere()

    for _ in range(TRIES_MAX):
        attempt = Attempt(lane, strike)
        await attempt.run(come_back)
        outcome = await attempt.judge()
        if attempt.struck:
            return outcome
        assert outcome != votes.CONSISTENT, attempt  # it did not come so far: the hold was over
        await lane.resync()
        lane.be_patient()
    raise AssertionError("not one came so far")


async def test_late_commands_are_refused_and_the_group_is_void(cluster: Cluster) -> None:
    """A coordinator whose holds have expired: on one member before the cut, on two after it."""
    with CutWatch(cluster) as watch, ByHand(cluster, ["lane0"]) as hand:
        for name in THREE:
            await asyncio.to_thread(hand.close, name)
        for name in ("alpha", "beta"):
            await asyncio.to_thread(hand.cut, name)
        for name in THREE:
            await asyncio.to_thread(hand.renew, name, SHORT_S)
        for name in THREE:
            while not await asyncio.to_thread(hand.gone, name):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        assert [hand.refused(name, "open") for name in ("alpha", "beta")] == [410, 410]
        assert hand.refused("gamma", "cut") == 410
        assert hand.refused("gamma", "agree") == 409
        assert {name: hand.agree(name)["state"] for name in ("alpha", "beta")} == dict.fromkeys(
            ("alpha", "beta"), "void"
        )
        assert {name: hand.abort(name)["state"] for name in THREE} == dict.fromkeys(THREE, "void")
        await restart_all(cluster)
        assert cluster.cut_states(hand.cut_id) == dict.fromkeys(THREE, "void")
    assert not watch.sights.contradictions


async def test_a_coordinator_that_agrees_before_all_are_ready_is_detected(cluster: Cluster) -> None:
    """The watch detects what it exists to detect."""
    with CutWatch(cluster) as watch, ByHand(cluster, ["lane0"]) as hand:
        for step in (hand.close, hand.cut):
            for name in THREE:
                step(name)
        hand.open("alpha")
        hand.agree("alpha")
        hand.open("beta")
        hand.abort("gamma")
        await watch.looked_again()
    assert watch.sights.contradictions
