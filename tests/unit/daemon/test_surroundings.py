"""The room of images: looked at by paths, and without waiting for a path that hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, TypeVar

import pytest_asyncio
from structlog.testing import capture_logs

from duplexd.daemon.surroundings import Surroundings
from duplexd.limits import WORKER_THREADS, DaemonLimits
from duplexd.net.address import UnixAddress
from duplexd.net.listen import bind
from duplexd.runtime.threads import ThreadWorkers, Workers
from tests.unit.client.members import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from duplexd.core.findings import ImageRoom

KIB = 1 << 10
T = TypeVar("T")


@pytest_asyncio.fixture
async def workers() -> AsyncIterator[ThreadWorkers]:
    made = ThreadWorkers(asyncio.get_running_loop(), "test", WORKER_THREADS)
    yield made
    made.close()


def names(*paths: Path) -> Callable[[], dict[str, str]]:
    """On one disk."""
    return lambda: dict.fromkeys(map(str, paths), "disk")


async def test_a_sparse_image_lacks_what_is_a_hole(tmp_path: Path, workers: ThreadWorkers) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(b"x" * 64 * KIB)
    with image.open("r+b") as file:
        file.truncate(1024 * KIB)
    looked = Surroundings(str(tmp_path), names(image), workers, DaemonLimits())
    await looked.look()
    room = looked.around.images[str(image)]
    assert room.missing_bytes == 1024 * KIB - image.stat().st_blocks * 512
    assert room.device == image.stat().st_dev
    assert room.free_bytes is not None
    assert room.free_bytes > 0
    assert looked.around.state_free_bytes


async def test_an_image_that_is_missing_has_no_room_and_is_not_called_a_silent_disk(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    """The engine says of it what it is."""
    gone = tmp_path / "gone.img"
    looked = Surroundings(str(tmp_path), names(gone), workers, DaemonLimits())
    await looked.look()
    assert str(gone) not in looked.around.images
    assert looked.around.silent == {}


async def test_a_state_dir_that_does_not_answer_is_said(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    gone = tmp_path / "gone"
    looked = Surroundings(str(gone), dict, workers, DaemonLimits())
    await looked.look()
    assert looked.around.state_silent == "No such file or directory"
    assert looked.around.state_free_bytes is None


async def test_a_state_dir_that_is_another_one_by_now_is_said(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    looked = Surroundings(str(tmp_path), dict, workers, DaemonLimits(), lambda: True)
    await looked.look()
    assert looked.around.state_misplaced
    gone = Surroundings(str(tmp_path / "gone"), dict, workers, DaemonLimits(), lambda: True)
    await gone.look()
    assert (gone.around.state_misplaced, gone.around.state_silent) == (True, "")


async def test_a_unix_socket_whose_file_was_removed_is_said_until_there_is_another(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    address = UnixAddress(str(tmp_path / "nbd.sock"))
    sockets = bind(address)
    looked = Surroundings(
        str(tmp_path), dict, workers, DaemonLimits(), sockets=lambda: iter(sockets)
    )
    await looked.look()
    assert looked.around.removed == frozenset()
    Path(address.path).unlink()
    await looked.look()
    assert looked.around.removed == {str(address)}
    sockets.pop().close()
    sockets += bind(address)
    await looked.look()
    assert looked.around.removed == frozenset()
    sockets.pop().close()


async def test_an_image_in_memory_is_logged_once(tmp_path: Path, workers: ThreadWorkers) -> None:
    with NamedTemporaryFile(dir="/dev/shm") as image, capture_logs() as logged:
        shown = names(Path(image.name))
        looked = Surroundings(str(tmp_path), shown, workers, DaemonLimits())
        await looked.look()
        await looked.look()
    (line,) = logged
    assert (line["log_level"], line["path"]) == ("warning", image.name)
    assert "a restart of the machine loses it" in line["event"]


class Hanging(Surroundings):
    """One path does not answer until `release` is set."""

    hangs = ""
    looks = 0

    def _room(self, path: str) -> ImageRoom:
        if path == self.hangs:
            self.looks += 1
            self.release.wait(60)
        return super()._room(path)

    release = threading.Event()


async def test_a_path_that_hangs_is_said_and_takes_one_thread(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    good, stuck = tmp_path / "good.img", tmp_path / "stuck.img"
    for path in (good, stuck):
        path.write_bytes(b"x")
    limits = DaemonLimits(room_answer_seconds_max=0.05)
    looked = Hanging(str(tmp_path), names(good, stuck), workers, limits)
    looked.hangs = str(stuck)
    try:
        for _ in range(3):
            await looked.look()
        assert looked.around.silent[str(stuck)] == "the disk has not answered for 0.05 s"
        assert looked.looks == 1
    finally:
        looked.release.set()
    while looked.around.silent:
        await looked.look()
    assert str(good) in looked.around.images


class HangingDisk(Surroundings):
    """No path that begins with `hangs` answers until `release` is set."""

    hangs = ""

    def _room(self, path: str) -> ImageRoom:
        if path.startswith(self.hangs):
            self.threads.add(threading.get_ident())
            self.release.wait(60)
        return super()._room(path)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.threads, self.release = set[int](), threading.Event()


async def test_five_hundred_images_on_a_disk_that_hangs_cost_two_threads(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    good, unknown = tmp_path / "good.img", tmp_path / "unknown.img"
    stuck = {str(tmp_path / f"stuck{number}.img"): "stuck" for number in range(500)}
    for path in (good, unknown):
        path.write_bytes(b"x")
    limits = DaemonLimits(room_answer_seconds_max=0.05)
    disks = {**stuck, str(good): "good", str(unknown): ""}
    looked = HangingDisk(str(tmp_path), lambda: disks, workers, limits)
    looked.hangs = str(tmp_path / "stuck")
    looking = asyncio.create_task(looked.look())
    try:
        await until(lambda: looked.around.silent)
        assert looked.around.state_free_bytes, "known before the first that hangs"
        assert str(good) not in looked.around.silent
        await looking
        around = looked.around
        assert around.silent.keys() == stuck.keys()
        assert set(around.silent.values()) == {
            "the disk has not answered for 0.05 s", "other images on its disk have not answered",
        }  # fmt: skip
        assert around.images.keys() == {str(good), str(unknown)}
        assert len(looked.threads) == 2
    finally:
        looked.release.set()


async def test_images_whose_disk_is_not_known_are_not_silent_by_what_others_are(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    disks = {str(tmp_path / f"{number}.img"): "" for number in range(9)}
    looked = HangingDisk(
        str(tmp_path), lambda: disks, workers, DaemonLimits(room_answer_seconds_max=0.05)
    )
    looked.hangs = f"{tmp_path}/"
    try:
        await looked.look()
        assert looked.around.silent.keys() == set(list(disks)[:2])
    finally:
        looked.release.set()


class Counting(Workers):
    """Counts the calls."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.begun = 0

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        self.begun += 1
        self._workers.submit(call, done)

    def close(self) -> None:
        """It is another's."""


async def test_a_thousand_images_are_no_thousand_calls_in_workers(
    tmp_path: Path, workers: ThreadWorkers
) -> None:
    counting = Counting(workers)
    volumes = names(*(tmp_path / str(number) for number in range(1000)))  # none is there
    await Surroundings(str(tmp_path), volumes, counting, DaemonLimits()).look()
    assert counting.begun == 1
