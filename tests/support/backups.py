"""`duplexctl backup` for tests: runs it, and restores what it made as QEMU reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duplexd.backup.steps import BACKUP, PARTIAL, READER, RECORD
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

CTL = "from duplexd.duplexctl.cli import main; main()"


def write(uri: str, byte: int, offset: int, length: int) -> None:
    command = f"write -P {byte} {offset} {length}"
    subprocess.run(["qemu-io", "-f", "raw", "-c", command, uri], check=True, capture_output=True)


def backup(
    daemon: Daemon, destination: Path, *options: str, target: str = "db"
) -> subprocess.CompletedProcess[str]:
    return run_duplexctl(daemon.files, "--json", "backup", target, str(destination), *options)


def made(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The answer of a backup that is there."""
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def restored(answer: dict[str, Any], directory: Path) -> dict[str, bytes]:
    """The volumes, as QEMU reads them from the images."""
    found = {}
    for volume in answer["volumes"]:
        image = Path(answer["path"]) / volume["file"]
        raw = directory / "restored.img"
        subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)],
            check=True,
            timeout=PATIENCE_SECONDS,
        )
        found[volume["name"]] = raw.read_bytes()
        raw.unlink()
    return found


def status(daemon: Daemon) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = daemon.request("GET", "/v1/status")[1]["volumes"]
    return volumes


def is_duplex_again(daemon: Daemon) -> bool:
    """Without readers; the resync may still be under way."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        volumes = status(daemon)
        if all(each["state"] == "DUPLEX" and not each["readers"] for each in volumes):
            return True
        time.sleep(0.02)
    return False


def names(destination: Path) -> list[str]:
    """All but what is hidden: backups, and what is partial."""
    return sorted(path.name for path in destination.iterdir() if path.name[0] != ".")


def left(daemon: Daemon, destination: Path) -> set[str]:
    """What a killed run has left, in the words of the table."""
    found = set()
    if (destination / ".duplexd-backup.json").exists():
        found.add(RECORD)
    if any(each["readers"] for each in status(daemon)):
        found.add(READER)
    for name in names(destination):
        found.add(PARTIAL if name.endswith(".partial") else BACKUP)
    return found


def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CTL, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
