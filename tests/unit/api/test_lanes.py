"""What requests that look may take of the event loop. Time is that of the loop, and passes only
where a test lets it: `work` is the loop's time that one request takes, and all of it is work of the
processor, where nothing else is said.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from duplexd.api.access import Peer, Role
from duplexd.api.lanes import BusyError, Lane, Lanes, once_a_turn
from duplexd.limits import ApiLimits
from tests.unit import loops

SHARE = 0.1
LIMITS = replace(
    ApiLimits(),
    look_share=SHARE,
    look_seconds_max=5.0,
    operator_credit_seconds=1.0,
    observer_credit_seconds=0.1,
)
ROOT = Peer(0, 0, 1, role=Role.OPERATE, owns=True)
OPERATOR = Peer(1000, 0, 1, role=Role.OPERATE)
OBSERVER = Peer(1001, 0, 1, role=Role.OBSERVE)
OTHER = Peer(1002, 0, 1, role=Role.OBSERVE)


async def take(lane: Lane, who: object, work_s: float = 0.02) -> float:
    """One request; the time at which it was done."""
    turn = await lane.enter(who)
    await asyncio.sleep(work_s)
    turn.leave()
    return loops.now()


async def test_who_asks_now_and_then_never_waits() -> None:
    lane = Lane(SHARE, 0.1, 5.0, loops.now)
    for _ in range(5):
        began = loops.now()
        assert await take(lane, "a") - began == pytest.approx(0.02, abs=1e-3)
        await asyncio.sleep(0.02 / SHARE)


async def test_a_flood_gets_its_share_of_the_time_and_no_more() -> None:
    lane = Lane(SHARE, 0.1, 1e6, loops.now)
    began = loops.now()
    done = await asyncio.gather(*(take(lane, "a") for _ in range(100)))
    assert 100 * 0.02 / (max(done) - began) == pytest.approx(SHARE, rel=0.1)


async def test_nobody_is_charged_when_another_thread_drives_on_meanwhile() -> None:
    """Its processor's time is the larger one, and tells nothing of the turn."""
    times_s = iter([0.0, 50.0, 50.0])
    lane, began = Lane(SHARE, 0.1, 5.0, lambda: next(times_s)), loops.now()
    turn = await lane.enter("a")
    await asyncio.sleep(0.9)
    other = threading.Thread(target=turn.leave)
    other.start()
    other.join()
    await lane.enter("a")
    assert loops.now() - began == pytest.approx(0.9, abs=1e-3)


async def test_who_waits_for_the_processor_is_not_charged_for_it() -> None:
    lane = Lane(SHARE, 0.1, 5.0, lambda: 0.0)
    began = loops.now()
    for _ in range(20):
        await take(lane, "a", 0.9)
    assert loops.now() - began == pytest.approx(20 * 0.9, abs=1e-3)


async def test_peers_of_a_lane_take_turns() -> None:
    lane, order = Lane(SHARE, 0.0, 1e6, loops.now), list[str]()

    async def one(who: str) -> None:
        await take(lane, who)
        order.append(who)

    await asyncio.gather(*(one("flood") for _ in range(10)), one("other"))
    assert "other" in order[:3]


async def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    lane = Lane(SHARE, 0.1, 5.0, loops.now)
    results = await asyncio.gather(
        *(take(lane, "a", 0.9) for _ in range(3)), return_exceptions=True
    )
    errors = [each for each in results if isinstance(each, BusyError)]
    assert [(each.status, each.retry_after) for each in errors] == [(429, "5")] * 2
    await asyncio.sleep(30.0)
    began = loops.now()
    assert await take(lane, "a") - began == pytest.approx(0.02, abs=1e-3)


async def test_a_turn_that_comes_late_because_the_loop_does_is_taken() -> None:
    lane = Lane(SHARE, 0.0, 5.0, loops.now)
    await take(lane, "a", 0.4)  # four seconds until the next turn
    waiting = asyncio.ensure_future(lane.enter("b"))
    await asyncio.sleep(0)
    loops.stall(6.0)  # both the turn and the end of the waiting are due now
    (await waiting).leave()
    (await lane.enter("c")).leave()


async def test_who_goes_away_while_it_waits_leaves_the_lane_free() -> None:
    lane = Lane(SHARE, 0.1, 5.0, loops.now)
    turn = await lane.enter("a")
    waiting = [asyncio.ensure_future(lane.enter(who)) for who in "abc"]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0.01)
    turn.leave()
    waiting[1].cancel()  # its turn has come, but it does not know yet
    (await waiting[2]).leave()
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    (await lane.enter("d")).leave()


async def test_a_flood_of_observers_keeps_no_operator_waiting() -> None:
    lanes = Lanes(LIMITS, loops.now)
    turn = await lanes.enter(OBSERVER, "GET", "/v1/status")
    assert turn is not None
    await asyncio.sleep(0.9)
    turn.leave()
    began = loops.now()
    for peer in (ROOT, OPERATOR):
        free = await lanes.enter(peer, "GET", "/v1/status")
        assert free is not None
        free.leave()
    assert loops.now() - began < 0.001
    with pytest.raises(BusyError):
        await lanes.enter(OTHER, "GET", "/v1/status")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/suspend"), ("DELETE", "/v1/leases/1"), ("GET", "/v1/cuts/1/volumes/data")],
)
async def test_a_command_of_an_operator_waits_for_no_turn(method: str, path: str) -> None:
    lanes = Lanes(LIMITS, loops.now)
    assert await lanes.enter(OPERATOR, "GET", "/v1/status") is not None
    assert await lanes.enter(OPERATOR, method, path) is None
    assert await lanes.enter(OBSERVER, method, path) is not None, "a refusal costs time, too"


async def test_all_who_wait_get_one_answer_and_nobody_an_old_one() -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(len(made))
        return b"%d" % made[-1]

    of = once_a_turn(make)
    asked = loops.now()
    await asyncio.sleep(0.01)
    assert [of(asked), of(asked), of(asked + 0.005)] == [b"0"] * 3
    await asyncio.sleep(0.01)
    assert of(loops.now() - 0.001) == b"1"


async def test_a_sign_of_life_does_not_wait_for_what_takes_long() -> None:
    lanes = Lanes(LIMITS, loops.now)
    assert await lanes.enter(OBSERVER, "GET", "/metrics") is not None
    assert await lanes.enter(OBSERVER, "GET", "/healthz") is not None


async def test_what_waits_for_something_else_keeps_no_lane_closed() -> None:
    lane = Lane(SHARE, 0.1, 5.0, loops.now)
    stuck = await lane.enter("a")
    began = loops.now()
    (await lane.enter("b")).leave()
    assert loops.now() - began == pytest.approx(1.0, abs=0.01)
    stuck.leave()
    (await lane.enter("c")).leave()
    assert loops.now() - began == pytest.approx(1.0, abs=0.01)
