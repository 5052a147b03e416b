"""HTTP/1.1 as bytes: what a connection received becomes requests, an answer becomes what is sent.

Pure: no socket, no loop, no clock. `RequestReader.feed` never raises, whatever it is fed: the first
error is kept in `error`, behind the requests that were complete before it. The grammar is that of
llhttp (httptools), strict. What llhttp does not bound is bounded here: the head, the body, a whole
message (chunk extensions and trailers belong to neither), and how many requests a client may send
ahead of their answers, with how much in them.
"""

from __future__ import annotations

from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote

import httptools

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.limits import ApiLimits

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_VERSIONS = {"1.0", "1.1"}
# An operator's browser has its certificate, and sends what a page of a stranger asks it to
_FROM_A_PAGE = "a web page sent this request (it has an Origin header), and none may command here"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class HttpError(Exception):
    """A request cannot be served as HTTP: the status and one line that says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Request:
    """One request, whole. `target` is what the client sent; the path is quoted in it."""

    __slots__ = (
        "asked_at", "body", "chunked", "error", "host", "keep_alive", "method", "target",
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked_at = 0.0  # by the loop's clock, when its turn is waited for
        self.method = ""
        self.target = ""
        self.host: str | None = None  # the Host header
        self.body = b""
        self.keep_alive = False
        self.chunked = False  # whether the client understands an answer in chunks (HTTP/1.1)
        self.error: HttpError | None = None  # it is complete, but cannot be served

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path: `/v1/cuts/a%2Fb` is ("v1", "cuts", "a/b"); () if not a path."""
        path = self.path
        return tuple(unquote(part) for part in path[1:].split("/")) if path[:1] == "/" else ()

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters behind the path."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)


class RequestReader:
    """The receiving half of a connection.

    `requests` are complete and in order; take them from the left. `partial`: a request has begun
    and is not complete. `error`: nothing after it can be parsed.
    """

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.requests: deque[Request] = deque()
        self.error: HttpError | None = None
        self.partial = False
        self._message_bytes = 0  # of the request that is partial, all that was received
        self._fed_bytes = 0  # by this call of `feed`
        self._start()

    def _start(self) -> None:
        self._request = Request()
        self._url = b""
        self._body = bytearray()
        self._in_head = True
        self._head_bytes = 0
        self._hosts = 0
        self._expects = False  # the client waits for `100 Continue` before it sends the body

    def feed(self, data: bytes) -> None:
        """Take what was received. After an error nothing more is accepted."""
        if self.error is not None:
            return
        self._fed_bytes = len(data)
        self._message_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # what follows is not HTTP; the request itself is fine
            self.error = HttpError(400, "bytes behind a request to upgrade the connection")
        except httptools.HttpParserCallbackError as error:
            self.error = _cause(error)
        except httptools.HttpParserError as error:
            self.error = HttpError(400, f"not HTTP/1.1: {error}")
        else:
            self._bound()

    def _bound(self) -> None:
        if not self.partial:
            return
        limits = self._limits
        if self._in_head and self._message_bytes > limits.header_bytes_max:
            self.error = self._head_too_large()
        elif self._message_bytes > limits.header_bytes_max + limits.drain_bytes_max:
            self.error = self._body_too_large()

    def take_expectation(self) -> bool:
        """Whether `100 Continue` has to be sent now: once for each request that asks for it."""
        expects, self._expects = self._expects and not self._in_head, False
        return expects and self.partial

    def _head_too_large(self) -> HttpError:
        limit = self._limits.header_bytes_max
        return HttpError(400, f"the head is larger than {limit} bytes (header_bytes_max)")

    def _body_too_large(self) -> HttpError:
        limit = self._limits.body_bytes_max
        return HttpError(413, f"the body is larger than {limit} bytes (body_bytes_max)")

    # -------------------------------------------------------------------- what httptools calls

    def on_message_begin(self) -> None:
        """See httptools."""
        limit = self._limits.pipelined_requests_max
        if len(self.requests) >= limit:
            raise HttpError(400, f"more than {limit} requests at a time (pipelined_requests_max)")
        self._start()
        self._message_bytes = self._fed_bytes
        self.partial = True

    def on_url(self, url: bytes) -> None:
        """See httptools: it may come in pieces."""
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools: of the head, or of the trailers."""
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            lower = name.lower()
            if lower == b"host":
                self._hosts += 1
                self._request.host = value.decode("latin-1")
            self._expects |= lower == b"expect" and value.lower() == b"100-continue"
            if lower == b"origin":
                self._request.error = HttpError(403, _FROM_A_PAGE)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.header_bytes_max:
            raise self._head_too_large()

    def on_headers_complete(self) -> None:
        """See httptools."""
        request, version = self._request, self._parser.get_http_version()
        if version not in _VERSIONS:
            raise HttpError(400, f"HTTP/{version} is not spoken here; use HTTP/1.1")
        if version == "1.1" and self._hosts != 1:
            raise HttpError(400, f"a request needs one Host header, this one has {self._hosts}")
        request.method = self._parser.get_method().decode("latin-1")
        request.target = self._url.decode("latin-1")
        request.chunked = version == "1.1"
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        """See httptools. One that is too large is read to its end: its sender is still sending."""
        if self._request.error is None:
            self._body += body
            if len(self._body) > self._limits.body_bytes_max:
                self._request.error = self._body_too_large()
                self._body.clear()
            elif self.requests:
                self._bound_bodies()

    def _bound_bodies(self) -> None:
        """Those of requests ahead of their answers together are no more than one may be."""
        waiting_bytes = sum(len(each.body) for each in self.requests)
        limit = self._limits.body_bytes_max
        if waiting_bytes and waiting_bytes + len(self._body) > limit:
            raise HttpError(
                413, f"the bodies of requests that wait are larger than {limit} (body_bytes_max)"
            )

    def on_message_complete(self) -> None:
        """See httptools."""
        request = self._request
        request.body = bytes(self._body)
        request.keep_alive = self._parser.should_keep_alive() and request.error is None
        self.requests.append(request)
        self.partial = False
        self._fed_bytes = 0  # bytes before the next request are not its own


def _cause(error: httptools.HttpParserCallbackError) -> HttpError:
    cause = error.__context__
    return cause if isinstance(cause, HttpError) else HttpError(400, "not HTTP/1.1")


class Answer(NamedTuple):
    """An answer, whole."""

    status: int
    media_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, request: Request, keep_alive: bool) -> bytes:
        """All of it; without the body if that was not asked for."""
        length = ("content-length", str(len(self.body)))
        sent = head(self.status, self.media_type, (*self.headers, length), keep_alive)
        return sent if request.method == "HEAD" else sent + self.body


def head(
    status: int, media_type: str, headers: Iterable[tuple[str, str]], keep_alive: bool
) -> bytes:
    """The head of an answer, with the empty line behind it."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"content-type: {media_type}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """A piece of an answer whose length is not known when it begins."""
    return b"%x\r\n%b\r\n" % (len(data), data)
