"""A state directory that is an older copy of the same start is noticed, whichever way the daemon
ended: nothing is served, and no image is written to, until somebody decides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, run_duplexctl
from tests.support.image_set import MARK, copy_set

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
SIZE = 8 * MIB


def io(files: DaemonFiles, *commands: str) -> None:
    listed = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *listed, files.uri("data")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pattern verification failed" not in done.stdout, done.stdout


def mark(image: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.getxattr(image, MARK))
    return found


def start(daemon: Daemon) -> None:
    """It is not ready in the sense of `/readyz`, as a volume is not served."""
    before = len(daemon.lines())
    daemon.start(ready=False)
    daemon.wait_log('"event": "ready"', after=before)


def status(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.request("GET", "/v1/status")[1]
    return found


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_copy_from_seconds_before_the_end_is_refused_until_the_images_are_adopted(
    ended: str, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    files = DaemonFiles(tmp_path, {"data": SIZE}).write()
    daemon = start_daemon(files)
    io(files, f"write -P 1 0 {SIZE}", "flush")
    copy = copy_set(files.state_dir, tmp_path / "copy")
    io(files, "write -P 2 0 4k", "flush", "write -P 2 3M 4k", "flush")
    last = status(daemon)["controller"]["sequence"]
    if ended == "stopped":
        assert daemon.stop() == 0
    else:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while mark(files.primary("data"))["number"] < last:
            assert time.monotonic() < deadline, mark(files.primary("data"))
            time.sleep(0.02)
        daemon.kill()
    shutil.rmtree(files.state_dir)
    copy.rename(files.state_dir)
    for _ in range(2):
        start(daemon)
        (volume,) = status(daemon)["volumes"]
        assert "the state directory is an older copy" in json.dumps(volume), volume
        with pytest.raises(AssertionError):
            io(files, "read 0 4k")
        assert daemon.stop() == 0
    content = files.primary("data").read_bytes()
    assert (content[:4096], content[3 * MIB :][:4096]) == (b"\2" * 4096,) * 2
    start(daemon)
    done = run_duplexctl(files, "adopt", "data")
    assert done.returncode == 0, done.stderr
    done = run_duplexctl(files, "resync", "data", "--wait")
    assert done.returncode == 0, done.stderr
    io(files, "read -P 2 0 4k", "read -P 2 3M 4k", "read -P 1 1M 4k", "write -P 3 0 4k", "flush")
    daemon.kill()
    daemon.start()
    io(files, "read -P 3 0 4k", "read -P 2 3M 4k")
    assert daemon.stop() == 0
