"""A real daemon for tests: its files, its process, its control socket.

    def test_something(make_files, start_daemon):
        files = make_files(volumes={"data": "8MiB", "wal": "8MiB"}, groups={"db": ["data", "wal"]})
        daemon = start_daemon(files)
        status, body = daemon.request("GET", "/v1/status")
        assert daemon.stop() == 0
        daemon.start()

The fixtures (tests/conftest.py) end every process they started, by its pid, and fail the test if a
daemon logged a traceback.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120.0  # for what must come, however busy the machine is


def environment() -> dict[str, str]:
    """The environment of a child that runs this checkout's duplexd, with nothing of a surrounding
    service manager.
    """
    clean = {
        name: text
        for name, text in os.environ.items()
        if name not in {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "DUPLEXD_SOCKET"}
    }
    return {**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


_kept: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 for a listener with SO_REUSEADDR. It stays bound here too, so that no
    other process gets it while this one lives.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    _kept.append(keeper)
    return int(keeper.getsockname()[1])


@dataclass
class DaemonFiles:
    """A configuration file and what it names. Change an attribute and call `write` to change the
    file.
    """

    directory: Path
    volumes: Mapping[str, str | int]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mode: str = "sync"
    delay: str = ""  # of the mode "delayed"
    secondary: bool = True
    journal_size: str | int = "16MiB"
    copy_rate: str | None = None
    tcp_port: int | None = None
    name: str = "test"
    listen: Sequence[str] = ()  # further NBD addresses, which others may reach
    controller: Sequence[str] = ()  # further lines of [controller]
    extra: str = ""  # TOML put at the end

    @property
    def config(self) -> Path:
        return self.directory / "duplexd.toml"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def nbd_socket(self) -> Path:
        return self.directory / "nbd.sock"

    @property
    def control_socket(self) -> Path:
        return self.directory / "ctl.sock"

    def primary(self, volume: str) -> Path:
        return self.directory / "a" / f"{volume}.img"

    def secondary_of(self, volume: str) -> Path:
        return self.directory / "b" / f"{volume}.img"

    def uri(self, volume: str = "", tcp: bool = False) -> str:
        """The NBD URI of a volume, as libnbd, qemu and fio take it."""
        if tcp:
            return f"nbd://127.0.0.1:{self.tcp_port}/{quote(volume)}"
        return f"nbd+unix:///{quote(volume)}?socket={quote(str(self.nbd_socket))}"

    def text(self) -> str:
        listen = [
            f"unix:{self.nbd_socket}",
            *([f"tcp:127.0.0.1:{self.tcp_port}"] if self.tcp_port else []),
            *self.listen,
        ]
        lines = [
            "[controller]",
            f'name = "{self.name}"',
            f'state_dir = "{self.state_dir}"',
            f"journal_size = {json.dumps(self.journal_size)}",
            *([f'copy_rate = "{self.copy_rate}"'] if self.copy_rate else []),
            *self.controller,
        ]
        lines += [
            "[nbd]",
            f"listen = {json.dumps(listen)}",
            *(["insecure = true"] if self.listen or self.tcp_port else []),
        ]
        lines += ["[control]", f'socket = "{self.control_socket}"']
        for volume, size in self.volumes.items():
            lines += [
                f'[volumes."{volume}"]',
                f"size = {json.dumps(size)}",
                f'primary = "{self.primary(volume)}"',
            ]
            if self.secondary:
                lines += [f'secondary = "{self.secondary_of(volume)}"', f'mode = "{self.mode}"']
                lines += [f'delay = "{self.delay}"'] if self.delay else []
        for group, members in self.groups.items():
            lines += [f'[groups."{group}"]', f"volumes = {json.dumps(list(members))}"]
        return "\n".join([*lines, self.extra, ""])

    def write(self) -> DaemonFiles:
        for name in ("a", "b"):
            (self.directory / name).mkdir(exist_ok=True)
        self.config.write_text(self.text())
        return self


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float = PATIENCE_SECONDS) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(
                str(self._path)
            )  # which waits its turn, as a socket with a time-out would not
            self.sock.settimeout(self.timeout)
        except OSError:
            self.close()
            raise


class DaemonError(AssertionError):
    """The daemon did not do what the test relies on; the text ends with its log."""


class Process(Protocol):
    """What is used of a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Daemon:
    """One `duplexd run` process, and the next one after a restart."""

    def __init__(
        self,
        files: DaemonFiles,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.files = files
        self.arguments = list(arguments)
        self.prefix = list(prefix)  # a command that runs the daemon, in its own process
        self.env = dict(env or {})
        self.log_path = files.directory / "daemon.log"
        self.process: Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """Everything that the daemon, and earlier ones with these files, wrote to stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self) -> list[str]:
        """The command line of the process."""
        return [sys.executable, "-m", "duplexd", "run", "--config", str(self.files.config)]

    def start(self, ready: bool = True) -> Daemon:
        """Start the process; with `ready`, return when it says that it is."""
        assert not self.running
        self.process = self.spawn()
        if ready:
            self.wait_ready()
        return self

    def spawn(self) -> Process:
        """A new process, which writes to the log."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*self.prefix, *self.command(), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(), **self.env},
                cwd=self.files.directory,
            )

    def wait_ready(self, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise DaemonError(
                    f"the daemon ended with {self.process and self.process.returncode}\n"
                    f"{self.log()[-4000:]}"
                )
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        raise DaemonError(f"the daemon was not ready after {seconds} s\n{self.log()[-4000:]}")

    def request(
        self, method: str, path: str, body: object = None, timeout: float = PATIENCE_SECONDS
    ) -> tuple[int, Any]:
        """One request on the control socket: (status, JSON), or the text if it is not JSON."""
        connection = UnixConnection(self.files.control_socket, timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            response = connection.getresponse()
            data = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(data)
        except ValueError:
            return response.status, data

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DaemonError(
                f"the daemon did not end within {seconds} s\n{self.log()[-4000:]}"
            ) from None

    def stop(self, seconds: float = PATIENCE_SECONDS) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.running:
            self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def lines(self) -> list[str]:
        """The complete lines of the log."""
        return self.log().split("\n")[:-1]

    def wait_log(self, *texts: str, after: int = 0, seconds: float = PATIENCE_SECONDS) -> str:
        """The first line logged, after so many, that contains all of `texts`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.lines()[after:]:
                if all(text in line for text in texts):
                    return line
            time.sleep(0.02)
        raise DaemonError(
            f"{' and '.join(texts)} was not logged within {seconds} s\n{self.log()[-4000:]}"
        )

    def hold_ended(self, lease: str) -> dict[str, Any]:
        """The logged end of a hold: `reason`, `held_s` and more. Waits for it."""
        ended = json.loads(self.wait_log(f'"lease": "{lease}"', '"event": "released"'))
        assert isinstance(ended, dict)
        return ended


def run_duplexd(
    *arguments: str, timeout: float = PATIENCE_SECONDS, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One `duplexd` command to its end."""
    command = [sys.executable, "-m", "duplexd", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        cwd=cwd or ROOT,
        check=False,
    )


def run_duplexctl(
    files: DaemonFiles, *arguments: str, timeout: float = PATIENCE_SECONDS
) -> subprocess.CompletedProcess[str]:
    """One `duplexctl` command, on the control socket of `files`, to its end."""
    command = [
        sys.executable,
        "-c",
        "from duplexd.duplexctl.cli import main; main()",
        "--socket",
        str(files.control_socket),
        *arguments,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
