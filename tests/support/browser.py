"""A real headless browser: Chromium, told what to do over its DevTools pipe.

    with Browser(tmp_path, width=360, height=800) as browser:
        browser.open("http://127.0.0.1:9809/")
        assert browser.evaluate("document.title") == "duplexd alpha"
        assert browser.complaints == []          # blocked by the page's policy, failed to load

The pipe (file descriptors 3 and 4, JSON that ends with a zero byte) needs neither a port nor a
WebSocket. What is evaluated is not bound by the policy of the page.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Json = dict[str, Any]

_FLAGS = (
    "--headless",
    "--no-sandbox",  # of root
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One page, as wide as a telephone by default. A context manager."""

    def __init__(
        self, directory: Path, width: int = 360, height: int = 800, scale: float = 1.0
    ) -> None:
        self._directory = directory
        self._metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": scale,
            "mobile": width < 600,
        }
        self._asked = 0
        self._unread = b""
        self._session = ""
        self._loaded = 0
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        theirs_in, self._write_fd = os.pipe()
        self._read_fd, theirs_out = os.pipe()
        # By a shell: these descriptors have to be 3 and 4, in the browser alone.
        profile = self._directory / "browser"
        command = ["chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        with (self._directory / "browser.log").open("w") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", script, "browser", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs_in, theirs_out),
                env={**os.environ, "HOME": str(self._directory)},
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self._open_page()
        except BaseException:  # nobody leaves what was not entered
            self.__exit__()
            raise
        return self

    def _open_page(self) -> None:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime"):
            self._ask(f"{domain}.enable")
        self._ask("Emulation.setDeviceMetricsOverride", **self._metrics)

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # it has children
        self._process.wait()
        os.close(self._write_fd)
        os.close(self._read_fd)

    def open(self, url: str) -> None:
        """Load a page, whole."""
        before = self._loaded
        self._ask("Page.navigate", url=url)
        while self._loaded == before:
            self._receive()

    def until(self, true: Callable[[], bool]) -> None:
        """Take what it says until something is so."""
        while not true():
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, however long it is."""
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **parameters: object) -> Json:
        self._asked += 1
        number = self._asked
        asked = {"id": number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                result: Json = message["result"]
                return result

    def _receive(self) -> Json:
        """The next message; events are noted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read_fd], [], [], left)
            data = os.read(self._read_fd, 1 << 16) if ready else b""
            assert data, (self._directory / "browser.log").read_text()[-4000:]
            self._unread += data
        text, _, self._unread = self._unread.partition(b"\0")
        message: Json = json.loads(text)
        if message.get("method") == "Page.loadEventFired":
            self._loaded += 1
        elif message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        return message
