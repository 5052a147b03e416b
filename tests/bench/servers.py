"""The servers that are compared. Each serves one volume on a Unix socket, from files in one
directory.

| name | what it does with a write |
|---|---|
| duplexd | journal, primary, secondary (`sync`), all local files |
| nbdkit | one file, no mirror |
| qemu | qemu-storage-daemon with `blockdev-mirror` in copy-mode write-blocking: two files |
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from duplexd.units import GIB
from tests.support.daemon import Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Callable

JOURNAL_BYTES = GIB
START_SECONDS_MAX = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process and all of its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_rss_bytes(pid: int) -> int:
    """The most memory that the process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no VmHWM")


class Server:
    """A server process with one volume of `size` bytes.

    A context manager that starts and ends it.
    """

    name = ""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self.socket = directory / "nbd.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def sync(self) -> None:
        """Bring what it wrote to its files so far to the disk."""
        for path in self.directory.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fdatasync(file.fileno())

    def _image(self, name: str) -> Path:
        path = self.directory / name
        with path.open("wb") as image:
            image.truncate(self.size)
        return path

    def _run(self, *command: str) -> None:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(
                    f"{self.name} did not start: "
                    f"{(self.directory / 'log').read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.02)


class Nbdkit(Server):
    name = "nbdkit"

    def start(self) -> None:
        self._run(
            "nbdkit",
            "--foreground",
            "--exit-with-parent",
            "--unix",
            str(self.socket),
            "file",
            str(self._image("primary.img")),
        )
        self._wait(self.socket.exists)


class QemuMirror(Server):
    name = "qemu"

    @property
    def uri(self) -> str:
        return f"nbd+unix:///primary?socket={self.socket}"

    def start(self) -> None:
        monitor = self.directory / "qmp.sock"
        command = ["qemu-storage-daemon"]
        for name in ("primary", "secondary"):
            image = self._image(f"{name}.img")
            file = f"driver=file,node-name={name}-file,filename={image},discard=unmap"
            command += ["--blockdev", file]
            command += ["--blockdev", f"driver=raw,node-name={name},file={name}-file"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.socket}"]
        command += ["--export", "type=nbd,id=export,node-name=primary,name=primary,writable=on"]
        command += [
            "--chardev",
            f"socket,id=qmp,path={monitor},server=on,wait=off",
            "--monitor",
            "chardev=qmp",
        ]
        self._run(*command)
        self._wait(lambda: monitor.exists() and self.socket.exists())
        self._mirror(monitor)

    @staticmethod
    def _mirror(monitor: Path) -> None:
        """Start the mirror job; return when it follows every write."""
        arguments = {
            "job-id": "mirror",
            "device": "primary",
            "target": "secondary",
            "sync": "full",
            "copy-mode": "write-blocking",
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS_MAX)
            connection.connect(str(monitor))
            stream = connection.makefile("rw")

            def execute(
                command: str, arguments: dict[str, str] | None = None, until: str = "return"
            ) -> dict[str, Any]:
                stream.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
                stream.flush()
                for line in stream:
                    answer: dict[str, Any] = json.loads(line)
                    if "error" in answer:
                        raise RuntimeError(f"{command}: {answer['error']}")
                    if until in (answer.get("event"), *answer):
                        return answer
                raise RuntimeError(f"{command}: qemu-storage-daemon hung up")

            execute("qmp_capabilities")
            execute("blockdev-mirror", arguments, until="BLOCK_JOB_READY")
            jobs = execute("query-block-jobs")["return"]
            if not any(
                job["device"] == "mirror" and job.get("actively-synced", True) for job in jobs
            ):
                raise RuntimeError(f"the mirror does not follow: {jobs}")


class Duplexd(Server):
    name = "duplexd"

    def __init__(self, directory: Path, size: int) -> None:
        super().__init__(directory, size)
        self.daemon = Daemon(DaemonFiles(directory, {"volume": size}, journal_size=JOURNAL_BYTES))

    @property
    def uri(self) -> str:
        return self.daemon.files.uri("volume")

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def start(self) -> None:
        self.daemon.files.write()
        self.daemon.start()

    def stop(self) -> None:
        if self.daemon.running:
            self.daemon.stop()


SERVERS: dict[str, type[Server]] = {server.name: server for server in (Duplexd, Nbdkit, QemuMirror)}
