"""What goes out on a connection of the control socket, and when."""

from __future__ import annotations

import h11

from duplexd.api.connection import AnswersInOnePiece


def asked(method: str = "GET") -> AnswersInOnePiece:
    client, server = h11.Connection(h11.CLIENT), AnswersInOnePiece(h11.SERVER)
    server.receive_data(
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        + client.send(h11.EndOfMessage())
    )
    assert type(server.next_event()) is h11.Request
    return server


def test_the_head_of_an_answer_waits_for_the_first_bytes_of_its_body() -> None:
    server = asked()
    assert server.send(h11.Response(status_code=200, headers=[("content-length", "4")])) == b""
    first = server.send(h11.Data(data=b"ab"))
    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\nab")
    assert server.send(h11.Data(data=b"cd")) == b"cd"


def test_an_answer_without_a_body_goes_out_at_its_end() -> None:
    server = asked("HEAD")
    assert server.send(h11.Response(status_code=200, headers=[("content-length", "0")])) == b""
    assert server.send(h11.EndOfMessage()).startswith(b"HTTP/1.1 200")


def test_what_comes_before_the_answer_does_not_wait() -> None:
    assert (
        asked()
        .send(h11.InformationalResponse(status_code=100, headers=[]))
        .startswith(b"HTTP/1.1 100")
    )
