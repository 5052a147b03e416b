"""A daemon as a child process, with all its files in one directory.

A process, not an object in this one: the demo shows what a user gets, with its real pauses. It uses
the standard library's HTTP client, so that it depends on nothing it demonstrates.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from duplexd.nbd.uri import NbdUri

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.json_object import Json

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 20.0
REQUEST_SECONDS_MAX = 60.0
_POLL_SECONDS = 0.02
_LOG_CHARACTERS = 2000
_SERVICE_VARIABLES = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"}


class DaemonError(Exception):
    """The daemon failed; the text says what failed, with its answer or the end of its log."""


class _UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=REQUEST_SECONDS_MAX)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(REQUEST_SECONDS_MAX)
        self.sock.connect(str(self._path))


class DaemonProcess:
    """`duplexd run` on volumes of one size, all in the group `all`. Call `stop` at the end."""

    def __init__(self, directory: Path, names: list[str], size: int, journal_size: int) -> None:
        self.directory = directory
        self.names = names
        self._size = size
        self._journal_size = journal_size
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        if self._process is None:
            raise DaemonError("the daemon was not started")
        return self._process.pid

    def secondary(self, name: str) -> Path:
        """The image that a backup would read."""
        return self.directory / "b" / f"{name}.img"

    def uri(self, name: str) -> NbdUri:
        """Where a client finds the volume."""
        return NbdUri(name, socket=str(self.directory / "nbd.sock"))

    async def start(self) -> None:
        """Start it; return when it serves. Raises DaemonError."""
        for side in ("a", "b"):
            (self.directory / side).mkdir(parents=True)
        config = self.directory / "duplexd.toml"
        config.write_text(self._config())
        with (self.directory / "daemon.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - once, before anything else runs
                [sys.executable, "-m", "duplexd", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    name: text
                    for name, text in os.environ.items()
                    if name not in _SERVICE_VARIABLES
                },
                start_new_session=True,  # Ctrl-C on the terminal stops the demo, which stops it
            )
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                # another process gets ready
                while not await asyncio.to_thread(self._is_ready):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise DaemonError(
                f"the daemon was not ready after {START_SECONDS_MAX:.0f} s\n{self._log()}"
            ) from None

    async def stop(self) -> None:
        """Send SIGTERM, then SIGKILL if it does not end. Does nothing if it has ended."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.shield(asyncio.to_thread(process.wait, STOP_SECONDS_MAX))
        except subprocess.TimeoutExpired:
            raise DaemonError(
                f"the daemon did not stop within {STOP_SECONDS_MAX:.0f} s\n{self._log()}"
            ) from None
        finally:
            process.kill()
            process.wait()

    async def call(self, method: str, path: str, body: object = None) -> Json:
        """One request on the control socket; the last line of its answer.

        Raises DaemonError with what the daemon said.
        """
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: object) -> Json:
        connection = _UnixHttp(self.directory / "control.sock")
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            lines = response.read().splitlines()
        finally:
            connection.close()
        answer: Json = json.loads(lines[-1]) if lines else {}
        if response.status >= 400 or answer.get("event") == "failed":
            problem = answer.get("problem", answer)
            raise DaemonError(f"{method} {path}: {problem.get('detail') or problem}")
        return answer

    def raise_if_ended(self, cause: Exception | None = None) -> None:
        """Raise DaemonError, with the end of its log, if it is not running."""
        if self._process is not None and self._process.poll() is not None:
            raise DaemonError(
                f"the daemon ended with status {self._process.returncode}\n{self._log()}"
            ) from cause

    def _is_ready(self) -> bool:
        self.raise_if_ended()
        try:
            self._call("GET", "/readyz", None)
        except (OSError, DaemonError, http.client.HTTPException, ValueError):
            return False
        return True

    def _log(self) -> str:
        return (self.directory / "daemon.log").read_text(errors="replace")[-_LOG_CHARACTERS:]

    def _config(self) -> str:
        listen = [f"unix:{self.directory / 'nbd.sock'}"]
        lines = [
            "[controller]",
            'name = "demo"',
            'state_dir = "state"',
            f"journal_size = {self._journal_size}",
        ]
        lines += ["[nbd]", f"listen = {json.dumps(listen)}", "[control]", 'socket = "control.sock"']
        for name in self.names:
            lines += [
                f"[volumes.{name}]",
                f"size = {self._size}",
                f'primary = "a/{name}.img"',
                f'secondary = "b/{name}.img"',
            ]
        return "\n".join([*lines, "[groups.all]", f"volumes = {json.dumps(self.names)}", ""])
