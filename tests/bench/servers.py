"""The servers that are compared. Each is a process that serves volumes on a Unix socket, from files
in one directory, started the way its users start it.

| name | what it does with a write |
|---|---|
| duplexd | journal, primary, secondary (`sync`) |
| nbdkit | file plugin, one file, no mirror |
| qemu-nbd | one file, no mirror |
| qemu mirror | qemu-storage-daemon, `blockdev-mirror` in copy-mode write-blocking: two files |

The peers use the page cache, as duplexd does. QEMU does so by io_uring where the kernel lets it: 4
KiB requests were two to three times as fast as by its threads. An iothread made its mirror slower.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from duplexd.units import GIB
from tests.bench.rows import MIRROR, NBDKIT, OURS, QEMU_NBD
from tests.support.daemon import ROOT, Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOURNAL_BYTES = GIB
START_SECONDS_MAX = 120.0
VOLUME = "volume"


def cpu_s(pid: int) -> float:
    """User and system time of a process and all of its threads so far, ended ones included."""
    # Linux makes the number of another process's CPU clock of its pid; /proc counts in 10 ms
    return time.clock_gettime((~pid << 3) | 2)


def rss_bytes(pid: int, field: str = "VmRSS") -> int:
    """The memory that a process has resident; `VmHWM`: the most that it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no {field}")


def peak_rss_bytes(pid: int) -> int:
    return rss_bytes(pid, "VmHWM")


@lru_cache(maxsize=1)
def qemu_aio() -> str:
    """How QEMU is to read and write files: the fastest way that this machine has."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 20)
        image = f"driver=file,filename={file.name},aio=io_uring"
        command = ["qemu-io", "--image-opts", "-c", "read 0 4k", image]
        done = subprocess.run(command, capture_output=True, check=False)
    return "threads" if done.returncode else "io_uring"


class Server:
    """A server process with volumes of `size` bytes.

    A context manager that starts and ends it.
    """

    name = ""

    def __init__(self, directory: Path, size: int, volumes: Sequence[str] = (VOLUME,)) -> None:
        self.directory = directory
        self.size = size
        self.volumes = tuple(volumes)
        self.socket = directory / "nbd.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, volume: str = VOLUME) -> str:
        return f"nbd+unix:///{quote(volume)}?socket={quote(str(self.socket))}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
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
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as image:
            image.truncate(self.size)
        return path

    def _run(self, *command: str) -> None:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        """Servers bind their sockets a moment before they listen."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

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
    name = NBDKIT

    def start(self) -> None:
        for volume in self.volumes:
            self._image(f"images/{volume}")
        command = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(self.socket)]
        self._run(*command, "file", f"dir={self.directory / 'images'}")
        self._wait(self._answers)


class QemuNbd(Server):
    name = QEMU_NBD

    def start(self) -> None:
        (volume,) = self.volumes
        command = ["qemu-nbd", "--format=raw", "--cache=writeback", "--discard=unmap"]
        command += [f"--aio={qemu_aio()}"]
        command += ["--persistent", "--shared=0", f"--socket={self.socket}"]
        self._run(*command, f"--export-name={volume}", str(self._image("primary.img")))
        self._wait(self._answers)


class QemuMirror(Server):
    name = MIRROR

    def start(self) -> None:
        monitor = self.directory / "qmp.sock"
        command = ["qemu-storage-daemon"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.socket}"]
        for volume in self.volumes:
            command += self._pair(volume)
        command += ["--chardev", f"socket,id=qmp,path={monitor},server=on,wait=off"]
        self._run(*command, "--monitor", "chardev=qmp")
        self._wait(lambda: monitor.exists() and self._answers())
        with Monitor(monitor) as qmp:
            for volume in self.volumes:
                qmp.mirror(f"{volume}-a", f"{volume}-b")

    def _pair(self, volume: str) -> list[str]:
        options = []
        for side in ("a", "b"):
            node = f"{volume}-{side}"
            image = self._image(f"{node}.img")
            file = f"driver=file,node-name={node}-file,filename={image},discard=unmap"
            options += ["--blockdev", f"{file},aio={qemu_aio()}"]
            options += ["--blockdev", f"driver=raw,node-name={node},file={node}-file"]
        export = f"type=nbd,id={volume},node-name={volume}-a,name={volume},writable=on"
        return [*options, "--export", export]


class Monitor:
    """The control socket of a qemu-storage-daemon. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(START_SECONDS_MAX)
        self._connection.connect(str(path))
        self._stream = self._connection.makefile("rw")

    def __enter__(self) -> Self:
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._connection.close()

    def execute(
        self, command: str, arguments: dict[str, str] | None = None, until: str = "return"
    ) -> dict[str, Any]:
        """The answer, or the event that says it is done."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
        self._stream.flush()
        for line in self._stream:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']}")
            if until in (answer.get("event"), *answer):
                return answer
        raise RuntimeError(f"{command}: qemu-storage-daemon hung up")

    def mirror(self, device: str, target: str) -> None:
        """Start a mirror job; return when it follows every write."""
        job = f"mirror-{device}"
        arguments = {"job-id": job, "device": device, "target": target}
        arguments |= {"sync": "full", "copy-mode": "write-blocking"}
        self.execute("blockdev-mirror", arguments, until="BLOCK_JOB_READY")
        jobs = self.execute("query-block-jobs")["return"]
        if not any(one["device"] == job and one.get("actively-synced", True) for one in jobs):
            raise RuntimeError(f"the mirror does not follow: {jobs}")


class Duplexd(Server):
    """The daemon of the checkout `root`: this one, or another revision's."""

    name = OURS
    root = ROOT
    journal_bytes = JOURNAL_BYTES

    def files(self) -> DaemonFiles:
        return DaemonFiles(
            self.directory,
            dict.fromkeys(self.volumes, self.size),
            {"all": self.volumes},
            journal_size=self.journal_bytes,
        )

    def start(self) -> None:
        self.daemon = Daemon(self.files().write(), env={"PYTHONPATH": str(self.root)})
        self.daemon.start()

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def stop(self) -> None:
        if self.daemon.running:
            self.daemon.stop()

    def command(self, path: str, body: dict[str, object]) -> Any:
        """A POST on the control socket. Raises RuntimeError if it fails."""
        status, answer = self.daemon.request("POST", path, body)
        if status != 200:
            raise RuntimeError(f"{path} {body}: {status} {answer}")
        return answer

    def resync(self) -> None:
        """Return when all pairs are DUPLEX."""
        self.command("/v1/resync", {"targets": ["all"], "wait": True})


SERVERS: dict[str, type[Server]] = {
    server.name: server for server in (Duplexd, Nbdkit, QemuNbd, QemuMirror)
}
