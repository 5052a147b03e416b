"""The event hub: order, and what happens to a reader that is too slow."""

from __future__ import annotations

from duplexd.api.event_hub import EventHub


async def test_every_listener_gets_every_event_in_order() -> None:
    hub = EventHub(1024)
    listeners = [hub.subscribe(lambda: None) for _ in range(2)]
    for number in range(5):
        hub.publish({"event": str(number)})
    hub.close()
    for listener in listeners:
        assert [event["event"] async for event in listener] == ["0", "1", "2", "3", "4"]


async def test_a_listener_that_is_too_slow_is_cut_off_once_and_gets_nothing_more() -> None:
    hub = EventHub(3)
    cut_off: list[str] = []
    slow = hub.subscribe(lambda: cut_off.append("slow"))
    quick = hub.subscribe(lambda: cut_off.append("quick"))
    reader = aiter(quick)
    for number in range(10):
        hub.publish({"event": str(number)})
        assert (await anext(reader))["event"] == str(number)
    assert cut_off == ["slow"]
    assert [event async for event in slow] == []
    assert hub.listeners == {quick}
    assert hub.overflows == 1


async def test_exactly_the_limit_may_wait() -> None:
    hub = EventHub(3)
    listener = hub.subscribe(lambda: None)
    for number in range(3):
        hub.publish({"event": str(number)})
    hub.close()
    assert len([event async for event in listener]) == 3
    assert not listener.overflowed


async def test_an_unsubscribed_listener_gets_nothing() -> None:
    hub = EventHub(1024)
    listener = hub.subscribe(lambda: None)
    hub.unsubscribe(listener)
    hub.publish({"event": "late"})
    listener.close()
    assert [event async for event in listener] == []
