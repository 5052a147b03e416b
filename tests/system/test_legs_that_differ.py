"""Legs that differ are mended as docs/operations.md says, whichever is right."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import same_bytes
from tests.support.daemon import run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 8 << 20
AT = 5000


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    files = make_files(volumes={"data": SIZE, "wal": SIZE}, groups={"db": ["data", "wal"]})
    daemon = start_daemon(files)
    subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write -P 1 4096 65536", "-c", "flush", files.uri("wal")],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return daemon


def _damage(daemon: Daemon, image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(AT)
        file.write(b"\xee")
    found = run_duplexctl(daemon.files, "verify", "db")
    assert (found.returncode, f"wal: THE LEGS DIFFER, first at byte {AT}" in found.stdout) == (
        1,
        True,
    ), found


def _mended(daemon: Daemon) -> None:
    found = run_duplexctl(daemon.files, "verify", "db")
    assert found.returncode == 0, found
    for image in (daemon.files.primary("wal"), daemon.files.secondary_of("wal")):
        assert image.read_bytes()[AT] == 1


def test_a_resync_does_not_mend_them(daemon: Daemon) -> None:
    _damage(daemon, daemon.files.secondary_of("wal"))
    assert run_duplexctl(daemon.files, "suspend", "db").returncode == 0
    assert run_duplexctl(daemon.files, "resync", "db", "--wait").returncode == 0
    assert run_duplexctl(daemon.files, "verify", "db").returncode == 1


def test_the_primary_is_right(daemon: Daemon) -> None:
    files = daemon.files
    _damage(daemon, files.secondary_of("wal"))
    whole = files.config.read_text()
    files.config.write_text(whole.replace(f'secondary = "{files.secondary_of("wal")}"\n', ""))
    assert files.config.read_text() != whole
    daemon.stop()
    daemon.start()
    files.config.write_text(whole)
    daemon.signal(signal.SIGHUP)
    daemon.wait_log('"event": "duplex"', '"wal"')
    _mended(daemon)


def test_the_secondary_is_right(daemon: Daemon) -> None:
    files = daemon.files
    _damage(daemon, files.primary("wal"))
    assert daemon.stop() == 0
    files.primary("wal").rename(files.primary("wal").with_suffix(".bad"))
    shutil.copy(files.secondary_of("wal"), files.primary("wal"))
    daemon.start()
    _mended(daemon)


def test_the_primary_was_deleted(daemon: Daemon) -> None:
    files = daemon.files
    files.primary("wal").unlink()
    found = run_duplexctl(files, "verify", "db")
    assert (found.returncode, f"wal: NOT EQUAL: {files.primary('wal')}: " in found.stdout) == (
        1,
        True,
    ), found
    assert daemon.stop() == 0
    shutil.copy(files.secondary_of("wal"), files.primary("wal"))
    daemon.start()
    _mended(daemon)
    assert same_bytes(files.primary("data"), files.secondary_of("data"))
