"""Who may have how many connections, and what is kept for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from duplexd.api.access import Access, Peer, Role
from duplexd.api.connections import Connections
from duplexd.limits import ApiLimits

if TYPE_CHECKING:
    from duplexd.api.http_connection import Connection
    from duplexd.api.http_request import Link
    from duplexd.api.wire import Answer, Request

LIMITS = replace(
    ApiLimits(),
    connections_max=40,
    local_connections_min=10,
    owner_connections_min=5,
    observers_max=12,
    observer_connections_max=8,
    roleless_max=6,
    roleless_connections_max=4,
)
ROOT = Peer(0, 0, 1, role=Role.OPERATE, owns=True)
OPERATOR = Peer(1000, 7, 1, role=Role.OPERATE)
OBSERVER = Peer(1001, 7, 1, role=Role.OBSERVE)
TLS_OPERATOR = Peer(name="backup", role=Role.OPERATE)
TLS_OBSERVER = Peer(name="monitor", role=Role.OBSERVE)
ROLELESS = Peer(name="other")
ONE_MORE = Peer(name="one more")


async def nobody(_link: Link, _request: Request) -> Answer:
    raise NotImplementedError


class Places:
    """Connections of peers, without their sockets."""

    def __init__(self) -> None:
        self.all = Connections(nobody, Access(0), LIMITS)

    def take(self, peer: Peer, most: int = 100) -> tuple[int, str]:
        """How many it got, and why no more."""
        for count in range(most):
            connection: Connection = self.all.make()
            connection.peer = peer
            if why := self.all.add(connection):
                self.all.remove(connection)
                return count, why
        return most, ""


@pytest.mark.parametrize(
    ("peer", "count", "limit"),
    [
        (ROOT, 40, "connections_max"),
        (OPERATOR, 35, "connections_max"),
        (TLS_OPERATOR, 30, "connections_max"),
        (OBSERVER, 8, "observer_connections_max"),
        (TLS_OBSERVER, 8, "observer_connections_max"),
        (ROLELESS, 4, "roleless_connections_max"),
    ],
)
async def test_a_peer_gets_so_many_places_and_no_more(peer: Peer, count: int, limit: str) -> None:
    got, why = Places().take(peer)
    assert (got, f"({limit})" in why) == (count, True)


async def test_observers_together_leave_operators_their_places() -> None:
    places = Places()
    assert [places.take(each)[0] for each in (OBSERVER, TLS_OBSERVER)] == [8, 4]
    assert "(observers_max)" in places.take(OBSERVER._replace(uid=1002))[1]
    assert [places.take(each)[0] for each in (ROLELESS, ONE_MORE)] == [4, 2]
    assert places.take(TLS_OPERATOR)[0] == 30 - 18
    assert places.take(OPERATOR)[0] == 5
    assert places.take(ROOT)[0] == 5


async def test_a_place_that_was_given_up_is_free() -> None:
    places = Places()
    places.take(OBSERVER)
    places.all.remove(next(iter(places.all)))
    assert places.take(OBSERVER)[0] == 1
