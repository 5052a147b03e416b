"""All clients write at once, each to its own volume, while a hold begins and ends, or the daemon
stops, or is killed and started again. What was acknowledged has to be there afterwards.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from tests.support.daemon import PATIENCE_SECONDS, run_duplexctl
from tests.support.matrix import ext4, fio
from tests.support.matrix import features as f
from tests.support.matrix.rig import MIB
from tests.support.matrix.talkers import TALKERS, talker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.support.matrix.rig import Rig


WAITED_SECONDS = 8.0  # of the 10 of the longest hold that is allowed
BLOCKS = 256
GOES_ON, FAILS = "goes on", "fails, nothing lost"
BEFORE = 50  # writes of each client before something happens


class Load(Protocol):
    """A client that writes in a thread until it fails or is stopped. `longest_s`: of its writes."""

    error: str
    longest_s: float

    @property
    def writes(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def check(self, rig: Rig) -> None:
        """What was acknowledged is there; the daemon runs."""


class Writer:
    """One write after the other, by a driver of `talkers.py`."""

    def __init__(self, rig: Rig, key: str) -> None:
        self.error, self.longest_s, self.writes = "", 0.0, 0
        self._key = key
        self._talker = talker(rig, key)
        self._acknowledged: dict[int, set[int]] = {}  # patterns that a block may have
        self._stopping = False
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), f"{self._key} hangs"
        self._talker.close()

    def check(self, rig: Rig) -> None:
        reader = talker(rig, self._key)
        for block, patterns in self._acknowledged.items():
            found = [pattern for pattern in patterns if not reader.read(block, pattern)]
            assert found, f"{self._key}: block {block} has none of {patterns}"
        reader.close()

    def _write(self) -> None:
        while not self._stopping and not self.error:
            block, pattern = self.writes % BLOCKS, self.writes // BLOCKS % 250 + 1
            before = self._acknowledged.get(block, set())
            self._acknowledged[block] = before | {pattern}  # in doubt
            begun = time.monotonic()
            self.error = self._talker.write(block, pattern)
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            if not self.error:
                self._acknowledged[block] = {pattern}
                self.writes += 1
            elif not before:
                del self._acknowledged[block]


class Fio:
    """fio rewrites blocks that verify; afterwards each of them has to, old or new."""

    SECONDS = 600
    OPTIONS = ("--rw=randwrite", "--bs=4k", "--size=4m", "--iodepth=16", "--verify=crc32c")

    def __init__(self, rig: Rig) -> None:
        self.error, self.longest_s = "", 0.0
        fio.run(rig, rig.unix("fio"), *self.OPTIONS)
        self._before = _writes_taken(rig, "fio")
        self._report = rig.directory / f"fio{time.monotonic_ns()}.json"
        self._process: subprocess.Popen[str] | None = None
        self._rig = rig

    @property
    def writes(self) -> int:
        """As the daemon counts them: fio starts slowly, and prints none before its end."""
        return _writes_taken(self._rig, "fio") - self._before

    def start(self) -> None:
        options = ["--time_based", f"--runtime={self.SECONDS}", "--do_verify=0"]
        report = ["--output-format=json", f"--output={self._report}"]
        where = ["--name=v", "--ioengine=nbd", f"--uri={self._rig.unix('fio')}"]
        self._process = subprocess.Popen(
            ["fio", *where, *self.OPTIONS, *options, *report], text=True, env=self._rig.env(),
            cwd=self._rig.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_SECONDS)
        text = self._report.read_text()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        self.error = f"error {job['error']}" if job["error"] else ""
        self.longest_s = job["write"]["clat_ns"]["max"] / 1e9

    def check(self, rig: Rig) -> None:
        fio.run(rig, rig.unix("fio"), *self.OPTIONS, "--verify_only")


class FileSystem:
    """Files written and synced one after the other in ext4, in a process: it may hang."""

    CODE = """
import os, sys, time
number = 0
while True:
    begun = time.monotonic()
    with open(f"{sys.argv[1]}/{number % 50}", "wb") as file:
        file.write(number.to_bytes(4, "big") * 1024)
        file.flush()
        os.fsync(file.fileno())
    number += 1
    print(number, time.monotonic() - begun, flush=True)
