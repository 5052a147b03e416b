"""The listener of metrics: metrics and a page, to read, without a certificate."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from duplexd.api.exporter import Exporter
from duplexd.api.page_source import PageSource
from duplexd.limits import ApiLimits
from duplexd.net.address import TcpAddress
from tests.support.daemon import free_port
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    port = free_port()
    limits = ApiLimits(exporter_connections_max=2, user_connections_burst=3)
    controller = FakeController(["data"], {})
    page = PageSource(lambda: (controller.status(), [], []), dict)
    address, metrics = TcpAddress("127.0.0.1", port), lambda: lambda: b"duplexd_info 1\n"
    exporter = Exporter(address, metrics, page, limits)
    await exporter.bind()
    exporter.start()
    yield port
    await exporter.stop()


async def ask(port: int, method: str, path: str, host: str = "localhost") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        return int(head.split()[1]), body
    finally:
        writer.close()


async def test_who_can_connect_reads_the_metrics(port: int) -> None:
    assert await ask(port, "GET", "/metrics") == (200, "duplexd_info 1\n")


@pytest.mark.parametrize("path", ["/", "/?x=1", "/page.css"])
async def test_and_the_page(port: int, path: str) -> None:
    status, body = await ask(port, "GET", path)
    assert (status, "duplexd" in body or "body {" in body) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/status", 404),
        ("GET", "/metrics/x", 404),
        ("GET", "/page.css/", 404),
        ("GET", "//", 404),
        ("POST", "/", 405),
        ("POST", "/v1/suspend", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
    ],
)
async def test_nothing_else_is_there(port: int, method: str, path: str, status: int) -> None:
    assert (await ask(port, method, path))[0] == status


@pytest.mark.parametrize("path", ["/", "/metrics", "/page.css", "/v1/status"])
async def test_a_web_page_of_a_stranger_reads_nothing(port: int, path: str) -> None:
    """Its name resolves to this address in the browser of somebody who can connect."""
    status, body = await ask(port, "GET", path, f"stranger.example:{port}")
    assert status == 421
    assert "duplexd_info" not in body
    assert "<html" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", socket.gethostname()])
async def test_it_answers_to_addresses_and_its_own_names(port: int, host: str) -> None:
    for said in (host, f"{host}:{port}"):
        assert (await ask(port, "GET", "/metrics", said))[0] == 200


async def test_it_answers_to_who_says_no_host(port: int) -> None:
    """As a scraper of HTTP/1.0 does, and no browser."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_its_connections_are_bounded(port: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert (await reader.readline()).split()[1] == b"503"  # nothing was asked
    finally:
        for _, each in [*idle, (reader, writer)]:
            each.close()


async def status_from(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await reader.readline())[9:12]
    except ConnectionResetError:  # closed at once
        return b""
    finally:
        writer.close()


async def test_one_address_takes_not_all_connections(port: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    try:
        assert (await idle[1][0].readline()).split()[1] == b"503"
        assert await status_from("127.0.0.2", port) == b"200"
    finally:
        for _, each in idle:
            each.close()


async def test_who_connects_too_often_keeps_no_other_address_out(port: int) -> None:
    while await status_from("127.0.0.1", port):
        pass
    assert await status_from("127.0.0.2", port) == b"200"
