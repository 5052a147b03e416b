"""`swap --roll-forward` that fails, with the primary gone, on a daemon that is started as users
start it. The secondary is the last copy, so whatever its disk does, the command can be repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, run_duplexctl
from tests.support.fuse import faulty_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.json_object import Json
    from tests.support.fuse import FaultyDisk

PIECE = 64 << 10
PIECES = 8
SIZE = 4 << 20
LATE = SIZE - PIECE  # written before the cut, and not after it


class LastCopy(NamedTuple):
    """A volume without its primary; its secondary is at a cut, on a disk whose
    faults the test sets.
    """

    files: DaemonFiles
    daemon: Daemon
    disk: FaultyDisk

    def qemu_io(self, *commands: str) -> None:
        options = [word for command in commands for word in ("-c", command)]
        done = subprocess.run(
            ["qemu-io", "-f", "raw", *options, self.files.uri("data")],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "failed" not in done.stdout, done

    def duplexctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_duplexctl(self.files, *arguments)

    def volume(self) -> Json:
        done = self.duplexctl("--json", "status")
        (volume,) = json.loads(done.stdout)["volumes"]
        return dict(volume)

    def swap(self) -> subprocess.CompletedProcess[str]:
        return self.duplexctl("swap", "data", "--roll-forward")

    def swap_fails(self, why: str) -> None:
        done = self.swap()
        assert done.returncode in (1, 5), done
        assert why in done.stderr, done
        self.is_no_copy()

    def is_no_copy(self) -> None:
        """Nothing calls it a cut, or current; and it can be rebuilt."""
        volume = self.volume()
        secondary = volume["secondary"]
        assert (volume["state"], volume["served"]) == ("SUSPENDED", False)
        assert (secondary["usable"], secondary["as_of_sequence"]) == (False, None)

    def swap_ends_well(self) -> None:
        done = self.swap()
        assert done.returncode == 0, done
        self.holds_all()

    def holds_all(self) -> None:
        assert self.volume()["primary"]["path"] == str(self.files.secondary_of("data"))
        changed = [f"read -P {place + 2} {place * PIECE} {PIECE}" for place in range(PIECES)]
        self.qemu_io(*changed, f"read -P 1 {LATE} {PIECE}")

    def restart(self) -> None:
        self.daemon.kill()
        self.daemon.start()


@pytest.fixture
def copy(tmp_path: Path, start_daemon: Callable[..., Daemon]) -> Iterator[LastCopy]:
    with faulty_disk(tmp_path / "b") as disk:
        timeouts = ["primary_timeout = 2", "secondary_timeout = 2"]
        files = DaemonFiles(tmp_path, {"data": SIZE}, controller=timeouts).write()
        copy = LastCopy(files, start_daemon(files), disk)
        copy.qemu_io(f"write -P 1 0 {SIZE}", "flush")
        assert copy.duplexctl("suspend", "data").returncode == 0
        changes = [f"write -P {place + 2} {place * PIECE} {PIECE}" for place in range(PIECES)]
        copy.qemu_io(*changes, "flush")
        copy.daemon.kill()
        files.primary("data").unlink()
        copy.daemon.start()
        assert copy.volume()["rebuild"]["possible"]
        yield copy
        disk.lift()
        copy.daemon.kill()


def test_an_error_in_the_middle(copy: LastCopy) -> None:
    fault = copy.disk.fail("write", "data.img", skip=3)
    copy.swap_fails("Input/output error")
    assert copy.volume()["rebuild"]["possible"]
    copy.swap_fails("Input/output error")
    fault.lift()
    copy.swap_ends_well()


def test_an_error_in_the_middle_and_a_kill(copy: LastCopy) -> None:
    fault = copy.disk.fail("write", "data.img", skip=3)
    copy.swap_fails("Input/output error")
    copy.restart()
    copy.is_no_copy()
    fault.lift()
    copy.swap_ends_well()


def test_a_disk_that_hangs_in_the_middle(copy: LastCopy) -> None:
    fault = copy.disk.hang("write", "data.img", skip=3)
    copy.swap_fails("has not answered")
    assert copy.swap().returncode == 5, "it hangs still"
    copy.daemon.kill()
    fault.lift()
    copy.daemon.start()
    copy.is_no_copy()
    copy.swap_ends_well()


def test_a_kill_in_the_middle(copy: LastCopy) -> None:
    fault = copy.disk.hang("write", "data.img", skip=3)
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(run_duplexctl, copy.files, "swap", "data", "--roll-forward")
        fault.wait_met()
        copy.daemon.kill()
        assert swapping.result().returncode
    fault.lift()
    broken = copy.disk.fail("write", "data.img", skip=3)
    copy.daemon.start()
    copy.is_no_copy()
    broken.lift()
    copy.swap_ends_well()


def test_a_sync_that_fails_at_the_end(copy: LastCopy) -> None:
    """Clients use the image by then. The journal has what is not durable there."""
    fault = copy.disk.fail("sync", "data.img")
    copy.swap_ends_well()
    copy.daemon.stop()  # which syncs
    assert fault.met()
    fault.lift()
    copy.daemon.start()
    copy.holds_all()


def test_an_image_that_lost_its_end(copy: LastCopy) -> None:
    """Extended again it is as long as it was, and holds zeros."""
    fault = copy.disk.fail("write", "data.img", skip=3)
    copy.swap_fails("Input/output error")
    fault.lift()
    image = copy.disk.below / "data.img"
    copy.daemon.kill()
    os.truncate(image, SIZE // 2)
    copy.daemon.start()
    copy.swap_fails("data.img")
    copy.daemon.kill()
    os.truncate(image, SIZE)
    copy.daemon.start()
    copy.swap_fails("only a resync makes it usable")


def test_an_image_that_lost_its_end_where_no_start_saw_it(copy: LastCopy) -> None:
    fault = copy.disk.fail("write", "data.img", skip=3)
    copy.swap_fails("Input/output error")
    fault.lift()
    assert copy.daemon.stop() == 0
    for length in (SIZE // 2, SIZE):
        os.truncate(copy.disk.below / "data.img", length)
    copy.daemon.start()
    copy.swap_fails("the image was changed by another program")


def test_a_stop_after_an_error(copy: LastCopy) -> None:
    """It is known for the same image then, by its time."""
    fault = copy.disk.fail("write", "data.img", skip=3)
    copy.swap_fails("Input/output error")
    fault.lift()
    assert copy.daemon.stop() == 0
    copy.daemon.start()
    copy.swap_ends_well()