"""

    def __init__(self, rig: Rig) -> None:
        self.error, self.longest_s, self.writes = "", 0.0, 0
        self._stack = ExitStack()
        file = self._stack.enter_context(ext4.device(rig, rig.unix("ext4")))
        rig.run("mkfs.ext4", "-q", "-F", "-b", "4096", file, str(64 * MIB // 4096))
        point = self._stack.enter_context(ext4.mounted(rig, file))
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-c", self.CODE, str(point)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._follow)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._stack:
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)
            self._thread.join(PATIENCE_SECONDS)
            assert self._process.stderr is not None
            assert self._process.stdout is not None
            self.error = self._process.stderr.read().strip().rpartition("\n")[2]
            self._process.stderr.close()
            self._process.stdout.close()

    def check(self, rig: Rig) -> None:
        with ext4.device(rig, rig.unix("ext4")) as file:
            rig.run("e2fsck", "-fy", file, status=0 if not self.error else 1)
            with ext4.mounted(rig, file) as point:
                for number in range(max(0, self.writes - 49), self.writes):
                    self._check_file(point / str(number % 50), number)

    def _check_file(self, path: Path, number: int) -> None:
        """The file, or the next but 49 one that was being written over it."""
        found = path.read_bytes()
        over = self.writes % 50 == number % 50
        assert found == number.to_bytes(4, "big") * 1024 or over, f"{path.name} is lost"

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            count, seconds = line.split()
            self.writes, self.longest_s = int(count), max(self.longest_s, float(seconds))


def _writes_taken(rig: Rig, volume: str) -> int:
    """Of a volume, since the daemon started."""
    _status, metrics = rig.daemon.request("GET", "/metrics")
    name = f'duplexd_nbd_requests_total{{op="write",volume="{volume}"}}'
    counts = [line.split()[-1] for line in metrics.splitlines() if line.startswith(name)]
    return int(float(counts[0])) if counts else 0


def loads(rig: Rig) -> dict[str, Load]:
    """Of every client, by its key."""
    made: dict[str, Load] = {key: Writer(rig, key) for key in TALKERS}
    return made | {"fio": Fio(rig), "ext4": FileSystem(rig)}


def measure(rig: Rig, feature: str) -> dict[str, str]:
    """The cells of a row. The daemon runs before and afterwards."""
    started = loads(rig)
    with ExitStack() as stack:
        for load in started.values():
            load.start()
            stack.callback(load.stop)
        _wait_for_writes(started)
        {f.HOLD: _hold, f.STOP: _stop, f.KILL: _kill}[feature](rig)
        # a file system may hang, unless all that it waits for is the end of a hold
        _wait_for_more(started, started if feature == f.HOLD else TALKERS)
    for key, load in started.items():
        assert feature != f.HOLD or load.longest_s > WAITED_SECONDS, (key, load.longest_s)
        load.check(rig)
    if feature == f.HOLD:
        assert not [load.error for load in started.values() if load.error]
        return dict.fromkeys(started, f.WORKS)
    return {key: FAILS if load.error else GOES_ON for key, load in started.items()}


def _wait_for_writes(started: dict[str, Load]) -> None:
    def are_at_work() -> bool:
        errors = {key: load.error for key, load in started.items() if load.error}
        assert not errors, f"a client does not begin: {errors}"
        return all(load.writes >= BEFORE for load in started.values())

    _wait(started, are_at_work)


def _wait_for_more(started: dict[str, Load], keys: Iterable[str]) -> None:
    """Each of these has failed or written again."""
    before = {key: started[key].writes for key in keys}
    _wait(
        started,
        lambda: all(started[key].error or started[key].writes > before[key] for key in before),
    )


def _wait(started: dict[str, Load], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        writes = {key: load.writes for key, load in started.items()}
        assert time.monotonic() < deadline, f"a client does not go on: {writes}"
        time.sleep(0.02)


def _hold(rig: Rig) -> None:
    """It ends by its deadline: who released it just before might come too late."""
    done = run_duplexctl(rig.files, "quiesce", *TALKERS, "fio", "ext4", "--hold", "10")
    assert done.returncode == 9, done.stderr
    assert "deadline" in done.stderr


def _stop(rig: Rig) -> None:
    assert rig.daemon.stop() == 0
    rig.check_legs()
    rig.start()


def _kill(rig: Rig) -> None:
    rig.daemon.kill()
    rig.start()
