"""HTTP/1.1 as bytes: what is read is the same however it was cut, and mistakes never raise."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from duplexd.api.wire import Answer, Request, RequestReader, chunk, head
from duplexd.limits import ApiLimits

LIMITS = ApiLimits(header_bytes_max=500, body_bytes_max=100, drain_bytes_max=1000)
GET = b"GET /v1/status?target=a%20b&target= HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/resync HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)


def fed(*pieces: bytes, limits: ApiLimits = LIMITS) -> RequestReader:
    reader = RequestReader(limits)
    for piece in pieces:
        reader.feed(piece)
    return reader


def refused(*pieces: bytes, limits: ApiLimits = LIMITS) -> int:
    """The status with which the reader ends, without having taken a request."""
    reader = fed(*pieces, limits=limits)
    assert not reader.requests
    assert reader.error is not None
    return reader.error.status


def test_a_request_has_its_parts() -> None:
    (request,) = fed(GET).requests
    assert (request.method, request.path, request.body) == ("GET", "/v1/status", b"")
    assert request.query == {"target": ["a b", ""]}
    assert (request.keep_alive, request.chunked, request.error) == (True, True, None)


def test_bodies_of_requests_that_wait_are_bounded_together() -> None:
    half = POST.replace(b"5", b"60").replace(b"hello", b"x" * 60)
    reader = fed(half, half)
    assert len(reader.requests) == 1
    assert reader.error is not None
    assert reader.error.status == 413
    reader = fed(half)
    reader.requests.clear()
    reader.feed(half)
    assert reader.error is None


@pytest.mark.parametrize("origin", [b"https://stranger.example", b"null"])
def test_what_a_web_page_sends_is_refused(origin: bytes) -> None:
    """The browser of an operator shows its certificate for any page."""
    (request,) = fed(POST.replace(b"Host: x", b"Host: x\r\norigin: " + origin)).requests
    assert request.error is not None
    assert request.error.status == 403
    assert not request.body
    assert not request.keep_alive


def test_a_slash_that_is_quoted_does_not_end_a_segment() -> None:
    (request,) = fed(b"GET /v1/leases/a%2Fb HTTP/1.1\r\nHost: x\r\n\r\n").requests
    assert request.segments == ("v1", "leases", "a/b")


@pytest.mark.parametrize("data", [POST, CHUNKED])
def test_it_does_not_matter_where_the_bytes_are_cut(data: bytes) -> None:
    for place in range(1, len(data)):
        reader = fed(data[:place])
        assert reader.partial
        reader.feed(data[place:])
        assert [request.body for request in reader.requests] == [b"hello"]
        assert not reader.partial
    assert [request.body for request in fed(*(data[i : i + 1] for i in range(len(data)))).requests]


def test_requests_behind_each_other_are_read_in_order() -> None:
    reader = fed(GET + POST + CHUNKED + GET)
    paths = [request.path for request in reader.requests]
    assert paths == ["/v1/status", "/v1/resync", "/v1/verify", "/v1/status"]


@pytest.mark.parametrize(
    ("data", "keep_alive", "chunked"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", False, False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False, True),
    ],
)
def test_the_client_says_whether_the_connection_is_kept(
    data: bytes, keep_alive: bool, chunked: bool
) -> None:
    (request,) = fed(data).requests
    assert (request.keep_alive, request.chunked) == (keep_alive, chunked)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2",
        b"SSH-2.0-OpenSSH\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.7\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_not_http_is_a_mistake_and_no_request(data: bytes) -> None:
    assert refused(data) == 400
    assert refused(*(data[i : i + 1] for i in range(len(data)))) == 400


def test_a_mistake_stays_behind_the_requests_before_it() -> None:
    reader = fed(GET + b"\0\0\0", GET)
    assert len(reader.requests) == 1
    assert reader.error is not None


def test_an_upgrade_is_served_as_a_request_and_is_the_last() -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    reader = fed(GET[:-2] + upgrade, GET)
    assert [request.path for request in reader.requests] == ["/v1/status"]
    assert reader.error is not None


@pytest.mark.parametrize("line", [b"X: " + b"y" * 600, b"X: y\r\n" * 100])
def test_a_head_beyond_the_limit_is_refused_whole_or_in_pieces(line: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\n" + line
    assert refused(data + b"\r\n\r\n") == 400
    assert refused(*(data[i : i + 50] for i in range(0, len(data), 50))) == 400


def test_trailers_count_as_a_head() -> None:
    assert refused(CHUNKED[:-2] + b"X: y\r\n" * 100) == 400


def test_a_head_behind_a_large_body_is_not_too_large() -> None:
    limits = replace(LIMITS, body_bytes_max=10_000)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
    reader = fed(post + GET[:-2], GET[-2:], limits=limits)
    assert len(reader.requests) == 2


def test_a_body_at_the_limit_is_read_and_one_beyond_it_is_an_error_at_its_end() -> None:
    start = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    (request,) = fed(start % 100 + b"x" * 100).requests
    assert (len(request.body), request.error) == (100, None)
    assert not fed(start % 101, b"x" * 100).requests
    (request,) = fed(start % 101, b"x" * 101).requests
    assert request.error is not None
    assert (request.error.status, request.keep_alive, request.body) == (413, False, b"")


@pytest.mark.parametrize(
    "endless",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    ],
)
def test_a_message_without_end_is_refused(endless: bytes) -> None:
    assert refused(endless, *([b"x" * 100] * 16)) == 413


def test_requests_ahead_of_their_answers_are_bounded() -> None:
    reader = fed(GET * 3, limits=replace(LIMITS, pipelined_requests_max=2))
    assert len(reader.requests) == 2
    assert reader.error is not None


def test_a_client_that_waits_to_send_its_body_is_asked_once() -> None:
    head_first = POST[:-7] + b"Expect: 100-continue\r\n\r\n"
    reader = fed(head_first)
    assert [reader.take_expectation(), reader.take_expectation()] == [True, False]
    reader.feed(b"hello")
    assert len(reader.requests) == 1


def test_a_client_that_did_not_wait_is_not_asked() -> None:
    reader = fed(POST[:-7] + b"Expect: 100-continue\r\n\r\nhello")
    assert not reader.take_expectation()


@pytest.mark.parametrize("seed", range(200))
def test_damaged_requests_never_raise(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(b"".join(chance.choices([GET, POST, CHUNKED], k=4)))
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    reader, place = RequestReader(LIMITS), 0
    while place < len(data):
        size = chance.randint(1, 80)
        reader.feed(bytes(data[place : place + size]))
        place += size
    assert len(reader.requests) <= LIMITS.pipelined_requests_max


# -------------------------------------------------------------------------------------- answers


def test_an_answer_says_how_long_it_is() -> None:
    request = Request()
    answer = Answer(404, "text/plain", b"gone", (("allow", "GET"),))
    assert answer.encoded(request, keep_alive=True) == (
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\nallow: GET\r\n"
        b"content-length: 4\r\n\r\ngone"
    )


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    request = Request()
    request.method = "HEAD"
    encoded = Answer(200, "text/plain", b"body").encoded(request, keep_alive=True)
    assert encoded.endswith(b"content-length: 4\r\n\r\n")


def test_the_last_answer_says_so() -> None:
    assert b"\r\nconnection: close\r\n" in head(200, "text/plain", (), keep_alive=False)


def test_a_chunk_has_its_length_in_hexadecimal() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
