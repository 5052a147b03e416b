"""HTTP over the control socket, with the standard library: a command is asked, a stream is read line by line."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from duplexd.errors import ForbiddenError, TimedOutError, UnreachableError, error_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    Json = dict[str, Any]


_NBD_GREETING = b"NBDMAGIC"  # the first that an NBD server says, to whoever comes


class _NbdError(Exception):
    """It speaks NBD."""


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        if self.fp.peek(len(_NBD_GREETING)).startswith(_NBD_GREETING):
            raise _NbdError
        super().begin()


class _Connection(http.client.HTTPConnection):
    response_class = _Response

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """The daemon behind `path`. `timeout_s`: how long it may keep silent; None: for ever. Every failure is a DuplexdError."""

    def __init__(self, path: str, timeout_s: float | None = None) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """One request, one object."""
        with self._answer(method, path, body) as response, self._translated(method):
            value: Json = json.loads(response.read())
            return value

    @contextmanager
    def stream(self, method: str, path: str, body: Json | None = None) -> Iterator[Iterator[Json]]:
        """The lines of an answer, as they come; leaving the block closes the connection. A line `failed` is raised as its error."""
        with self._answer(method, path, body) as response:
            yield self._lines(response, method)

    def _lines(self, response: http.client.HTTPResponse, method: str) -> Iterator[Json]:
        while True:
            with self._translated(method):
                text = response.readline()
                if not text.endswith(b"\n"):
                    return
                line: Json = json.loads(text)
            if line.get("event") == "failed":
                raise error_of(line["problem"])
            yield line

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Json | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.path, self.timeout_s)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Connection": "close"} | (
            {} if body is None else {"Content-Type": "application/json"}
        )
        try:
            with self._translated(method):
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                if response.status >= 300:
                    raise error_of(json.loads(response.read()))
            yield response
        finally:
            connection.close()

    @contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            hint = (
                "it may still be done; see `duplexctl status`, or"
                if method != "GET"
                else "see its log, or"
            )
            raise TimedOutError(
                f"no answer within {self.timeout_s:g} s; {hint} allow more with --timeout"
            ) from None
        except PermissionError:
            hint = f"become a member of the group that owns it (`ls -l {self.path}`) or use sudo"
            raise ForbiddenError(f"may not open {self.path}; {hint}") from None
        except (FileNotFoundError, ConnectionRefusedError):
            hint = "start it with `duplexd run --config FILE`, or name its socket with --socket or DUPLEXD_SOCKET"
            raise UnreachableError(f"no daemon answers at {self.path}; {hint}") from None
        except _NbdError:
            raise UnreachableError(
                f"{self.path} is an NBD socket; name the daemon's control socket"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            hint = "see its log (`journalctl -u 'duplexd@*'`)"
            raise UnreachableError(
                f"the daemon at {self.path} broke off: {str(error) or type(error).__name__}; {hint}"
            ) from None
