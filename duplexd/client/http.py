"""HTTP/1.1 to one controller: over its Unix socket, TCP of this machine, or TLS.

Connections are kept and used again, because a TLS handshake between closing and opening the gates
would be part of the pause; as many requests run at a time as are made. Every failure is a
DuplexdError whose text begins with the controller's name. A request is sent once: what became of
one whose answer did not come, the caller has to find out. The exception is a controller that says
that it is too busy to look (429 with Retry-After): it has done nothing, so it is asked again.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import httptools

from duplexd.client import answers
from duplexd.client.connection import Connection, NbdError, opened
from duplexd.client.shapes import ShapeError
from duplexd.errors import DuplexdError, ForbiddenError, TimedOutError, UnreachableError, error_of
from duplexd.known import known
from duplexd.limits import ClientLimits
from duplexd.net import tls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator

    from duplexd.config.groups import Place
    from duplexd.json_object import Json

T = TypeVar("T")
MAY_BE_DONE = "; it may still be done"  # what a request changes whose answer did not come
_LIMITS = ClientLimits()
_AGAIN_SECONDS = 0.01
_QUIET_PART = 0.25  # of the time that a controller may be silent, before it is asked for a sign
_ERRORS, _BUSY = 300, 429  # statuses of HTTP: from here on; this one
_BUSY_PAUSE_SECONDS_MIN = 0.05  # whatever it says, so that nobody can have us ask without end
_OTHER_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
# X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and the like, X509_V_ERR_*_SELF_SIGNED_*
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_BROKEN = (OSError, EOFError, httptools.HttpParserError)


async def _unix_socket(path: str) -> socket.socket:
    """Connected. While many wait to be accepted the kernel has no room for one more, and asyncio
    would take that for a connection.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _doubt(method: str) -> str:
    return MAY_BE_DONE if method != "GET" else ""


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    """Why the controller's certificate is not trusted, and what to look at."""
    if error.verify_code in _OTHER_NAME:
        return (
            f"the controller's certificate is for another name ({error.verify_message});"
            " write url with a name that it has"
        )
    hint = (
        "ca must name the authority that signed it"
        if error.verify_code in _UNKNOWN_ISSUER
        else "renew it, or set the clocks"
    )
    return f"the controller's certificate is not trusted ({error.verify_message}); {hint}"


class _Asking:
    """A request, and how far it is. `until`: by the loop's clock, the end of its time."""

    __slots__ = ("answered", "body", "busy", "method", "path", "until")

    def __init__(self, method: str, path: str, body: Json | None, until: float) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.until = until
        self.answered = False
        self.busy = False  # the controller said so

    def pause_s(self, retry_s: float) -> float:
        """Before a busy controller is asked again: as long as it says, but so that there is time
        left for its answer. Raises TimeoutError if there is none.
        """
        left_s = self.until - asyncio.get_running_loop().time()
        pause_s = max(min(retry_s, left_s / 2), _BUSY_PAUSE_SECONDS_MIN)
        if pause_s >= left_s:
            raise TimeoutError
        return pause_s


