"""Who else may have an image open: other writers are kept away as far as the kernel knows them,
and readers are not.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.disk import RealDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 1 << 20
LIMIT_SECONDS = 100


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "a.img")
    RealDisk().create(path, SIZE).close()
    return path


def qemu_io(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["qemu-io", "-f", "raw", *arguments, path],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


@pytest.fixture
def qemu(path: str) -> Iterator[Callable[..., None]]:
    """Keeps the image open in QEMU, with these arguments."""
    running: list[subprocess.Popen[str]] = []

    def keep(*arguments: str) -> None:
        process = subprocess.Popen(
            ["qemu-io", "-f", "raw", *arguments, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        while (line := process.stdout.readline()) and "MiB" not in line:
            pass

    yield keep
    for process in running:
        process.communicate("quit\n", timeout=LIMIT_SECONDS)


def test_qemu_does_not_open_an_image_of_ours_for_writing(path: str) -> None:
    file = RealDisk().open(path)
    refused = qemu_io(path, "-c", "write 0 4k")
    assert 'Failed to get "write" lock' in refused.stderr
    file.close()
    assert qemu_io(path, "-c", "write 0 4k").returncode == 0


def test_qemu_reads_an_image_of_ours(path: str, tmp_path: Path) -> None:
    """A backup of a suspended secondary."""
    file = RealDisk().open(path)
    assert qemu_io(path, "-r", "-c", "read 0 4k").returncode == 0
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw", path, str(tmp_path / "backup")]
    subprocess.run(convert, check=True, timeout=LIMIT_SECONDS)
    file.close()


def test_an_image_that_qemu_writes_to_is_refused(path: str, qemu: Callable[..., None]) -> None:
    qemu()
    with pytest.raises(OSError, match="in use already"):
        RealDisk().open(path)


def test_an_image_that_qemu_reads_is_opened(path: str, qemu: Callable[..., None]) -> None:
    qemu("-r")
    RealDisk().open(path).close()


def test_an_image_that_another_program_writes_to_is_refused(path: str) -> None:
    """Without any lock, as nbdkit does it."""
    program = "import sys; file = open(sys.argv[1], 'r+b'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(OSError, match=r"another program, or a loop device, has it open"):
            RealDisk().open(path)
        other.communicate(b"\n", timeout=LIMIT_SECONDS)
    RealDisk().open(path).close()


def test_an_image_that_another_program_reads_is_opened(path: str) -> None:
    with open(path, "rb"):
        RealDisk().open(path).close()


@pytest.mark.parametrize("writable", [True, False])
def test_an_image_under_a_loop_device_is_refused_if_that_can_write(
    path: str, writable: bool
) -> None:
    command = ["losetup", "--find", "--show", *([] if writable else ["--read-only"]), path]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, f"this test needs root and loop devices: {made.stderr}"
    try:
        if writable:
            with pytest.raises(OSError, match=r"loop device, has it open for writing"):
                RealDisk().open(path)
        else:
            RealDisk().open(path).close()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_who_opens_an_image_while_it_is_examined_has_it_and_the_daemon_goes_on(path: str) -> None:
    """The kernel tells the holder of a lease with a signal that ends a process by default."""
    program = (
        "import os, sys\n"
        "for _ in range(20000): os.close(os.open(sys.argv[1], os.O_RDWR))\n"
        "print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True
    ) as other:
        while other.poll() is None:
            with contextlib.suppress(OSError):
                RealDisk().open(path).close()
        assert other.communicate()[0] == "done\n"


def test_opening_an_image_does_not_change_its_time(path: str) -> None:
    os.utime(path, ns=(1, 1_234_567_891))
    RealDisk().open(path).close()
    assert os.stat(path).st_mtime_ns == 1_234_567_891
