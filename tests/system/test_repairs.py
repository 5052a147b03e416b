"""The repairs of docs/operations.md: legs that differ, and images that were deleted or replaced.

Each follows the documented procedure with a real daemon, and ends with equal legs.
"""

from __future__ import annotations

import os
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
UNSAMPLED = (5 << 20) + 3 * 4096 + 5  # in no block that a start looks at


def _write(files: DaemonFiles, name: str, pattern: int) -> None:
    command = [
        "qemu-io",
        "-f",
        "raw",
        "-c",
        f"write -P {pattern} 4096 65536",
        "-c",
        "flush",
        files.uri(name),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    files = make_files(volumes={"data": SIZE, "wal": SIZE}, groups={"db": ["data", "wal"]})
    daemon = start_daemon(files)
    _write(files, "wal", 1)
    return daemon


def _damage(daemon: Daemon, image: Path, at: int = AT) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(b"\xee")
    found = run_duplexctl(daemon.files, "verify", "db")
    assert (found.returncode, f"wal: THE LEGS DIFFER, first at byte {at}" in found.stdout) == (
        1,
        True,
    ), found


def _assert_repaired(daemon: Daemon) -> None:
    found = run_duplexctl(daemon.files, "verify", "db")
    assert found.returncode == 0, found
    for image in (daemon.files.primary("wal"), daemon.files.secondary_of("wal")):
        assert image.read_bytes()[AT] == 1


def _refused(daemon: Daemon, *command: str) -> None:
    found = run_duplexctl(daemon.files, *command)
    assert (found.returncode, "wal: the legs differ in 1 place" in found.stderr) == (5, True), found


def test_a_difference_is_remembered_until_it_is_repaired_from_the_primary(daemon: Daemon) -> None:
    files = daemon.files
    _damage(daemon, files.secondary_of("wal"), UNSAMPLED)
    daemon.stop()
    daemon.start()
    unwell = run_duplexctl(files, "health")
    assert (unwell.returncode, "ERROR: wal: the legs differ" in unwell.stdout) == (1, True), unwell
    _refused(daemon, "suspend", "db")
    _refused(daemon, "swap", "wal")
    resynced = run_duplexctl(files, "resync", "db", "--wait")
    assert (resynced.returncode, "`duplexctl repair wal`" in resynced.stderr) == (1, True), resynced
    shown = run_duplexctl(files, "repair", "wal", "--from", "primary", "--dry-run")
    place = f"at byte {UNSAMPLED // 4096 * 4096}"
    assert (shown.returncode, place in shown.stdout) == (0, True), shown
    repaired = run_duplexctl(files, "repair", "wal", "--from", "primary")
    assert repaired.returncode == 0, repaired
    _assert_repaired(daemon)
    suspended = run_duplexctl(files, "suspend", "db")
    assert (suspended.returncode, "consistent" in suspended.stdout) == (0, True), suspended


def test_a_difference_is_repaired_from_the_secondary(daemon: Daemon) -> None:
    _damage(daemon, daemon.files.primary("wal"))
    repaired = run_duplexctl(daemon.files, "repair", "wal", "--from", "secondary")
    assert repaired.returncode == 0, repaired
    _assert_repaired(daemon)
    assert run_duplexctl(daemon.files, "suspend", "db").returncode == 0


def test_another_secondary_ends_a_difference(daemon: Daemon) -> None:
    files = daemon.files
    _damage(daemon, files.secondary_of("wal"))
    whole = files.config.read_text()
    files.config.write_text(whole.replace(f'secondary = "{files.secondary_of("wal")}"\n', ""))
    assert files.config.read_text() != whole
    assert run_duplexctl(files, "reload").returncode == 0
    files.config.write_text(whole)
    daemon.signal(signal.SIGHUP)
    daemon.wait_log('"event": "duplex"', '"wal"')
    assert "legs differ" not in run_duplexctl(files, "health").stdout
    _assert_repaired(daemon)


def test_a_secondary_that_differs_takes_over_only_when_that_is_accepted(daemon: Daemon) -> None:
    files = daemon.files
    _damage(daemon, files.primary("wal"))
    assert daemon.stop() == 0
    files.primary("wal").rename(files.primary("wal").with_suffix(".bad"))
    after = len(daemon.lines())
    daemon.start()
    daemon.wait_log('"event": "volume-not-served"', after=after)
    accepted = run_duplexctl(files, "swap", "wal", "--accept-differences")
    assert accepted.returncode == 0, accepted
    _copy_to_new_primary(daemon)
    _assert_repaired(daemon)


def _take_over_and_copy(daemon: Daemon) -> None:
    """The secondary becomes the primary, and is copied to a new image in the old one's place."""
    after = len(daemon.lines())
    daemon.start()
    daemon.wait_log('"event": "swapped"', after=after)
    _copy_to_new_primary(daemon)


def _copy_to_new_primary(daemon: Daemon) -> None:
    files = daemon.files
    files.primary("wal").touch()
    os.truncate(files.primary("wal"), SIZE)
    copied = run_duplexctl(files, "resync", "db", "--wait")
    assert copied.returncode == 0, copied


def test_a_deleted_primary_is_restored_from_the_secondary(daemon: Daemon) -> None:
    files = daemon.files
    files.primary("wal").unlink()
    found = run_duplexctl(files, "verify", "db")
    assert (found.returncode, f"wal: NOT EQUAL: {files.primary('wal')}: " in found.stdout) == (
        1,
        True,
    ), found
    assert daemon.stop() == 0
    _take_over_and_copy(daemon)
    _assert_repaired(daemon)
    assert same_bytes(files.primary("data"), files.secondary_of("data"))


def test_a_replaced_secondary_image_is_detected_and_repaired(daemon: Daemon) -> None:
    """Verify, suspend and resync report it, before a backup relies on the wrong image."""
    files = daemon.files
    image = files.secondary_of("wal")
    new = image.with_suffix(".new")
    shutil.copy(image, new)
    subprocess.run(["mv", str(new), str(image)], check=True)

    compared = run_duplexctl(files, "verify", "db")
    assert compared.returncode == 1
    assert f"wal: NOT EQUAL: {image}: " in compared.stdout
    assert "'When something fails'" in compared.stderr
    suspended = run_duplexctl(files, "suspend", "db")
    assert suspended.returncode == 9, suspended
    assert "suspended db: void" in suspended.stdout
    assert f"({image}: this is not the image that the daemon has open" in suspended.stderr
    _write(files, "wal", 2)
    repaired = run_duplexctl(files, "resync", "db", "--wait")
    assert repaired.returncode == 0, repaired
    assert run_duplexctl(files, "verify", "db").returncode == 0
    assert run_duplexctl(files, "suspend", "db").returncode == 0
    for name in ("data", "wal"):
        assert same_bytes(files.primary(name), files.secondary_of(name)), name
    assert image.read_bytes()[4096:8192] == bytes([2]) * 4096
