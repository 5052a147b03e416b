"""Where clients come from, for limits of each."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.api.access import Access
from duplexd.api.http_connection import peer_of
from duplexd.net.allow import origin_of

if TYPE_CHECKING:
    import asyncio


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_client_is_one_of_its_network(host: str, origin: str) -> None:
    assert origin_of(host) == origin


class Transport:
    def __init__(self, host: str) -> None:
        self._host = host

    def get_extra_info(self, name: str) -> object:
        if name == "socket":
            with socket.socket(socket.AF_INET6) as sock:
                return sock
        return (self._host, 1024, 0, 0) if name == "peername" else None


def test_connections_of_a_network_are_those_of_one_client_of_the_metrics() -> None:
    transports = [Transport(f"2001:db8:1:2::{number}") for number in (1, 2)]
    peers = [peer_of(cast("asyncio.BaseTransport", each), Access(-1)) for each in transports]
    assert peers[0].who == peers[1].who == "2001:db8:1:2::/64"
