"""Events: each listener gets each event at once, with its time and its place in the journal."""

from __future__ import annotations

from structlog.testing import capture_logs

from duplexd.engine.events import Events
from duplexd.json_object import Json
from tests.sim.disk import SimDisk
from tests.unit.engine.cores import HandClock, running


def new_events() -> tuple[Events, HandClock, list[Json]]:
    clock = HandClock(SimDisk())
    events, seen = Events(clock), list[Json]()
    events.listeners.append(seen.append)
    return events, clock, seen


def test_an_event_has_its_name_its_time_and_its_fields() -> None:
    events, clock, seen = new_events()
    clock.now += 5
    events.emit("quiesced", volumes=["data"])
    assert seen == [{"event": "quiesced", "time": clock.wall(), "sequence": 0, "volumes": ["data"]}]


def test_every_listener_gets_it_in_the_order_in_which_they_came() -> None:
    events, _, seen = new_events()
    order: list[str] = []
    events.listeners.append(lambda event: order.append(f"first {event['event']}"))
    events.listeners.append(lambda event: order.append(f"second {event['event']}"))
    events.emit("graded")
    assert (len(seen), order) == (1, ["first graded", "second graded"])


def test_a_listener_may_leave_while_it_is_called() -> None:
    events, _, seen = new_events()

    def once(event: Json) -> None:
        events.listeners.remove(once)

    events.listeners.insert(0, once)
    events.emit("graded")
    events.emit("graded")
    assert len(seen) == 2
    assert once not in events.listeners


def test_a_listener_that_raises_costs_neither_who_emits_nor_the_others() -> None:
    events, _, seen = new_events()

    def broken(event: Json) -> None:
        raise KeyError("volumes")

    events.listeners.insert(0, broken)
    with capture_logs() as logged:
        events.emit("graded")
    assert [event["event"] for event in seen] == ["graded"]
    assert [(line["log_level"], line["of"]) for line in logged] == [("error", "graded")]


async def test_an_event_of_a_controller_has_the_last_number_of_its_journal() -> None:
    async with running() as core:
        await core.write("data", 0, b"x")
        await core.controller.quiesce(["data"], 1.0, "me")
        (event,) = core.named("quiesced")
        assert event["sequence"] == core.controller.timeline.written > 0
