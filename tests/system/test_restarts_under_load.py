"""Restarts in place with 100 connections over 100 volumes, of fio, libnbd and QEMU at once, each of
which checks what it has written. Nothing fails, nothing is stale, and nobody waits long.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, free_port, run_duplexctl
from tests.system.test_restart_in_place import restart, wait_duplex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.daemon import Daemon, DaemonFiles

DEBIAN_PYTHON = "/usr/bin/python3"  # which has libnbd's module
VOLUMES = [f"v{number}" for number in range(100)]
OF_FIO, OF_LIBNBD, OF_QEMU = VOLUMES[:50], VOLUMES[50:85], VOLUMES[85:]
RESTARTS = 20
RUN_SECONDS_MAX = 3600  # 100 s on two idle processors, ten times that beside other work
PAUSE_SECONDS_MAX = 10.0  # noise of the machine included; what it was is printed


def fio(files: DaemonFiles) -> subprocess.Popen[str]:
    """Each connection has a job of its own."""
    jobs = [
        "[global]", "ioengine=nbd", "rw=randwrite", "bsrange=4k-64k", "iodepth=4", "size=4m",
        "time_based", "runtime=3600", "rate_iops=15", "verify=crc32c", "verify_fatal=1",
        "verify_backlog=32", "serialize_overlap=1",
    ]  # fmt: skip
    for number, name in enumerate(OF_FIO):
        jobs += [f"[{name}]", f"uri={files.uri(name, tcp=number % 2 == 1)}"]
    (files.directory / "jobs.fio").write_text("\n".join([*jobs, ""]))
    return subprocess.Popen(
        ["fio", "--output-format=json", f"--output={files.directory}/fio.json", "jobs.fio"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=files.directory,
    )  # fmt: skip


def libnbd(files: DaemonFiles) -> subprocess.Popen[str]:
    """See `tests/support/checked_writes.py`."""
    uris = [files.uri(name, tcp=number % 2 == 1) for number, name in enumerate(OF_LIBNBD)]
    client = subprocess.Popen(
        [DEBIAN_PYTHON, str(ROOT / "tests" / "support" / "checked_writes.py"), *uris],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdout is not None
    assert client.stdout.readline() == "connected\n", client.communicate()[1]
    return client


class QemuIo:
    """`qemu-io` with one connection, which writes a pattern and reads it, again and again."""

    def __init__(self, uri: str) -> None:
        terminal, theirs = pty.openpty()  # into a pipe it would write at its end only
        self._answers = os.fdopen(terminal)
        self.process = subprocess.Popen(
            ["qemu-io", "-f", "raw", "-t", "none", uri],
            stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, text=True, env=environment(),
        )  # fmt: skip
        os.close(theirs)
        self.rounds, self.found = 0, list[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            place = f"{self.rounds % 200 + 1} {self.rounds % 50 * 64}k 16k"
            said = self._answer(f"write -P {place}", "wrote 16384/16384")
            said += self._answer(f"read -P {place}", "read 16384/16384")
            if "fail" in said.lower():
                self.found.append(said)
                return
            self.rounds += 1

    def _answer(self, command: str, good: str) -> str:
        """All that it says of a command, one at a time: it would not see a second one."""
        commands, said = self.process.stdin, ""
        assert commands is not None
        commands.write(f"{command}\n")
        commands.flush()
        while not (good in said or "fail" in said.lower()):
            line = self._answers.readline()
            if not line:
                return f"{said} failed: it has ended"
            said += line
        return said

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        assert not self.found
        self.process.communicate("quit\n", timeout=PATIENCE_SECONDS)
        self._answers.close()
        assert self.process.returncode == 0


def wait_progress(daemon: Daemon, qemus: Sequence[QemuIo]) -> None:
    """Until every client is there, and goes on."""
    rounds = [qemu.rounds for qemu in qemus]
    while True:
        volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
        there = all(volume["connections"] for volume in volumes)
        time.sleep(0.2)  # a status of so many volumes takes the daemon some time
        if there and all(now.rounds > before for now, before in zip(qemus, rounds, strict=True)):
            return
        assert not any(qemu.found for qemu in qemus), [qemu.found for qemu in qemus]


@pytest.mark.long
@pytest.mark.timeout(RUN_SECONDS_MAX)
def test_a_hundred_clients_see_no_error_in_twenty_restarts(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(
        volumes=dict.fromkeys(VOLUMES, "8MiB"),
        groups={"all": VOLUMES},
        tcp_port=free_port(),
        journal_size="256MiB",
    )
    daemon = start_daemon(files)
    wait_duplex(daemon)
    pauses = []
    with ExitStack() as stack:
        loads = stack.enter_context(fio(files))
        checked = stack.enter_context(libnbd(files))
        qemus = [QemuIo(files.uri(name)) for name in OF_QEMU]
        for qemu in qemus:
            stack.callback(qemu.process.kill)
        for _ in range(RESTARTS):
            wait_progress(daemon, qemus)
            done = restart(daemon)
            assert done["clients_lost"] == 0
            pauses.append(done["pause_s"])
            assert loads.poll() is None, loads.communicate()[0]
            assert checked.poll() is None, checked.communicate()[1]
        wait_progress(daemon, qemus)
        for qemu in qemus:
            qemu.end()
        output, errors = checked.communicate("", timeout=PATIENCE_SECONDS)
        assert checked.returncode == 0, errors
        loads.send_signal(signal.SIGINT)
        said, _ = loads.communicate(timeout=PATIENCE_SECONDS)
    report = (files.directory / "fio.json").read_text()
    jobs = json.loads(report[report.index("{") :])["jobs"]  # behind what it says of SIGINT
    assert [job["error"] for job in jobs] == [0] * len(OF_FIO), said
    assert min(job["write"]["total_ios"] for job in jobs) > 0
    seen = json.loads(output)
    assert seen["least"] > RESTARTS
    longest_fio_s = max(job["write"]["clat_ns"]["max"] for job in jobs) / 1e9
    print(
        f"{RESTARTS} restarts: longest pause {max(pauses):.3f} s, as libnbd saw it"
        f" {seen['longest_s']:.3f} s, as fio did {longest_fio_s:.3f} s"
    )
    assert max(pauses) < PAUSE_SECONDS_MAX
    verified = run_duplexctl(daemon.files, "verify", "all")
    assert verified.returncode == 0, verified.stdout
    assert daemon.stop() == 0
