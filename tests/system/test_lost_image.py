"""A secondary's image that is moved away while the daemon runs: noticed before a backup relies on
it, and mended as docs/operations.md says.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.commands import same_bytes
from tests.support.daemon import run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 8 << 20


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


def test_an_image_that_was_replaced_is_noticed_and_mended(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": SIZE, "wal": SIZE}, groups={"db": ["data", "wal"]})
    daemon = start_daemon(files)
    _write(files, "wal", 1)
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
    refused = run_duplexctl(files, "resync", "db", "--wait")
    assert refused.returncode == 5, refused
    assert f"{image}: " in refused.stderr

    assert daemon.stop() == 0
    daemon.start()
    mended = run_duplexctl(files, "resync", "db", "--wait")
    assert mended.returncode == 0, mended
    assert run_duplexctl(files, "verify", "db").returncode == 0
    assert run_duplexctl(files, "suspend", "db").returncode == 0
    for name in ("data", "wal"):
        assert same_bytes(files.primary(name), files.secondary_of(name)), name
    assert image.read_bytes()[4096:8192] == bytes([2]) * 4096
