"""The test's side of `launch.py`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


class Launcher:
    """Starts daemons. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.support.system_calls.launch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), "NO_COLOR": "1"},
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.communicate()

    def start(self, config: str, traced: bool, fault: Sequence[object] | None) -> Launched:
        """A new daemon."""
        return Launched(self, self.ask({"start": config, "traced": traced, "fault": fault}))

    def ask(self, request: dict[str, object]) -> Any:
        """The program's answer."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with self._lock:
            self._program.stdin.write(json.dumps(request) + "\n")
            self._program.stdin.flush()
            return json.loads(self._program.stdout.readline())


class Launched:
    """A daemon, as a `subprocess.Popen` would be."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self._launcher = launcher
        self._descriptor = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        return self._after(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        found = self._after(None if timeout is None else int(timeout * 1000))
        if found is None:
            raise subprocess.TimeoutExpired("duplexd", timeout or 0.0)
        return found

    def signal(self, number: int) -> None:
        """Nothing if it has ended: its number may be another process's now."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def _after(self, milliseconds: int | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if not poll.poll(milliseconds):
                return None
            self.returncode = self._launcher.ask({"ended": self.pid})
            os.close(self._descriptor)
        return self.returncode