class Http:
    """A controller, by the name that the groups file gives it.

    With `any_name` it is the only one, which may call itself as it likes: errors do not name it.
    """

    def __init__(
        self,
        name: str,
        entry: Place,
        any_name: bool = False,
        limits: ClientLimits = _LIMITS,
    ) -> None:
        self.name = name
        self.limits = limits
        self.any_name = any_name
        self.prefix = "" if any_name else f"{name}: "  # of every error
        self.place = str(entry.socket or entry.url)
        self.silent = False  # whether the last request, ended or given up, got no answer
        self._entry = entry
        self._tls: ssl.SSLContext | None = None
        self._idle: list[Connection] = []

    async def call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Json:
        """One request, one object.

        Raises TimedOutError after `timeout_s`; what the request does goes on.
        """
        async with self._asked(method, path, body, timeout_s) as connection:
            answer = self._object(await self._whole(connection))
        with self._of_shape():
            answers.check_answer(method, path, answer)
        return answer

    async def call_patiently(self, method: str, path: str, body: Json | None = None) -> Json:
        """The same for a request without a time limit: the controller must give signs of life.

        Raises as `call` does.
        """
        return await self._patiently(self.call(method, path, body), _doubt(method))

    async def lines_patiently(
        self, method: str, path: str, body: Json | None = None
    ) -> AsyncGenerator[Json, None]:
        """As `lines`, from a controller that must give signs of life while no line comes."""
        async with aclosing(self.lines(method, path, body)) as lines:

            async def another() -> Json | None:
                return await anext(lines, None)

            while (line := await self._patiently(another(), _doubt(method))) is not None:
                yield line

    async def _patiently(self, work: Coroutine[None, None, T], doubt: str) -> T:
        """A controller that is silent for `answer_seconds_max` is asked for a sign of life within
        that time: it is the longest that anybody waits in vain.
        """
        asked = asyncio.ensure_future(work)
        quiet_s = self.limits.answer_seconds_max * _QUIET_PART
        try:
            while not (await asyncio.wait((asked,), timeout=quiet_s))[0]:
                await self._sign_of_life(self.limits.answer_seconds_max - quiet_s)
            return asked.result()
        except TimedOutError as error:
            raise TimedOutError(str(error).removesuffix(doubt) + doubt) from None
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def _sign_of_life(self, left_s: float) -> None:
        try:
            await self.call("GET", "/healthz", timeout_s=left_s)
        except TimedOutError:
            seconds = self.limits.answer_seconds_max
            raise TimedOutError(
                f"{self.prefix}no answer within {seconds:g} s at {self.place}"
            ) from None

    async def call_bytes(self, method: str, path: str, timeout_s: float | None = None) -> bytes:
        """One request whose answer is not JSON."""
        async with self._asked(method, path, None, timeout_s) as connection:
            return await self._whole(connection)

    async def lines(
        self, method: str, path: str, body: Json | None = None
    ) -> AsyncGenerator[Json, None]:
        """The lines of an answer as they come.

        Closing the generator closes the connection. A line `failed` is raised as its error.
        """
        async with self._asked(method, path, body, None) as connection:
            rest = b""
            while part := await connection.part():
                *whole, rest = (rest + part).split(b"\n")
                if len(rest) > self.limits.body_bytes_max:
                    raise self._strange("a line without an end")
                for text in whole:
                    line = self._object(text)
                    with self._of_shape():
                        answers.check_line(method, path, line)
                    if line["event"] == "failed":
                        raise error_of(line["problem"], self.prefix.rstrip(": "))
                    yield line

    async def warm(self, count: int) -> None:
        """Have `count` connections open and unused. Raises UnreachableError and others."""
        made = await asyncio.gather(
            *(self._connect() for _ in range(count - len(self._idle))), return_exceptions=True
        )
        self._idle += [each for each in made if isinstance(each, Connection)]
        for each in made:
            if isinstance(each, BaseException):
                raise each

    def close(self) -> None:
        """Close the connections that are not in use."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    # Inside

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Json | None, timeout_s: float | None
    ) -> AsyncIterator[Connection]:
        connection: Connection | None = None
        limit_s = self.limits.answer_seconds_max if timeout_s is None else timeout_s
        asking = _Asking(method, path, body, asyncio.get_running_loop().time() + limit_s)
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._answered(asking)
                yield connection
        except NbdError:
            raise UnreachableError(
                f"{self.prefix}{self.place} is an NBD socket; name its control socket"
            ) from None
        except _BROKEN as error:
            if isinstance(error, TimeoutError) and (asking.busy or timeout_s is not None):
                if asking.busy:
                    raise self._busy(limit_s) from None
                raise TimedOutError(
                    f"{self.prefix}no answer within {timeout_s:g} s at {self.place}{_doubt(method)}"
                ) from None
            raise UnreachableError(
                f"{self.prefix}broke off at {self.place}: {str(error) or type(error).__name__};"
                " see its log"
            ) from None
        finally:
            self.silent = self.silent or not asking.answered
            self._give_back(connection)

    async def _answered(self, asking: _Asking) -> Connection:
        """A connection with an answer to read that is not an error. Raises TimeoutError for a
        controller that is busy for longer than there is time.
        """
        while True:
            connection, taken = self._take() or await self._connect(), False
            try:
                status = await connection.send(asking.method, asking.path, asking.body)
                asking.answered, self.silent = True, False
                if taken := status < _ERRORS:
                    return connection
                error = await self._refused(connection, status)
            finally:
                if not taken:
                    self._give_back(connection)
            if status != _BUSY or connection.retry_s is None or asking.method != "GET":
                raise error
            asking.busy = True
            await asyncio.sleep(asking.pause_s(connection.retry_s))

    def _busy(self, limit_s: float) -> TimedOutError:
        return TimedOutError(
            f"{self.prefix}busy: {self.place} answers, but had no time for this request within"
            f" {limit_s:g} s; others ask it too much"
        )

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.free():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None:
            return
        if connection.free():
            self._idle.append(connection)
        else:
            connection.close()

    async def _refused(self, connection: Connection, status: int) -> DuplexdError:
        try:
            problem = self._object(await self._whole(connection))
            return error_of(problem, self.prefix.rstrip(": "))
        except UnreachableError:
            return UnreachableError(
                f"{self.prefix}{self.place} answers with HTTP status {status} and no reason:"
                " is that a duplexd?"
            )

    async def _whole(self, connection: Connection) -> bytes:
        body = bytearray()
        while part := await connection.part():
            body += part
            if len(body) > self.limits.body_bytes_max:
                raise self._strange(
                    f"more than {self.limits.body_bytes_max} bytes (body_bytes_max)"
                )
        return bytes(body)

    @contextmanager
    def _of_shape(self) -> Iterator[None]:
        """Within, an answer is compared with what it must be. Raises UnreachableError."""
        try:
            yield
        except ShapeError as error:
            raise UnreachableError(
                f"{self.prefix}{self.place} gave an answer that cannot be used: {error};"
                " is it a duplexd of this version?"
            ) from None

    def _object(self, data: bytes) -> Json:
        with suppress(ValueError, RecursionError):
            value = json.loads(data)
            if isinstance(value, dict):
                return value
        raise self._strange("no JSON object")

    def _strange(self, what: str) -> UnreachableError:
        return UnreachableError(
            f"{self.prefix}{self.place} answers with {what}: is that a duplexd?"
        )

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self.limits.connect_seconds_max):
                return await self._connected()
        except TimeoutError:
            reason = f"no connection within {self.limits.connect_seconds_max:g} s"
        except ssl.SSLCertVerificationError as error:
            reason = f"no TLS connection: {_distrust(error)}"
        except ssl.SSLError as error:
            reason = (
                f"no TLS connection: {error.reason or error};"
                " certificate, key and ca must be those that the controller accepts"
            )
        except PermissionError:
            raise ForbiddenError(
                f"{self.prefix}no permission to open {self.place};"
                " become a member of the group that owns it, or use sudo"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
        remedy = (
            "start it with `duplexd run --config FILE`,"
            " or name its socket: --socket, DUPLEXD_SOCKET"
            if self.any_name
            else "start it, or correct the groups file"
        )
        raise UnreachableError(
            f"{self.prefix}no daemon answers at {self.place}: {reason}; {remedy}"
        ) from None

    async def _connected(self) -> Connection:
        loop, limit = asyncio.get_running_loop(), self.limits.header_bytes_max
        if self._entry.socket is not None:
            sock = await _unix_socket(str(self._entry.socket))
            return await opened(partial(loop.create_unix_connection, sock=sock), "localhost", limit)
        url = known(self._entry.url, "the groups file has a socket or a url")
        if url.tls and self._tls is None:
            self._tls = tls.client_context(self._entry, f"controllers.{self.name}")
        where = url.where
        connect = partial(loop.create_connection, host=where.host, port=where.port, ssl=self._tls)
        return await opened(connect, where.authority, limit)
