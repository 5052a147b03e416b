"""One connection on a transport that only notes what is written: what goes out, and when."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from duplexd.api.access import Access
from duplexd.api.connections import Connections
from duplexd.api.responses import Lines, Slow
from duplexd.api.wire import Answer
from duplexd.errors import NotFoundError
from duplexd.limits import ApiLimits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from duplexd.api.http_connection import Connection
    from duplexd.api.http_request import Link
    from duplexd.api.routing import AnyAnswer
    from duplexd.api.wire import Request
    from duplexd.json_object import Json


class Transport(asyncio.Transport):
    """Notes what is written, in `written`, and whether it was closed or aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_write_buffer_size(self) -> int:
        return 0


class Endpoints:
    """An application: `/whole`, `/lines`, `/slow`, and what fails. `ended` notes what was ended."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self, _link: Link, request: Request) -> AnyAnswer:
        path = request.path
        if path == "/wait":
            await self.go_on.wait()
            self.ended.append("wait")
        if path.startswith("/lines"):
            return Lines(self._lines(path))
        if path == "/slow":
            return Slow(self._slow())
        return Answer(200, "text/plain", path.encode())

    async def _lines(self, path: str) -> AsyncGenerator[Json, None]:
        try:
            if path.endswith("/refused"):
                raise NotFoundError("nothing there")
            yield {"n": 1}
            if path.endswith("/failed"):
                raise NotFoundError("gone")
            if path.endswith("/bug"):
                raise RuntimeError("planted")
            await self.go_on.wait()
            yield {"n": 2}
        finally:
            self.ended.append("lines")

    async def _slow(self) -> Json:
        try:
            await self.go_on.wait()
        finally:
            self.ended.append("slow")
        return {"done": True}


class Wire:
    """A connection and its transport."""

    def __init__(self) -> None:
        self.endpoints = Endpoints()
        self.shared = Connections(self.endpoints, Access(0), ApiLimits())
        self.transport = Transport()
        self.connection: Connection = self.shared.make()
        self.connection.connection_made(self.transport)

    async def send(self, *paths: str, method: str = "GET", version: str = "1.1") -> list[bytes]:
        """Requests in one piece; what was written when all has come to rest."""
        text = "".join(f"{method} {path} HTTP/{version}\r\nHost: x\r\n\r\n" for path in paths)
        return await self.send_bytes(text.encode())

    async def send_bytes(self, data: bytes) -> list[bytes]:
        self.connection.data_received(data)
        return await self.rest()

    async def rest(self) -> list[bytes]:
        for _ in range(10):
            await asyncio.sleep(0)
        written = self.transport.written
        self.transport.written = []
        return written

    def lose(self) -> None:
        self.transport.abort()
        self.connection.connection_lost(None)


@pytest.fixture
async def wire() -> Wire:
    return Wire()


def body(written: bytes) -> bytes:
    return written.partition(b"\r\n\r\n")[2]


async def test_an_answer_is_one_write(wire: Wire) -> None:
    (written,) = await wire.send("/whole")
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body(written) == b"/whole"


async def test_the_head_goes_out_with_the_first_line(wire: Wire) -> None:
    (written,) = await wire.send("/lines")
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body(written) == b'8\r\n{"n":1}\n\r\n'


async def test_lines_end_with_the_last_chunk_and_the_connection_is_kept(wire: Wire) -> None:
    await wire.send("/lines")
    wire.endpoints.go_on.set()
    assert await wire.rest() == [b'8\r\n{"n":2}\n\r\n', b"0\r\n\r\n"]
    assert len(await wire.send("/whole")) == 1
    assert not wire.transport.is_closing()


async def test_an_old_client_gets_lines_without_chunks_and_their_end_is_the_connections(
    wire: Wire,
) -> None:
    (first,) = await wire.send("/lines", version="1.0")
    assert body(first) == b'{"n":1}\n'
    wire.endpoints.go_on.set()
    assert (await wire.rest())[0] == b'{"n":2}\n'
    assert wire.transport.closed


@pytest.mark.parametrize("path", ["/whole", "/lines", "/slow"])
async def test_head_is_answered_without_a_body_and_begins_nothing(wire: Wire, path: str) -> None:
    (written,) = await wire.send(path, method="HEAD")
    assert written.endswith(b"\r\n\r\n")
    assert wire.endpoints.ended == []
    assert len(await wire.send("/whole")) == 1


async def test_requests_behind_each_other_are_answered_in_order(wire: Wire) -> None:
    assert await wire.send("/wait", "/b", "/c") == []
    wire.endpoints.go_on.set()
    assert [body(each) for each in await wire.rest()] == [b"/wait", b"/b", b"/c"]


async def test_rubbish_behind_requests_is_answered_after_them(wire: Wire) -> None:
    await wire.send("/wait", "/b")
    wire.connection.data_received(b"\0\0\0")
    wire.endpoints.go_on.set()
    written = await wire.rest()
    assert [each[9:12] for each in written] == [b"200", b"200", b"400"]
    assert wire.transport.closed


async def test_a_client_that_waits_to_send_its_body_is_asked_for_it(wire: Wire) -> None:
    head = b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert await wire.send_bytes(head) == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    (written,) = await wire.send_bytes(b"ab")
    assert written.startswith(b"HTTP/1.1 200")


async def test_a_request_to_close_closes_after_the_answer(wire: Wire) -> None:
    data = b"GET /whole HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nrubbish"
    (written,) = await wire.send_bytes(data)
    assert b"\r\nconnection: close\r\n" in written
    assert wire.transport.closed


async def test_what_fails_before_the_first_line_is_a_problem(wire: Wire) -> None:
    (written,) = await wire.send("/lines/refused")
    assert written.startswith(b"HTTP/1.1 404")
    assert json.loads(body(written))["detail"] == "nothing there"
    assert not wire.transport.is_closing()


async def test_what_fails_later_is_the_last_line(wire: Wire) -> None:
    _, last = await wire.send("/lines/failed")
    line = json.loads(last.split(b"\r\n")[1])
    assert (line["event"], line["problem"]["detail"]) == ("failed", "gone")
    assert last.endswith(b"0\r\n\r\n")


async def test_a_bug_behind_the_first_line_is_logged_and_says_so(wire: Wire) -> None:
    with capture_logs() as logs:
        _, last = await wire.send("/lines/bug")
    assert b"unexpected RuntimeError" in last
    assert [str(line["exc_info"]) for line in logs] == ["planted"]


@pytest.mark.parametrize("path", ["/lines", "/slow"])
async def test_an_answer_that_lasts_ends_with_its_client(wire: Wire, path: str) -> None:
    await wire.send(path)
    wire.lose()
    await wire.rest()
    assert wire.endpoints.ended == [path[1:]]
    assert len(wire.shared) == 0


async def test_a_request_that_waits_for_its_turn_ends_with_its_client(wire: Wire) -> None:
    turn = await wire.shared.lanes.enter(wire.connection.peer, "GET", "/v1/status")
    assert turn is not None
    await wire.send("/wait")
    (task,) = wire.shared.tasks
    wire.lose()
    await wire.rest()
    assert task.cancelled()
    turn.leave()


async def test_a_command_goes_on_without_its_client(wire: Wire) -> None:
    await wire.send("/wait")
    wire.lose()
    wire.endpoints.go_on.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert wire.endpoints.ended == ["wait"]


async def test_stopping_waits_for_a_command_without_its_client(wire: Wire) -> None:
    await wire.send("/wait")
    wire.lose()
    stopping = asyncio.create_task(wire.shared.stop())
    await wire.rest()
    assert not stopping.done()
    wire.endpoints.go_on.set()
    await stopping
    assert wire.endpoints.ended == ["wait"]


async def test_stopping_cancels_a_command_that_takes_too_long(wire: Wire) -> None:
    wire.shared.limits = ApiLimits(stop_seconds_max=0.0)
    await wire.send("/wait")
    wire.lose()
    (task,) = wire.shared.tasks
    await wire.shared.stop()
    assert task.cancelled()
    assert not wire.shared.tasks


async def test_nothing_more_is_begun_for_a_client_that_is_going(wire: Wire) -> None:
    """Its next request might wait for a turn, and the loss of the connection not end it."""
    await wire.send("/wait", "/wait")
    wire.transport.abort()  # the loop calls `connection_lost` later
    wire.endpoints.go_on.set()
    await wire.rest()
    assert wire.endpoints.ended == ["wait"]
    assert not wire.shared.tasks


@pytest.mark.parametrize("path", ["/lines", "/slow"])
async def test_a_client_that_sends_more_while_an_answer_lasts_is_cut_off(
    wire: Wire, path: str
) -> None:
    await wire.send(path)
    wire.connection.data_received(b"x")
    assert wire.transport.aborted


async def test_a_line_waits_for_a_client_that_does_not_read(wire: Wire) -> None:
    await wire.send("/lines")
    wire.connection.pause_writing()
    wire.endpoints.go_on.set()
    assert await wire.rest() == [b'8\r\n{"n":2}\n\r\n']
    wire.connection.resume_writing()
    assert await wire.rest() == [b"0\r\n\r\n"]


async def test_no_request_is_begun_for_a_client_that_does_not_read(wire: Wire) -> None:
    wire.connection.pause_writing()
    assert await wire.send("/whole") == []
    wire.connection.resume_writing()
    assert len(await wire.rest()) == 1


async def test_stopping_lets_an_answer_end_and_takes_no_further_request(wire: Wire) -> None:
    await wire.send("/wait", "/b")
    wire.connection.stop()
    wire.endpoints.go_on.set()
    (written,) = await wire.rest()
    assert body(written) == b"/wait"
    assert b"\r\nconnection: close\r\n" in written
    assert wire.transport.closed


async def test_stopping_closes_an_idle_connection_at_once(wire: Wire) -> None:
    wire.connection.stop()
    assert wire.transport.closed


async def test_the_answer_of_a_command_whose_client_has_gone_is_dropped(wire: Wire) -> None:
    await wire.send("/wait")
    wire.lose()
    wire.endpoints.go_on.set()
    assert await wire.rest() == []
    assert not wire.shared.tasks
