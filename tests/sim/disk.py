"""A disk in memory that loses un-synced writes: `SimDisk` takes the place of `RealDisk`, crashes on
demand, and is deterministic for a seed.
"""

from __future__ import annotations

import copy
import errno
import os
import posixpath
from random import Random
from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.runtime.stamp import Stamp
from tests.sim.faults import Fault, Faults, covers, no_space
from tests.sim.image import Image

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence

    from duplexd.backend import Pages
    from duplexd.runtime.disk import Data


class PowerCut(BaseException):
    """The process is dead. Not an Exception, so that nothing in the code under test can handle
    it.
    """


class SimFile:
    """See `duplexd.runtime.disk.File`. Dead, as everything the process had open, after a crash."""

    def __init__(self, disk: SimDisk, path: str, image: Image) -> None:
        self.path = path
        self.size = image.size
        self.is_block, self.device = False, ""
        self.can_punch = True
        self._disk = disk
        self._image = image
        self._life = disk.lives
        self._closed = False

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        self._disk.meet("read", self.path)
        return bytes(self._image.current[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read(offset, len(buffer))

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        self._disk.meet("read", self.path)
        buffer[:] = self._image.medium()[offset : offset + len(buffer)]

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        self._check(offset, len(buffer))
        if self._disk.rng.random() < self._disk.cold or self._disk.hangs(self.path):
            return False
        buffer[:] = self.read(offset, len(buffer))
        return True

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        buffer = memoryview(bytearray(length))
        return self.read_cached(offset, buffer) and pipe.put(buffer)

    def has_lost_writes(self) -> bool:
        return False

    def write(self, offset: int, data: Data) -> None:
        self._put("write", offset, bytes(data))

    def writev(self, offset: int, buffers: Sequence[Data], nbytes: int) -> None:
        data = b"".join(buffers)
        assert len(data) == nbytes, f"writev of {len(data)} bytes was said to have {nbytes}"
        self._put("writev", offset, data)

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        self._put("zero", offset, bytes(length), punch=not allocate)

    def resize(self, size: int) -> None:
        self._check(0, 0)
        for length in (self.size, size) if self._image.length > self.size else (size,):
            with self._disk.atomic("resize", self.path) as happens:
                if happens:
                    self._modified()
                    self._image.resize(length)
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        self._check(offset, length)
        self._disk.step("reserve", self.path)
        if self._disk.faults.full(self.path) and self._image.room_before(offset, length) < length:
            raise no_space(self.path)
        self._modified()
        self._image.allocate(offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        self._check(offset, length)
        self._disk.answers("extents", self.path)
        return self._image.extents(offset, length, count_max)

    def write_back(self, offset: int, length: int) -> None:
        self._check(offset, length)
        self._disk.answers("write_back", self.path)

    def write_out(self, offset: int, length: int) -> None:
        self._check(offset, length)
        self._disk.answers("write_out", self.path)

    def sync(self, times: bool = False) -> None:
        self._check(0, 0)
        with self._disk.atomic(
            "sync", self.path, failed=lambda: self._image.sync_fails(self._disk.rng)
        ) as happens:
            if happens:
                self._image.sync(times)

    def drop_cache(self) -> None:
        self._check(0, 0)
        self._disk.answers("drop_cache", self.path)
        self._image.drop_cache()

    def stamp(self) -> Stamp:
        self._check(0, 0)
        self._disk.answers("stamp", self.path)
        mtime_ns = 0 if self._disk.unmarked else self._image.mtime_ns
        return Stamp(f"file {self._image.number}", self._image.length, mtime_ns)

    def read_mark(self) -> bytes:
        self._check(0, 0)
        self._disk.answers("read_mark", self.path)
        return self._image.mark

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        self._check(0, 0)
        if self._disk.unmarked:
            return False
        with self._disk.atomic("write_mark", self.path) as happens:
            if happens:
                self._image.marks.append(mark)
                if durable:
                    self._image.sync_mark()
        return True

    def in_place(self, path: str = "") -> bool:
        self._check(0, 0)
        self._disk.answers("in_place", path or self.path)
        return self._disk.is_at(path or self.path, self._image)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if not self._closed and self._life == self._disk.lives:
            self._image.opened = False
        self._closed = True

    def _put(self, operation: str, offset: int, data: bytes, punch: bool = False) -> None:
        self._check(offset, len(data))
        torn = self._disk.step(operation, self.path, dying=lambda: self._dying(offset, data))
        self._modified()
        if torn is not None:
            self._image.write(offset, data[: self._disk.rng.randrange(max(len(data), 1))])
            raise torn.raised(self.path)
        if punch:
            self._image.punch(offset, len(data))
            return
        room = len(data)
        if self._disk.faults.full(self.path):
            copies = self._disk.faults.copies(self.path)
            room = 0 if copies else self._image.room_before(offset, len(data))
        self._image.write(offset, data[:room])
        if room < len(data):
            raise no_space(self.path)

    def _dying(self, offset: int, data: bytes) -> None:
        self._modified()
        self._image.start(offset, data)

    def _modified(self) -> None:
        self._image.mtime_ns = self._disk.now_ns()

    def _check(self, offset: int, length: int) -> None:
        if self._life != self._disk.lives or self._disk.dead:
            raise PowerCut(f"{self.path}: used by a process that is dead")
        if self._closed:
            raise OSError(errno.EBADF, "closed", self.path)
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(errno.EIO, "past the end", self.path)


class _Atomic:
    """An operation that happens whole or not at all when a crash comes."""

    def __init__(
        self, disk: SimDisk, operation: str, path: str, failed: Callable[[], None] | None
    ) -> None:
        self._disk = disk
        self._operation = operation
        self._path = path
        self._failed = failed
        self._cut: PowerCut | None = None

    def __enter__(self) -> bool:
        try:
            self._disk.step(self._operation, self._path)
        except PowerCut as cut:
            if not self._disk.struck:
                raise
            self._cut = cut
            return self._disk.rng.random() < 0.5
        except OSError:
            if self._failed is not None:
                self._failed()
            raise
        return True

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._cut is not None:
            raise self._cut from None


class SimDisk:
    """See `duplexd.runtime.disk.Disk`. All chance comes from `seed`.

    `before(operation, path)` is called before each operation that changes anything, and may raise
    `PowerCut`. From then on, or from the operation that `cut_at` names, everything raises
    `PowerCut` until `crash` brings up the machine again for the next process.
    """

    def __init__(self, seed: int = 0, cold: float = 0.1) -> None:
        self.rng = Random(seed)
        self.cold = cold  # how often `read_cached` finds nothing
        self.faults = Faults()
        self.now_ns: Callable[[], int] = lambda: 0  # 0: files have no times
        self.unmarked = False  # images are block devices: without times and attributes
        self.before: Callable[[str, str], None] | None = None
        self.met: Callable[[str, str], None] | None = None  # of every operation, and may hang
        self.on_dead: Callable[[], None] | None = None
        # Paths that do not answer, after so many more operations, and what an operation does then
        self.hanging: dict[str, int] = {}
        self.wait: Callable[[str, str, Callable[[], None] | None], None] | None = None
        self.operations = 0  # that changed something, in all
        self.lives = 0  # crashes so far
        self.boots = 0  # power cuts so far
        self.mounts = 0  # of a disk that failed, and was mounted again on the same boot
        self.dead = False
        self.struck = False  # the cut came in the middle of the operation, not before it
        self._cut_at: int | None = None
        self._images: dict[str, Image] = {}
        self._directories = {"/", ""}

    # What the code under test calls

    def open(self, path: str) -> SimFile:
        image = self._image(path)
        self.meet("open", path)
        if image.opened:
            raise OSError(errno.EBUSY, "in use already", path)
        image.opened = True
        return SimFile(self, path, image)

    def create(self, path: str, size: int, allocate: bool = False) -> SimFile:
        image = Image(size, allocate)
        with self.atomic("create", path) as happens:
            if self.exists(path):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            if allocate and self.faults.full(path):
                raise no_space(path)
            if happens:
                self._make_directories(posixpath.dirname(_normal(path)))
                self._images[_normal(path)] = image
        image.opened = True
        return SimFile(self, path, image)

    def exists(self, path: str) -> bool:
        if not self.dead:
            self.answers("exists", path)
        return _normal(path) in self._images or _normal(path) in self._directories

    def size(self, path: str) -> int:
        return self._image(path).size

    def mount(self, path: str) -> str:
        self._image(path)
        return f"mount-{self.boots}-{self.mounts}"

    def list(self, path: str) -> builtins.list[str]:
        above = _normal(path)
        if above not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        names = {
            posixpath.basename(name)
            for name in (*self._images, *self._directories)
            if posixpath.dirname(name) == above
        }
        return sorted(names - {""})

    def make_directory(self, path: str) -> None:
        with self.atomic("make_directory", path) as happens:
            if happens:
                self._make_directories(_normal(path))

    def remove(self, path: str) -> None:
        self._image(path)
        with self.atomic("remove", path) as happens:
            if happens:
                del self._images[_normal(path)]

    def read_file(self, path: str) -> bytes:
        image = self._image(path)
        self.meet("read_file", path)
        return bytes(image.current)

    def replace_file(self, path: str, data: bytes) -> None:
        if posixpath.dirname(_normal(path)) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with self.atomic("replace_file", path) as happens:
            if self.faults.full(path):
                raise no_space(path)
            if happens:
                self._images[_normal(path)] = Image.of(bytes(data))

    # What a test calls

    def crash(self, power: bool, lost: Sequence[str] = ()) -> None:
        """Kill the process, and the machine too if `power`. Open files are dead; the disk is what
        the next process finds.

        Without `power` everything written is there still (though not synced), but for what is at
        or below the paths in `lost`: their disk failed, and was mounted again on the same boot.
        With `power`, and there, each un-synced sector holds what it held at some moment since its
        last sync. Whatever was about to fail still is.
        """
        self.lives += 1
        self.boots += power
        self.mounts += bool(lost)
        self.dead = self.struck = False
        self._cut_at = None
        for path, image in self._images.items():
            if power or any(covers(above, path) for above in lost):
                image.cut_power(self.rng)
            else:
                image.kill(self.rng)

    def twin(self) -> SimDisk:
        """Another disk that holds the same, for a look at what a start would find."""
        twin = SimDisk(cold=0)
        twin.boots, twin.mounts = self.boots, self.mounts
        twin._directories, twin._images = set(self._directories), copy.deepcopy(self._images)
        return twin

    def lose(self, *lost: str) -> None:
        """After a crash: un-synced writes at or below these paths are lost, on the same boot."""
        self.mounts += 1
        for path, image in self._images.items():
            if any(covers(above, path) for above in lost):
                image.lose()

    def drop_cache(self, path: str) -> None:
        """What a failed sync gave up of a file shows."""
        self._image(path).drop_cache()

    def die(self) -> None:
        """Die now, between two operations."""
        self._die()

    def cut_at(self, operations: int) -> None:
        """Die in the middle of the `operations`-th changing operation from now (1: the next
        one).
        """
        self._cut_at = self.operations + operations

    def content(self, path: str) -> bytes:
        """What a reader of the file would see; no operation of its own."""
        return bytes(self._image(path).current)

    def take(self, path: str) -> Image:
        """Unlink a file that stays open."""
        return self._images.pop(_normal(path))

    def give(self, path: str, image: Image) -> None:
        """Put the unlinked file back at `path`, in place of what is there."""
        self._images[_normal(path)] = image

    def copies(self, above: str) -> dict[str, Image]:
        """All files below a path as they are now, by path, as `cp -a` does; for `put`."""
        return {
            path: copy.deepcopy(image)
            for path, image in self._images.items()
            if covers(above, path)
        }

    def put(self, above: str, files: dict[str, Image]) -> None:
        """Have these files below a path, and no others."""
        kept = {path: image for path, image in self._images.items() if not covers(above, path)}
        for image in files.values():
            image.opened = False
        self._images = kept | files

    def has(self, path: str) -> bool:
        """Whether there is a file; a look by nobody."""
        return _normal(path) in self._images

    def shorten(self, path: str, size: int) -> None:
        """Truncate a file, as far as its size is looked at: it can be read as before."""
        self._image(path).length = size

    def lock(self, path: str) -> None:
        """Another program has the file, until a crash."""
        self._image(path).opened = True

    def in_use(self, path: str) -> bool:
        """Whether somebody has the file at `path` open."""
        return self._image(path).opened

    def flip(self, path: str, offset: int) -> None:
        """Flip a bit on the medium."""
        image = self._image(path)
        for content in (image.current, image.durable):
            content[offset] ^= 0x10

    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def fail(
        self,
        path: str,
        error: int,
        after: int = 0,
        operation: str | None = None,
        times: int | None = None,
    ) -> None:
        """Make operations on `path`, or below it, fail after `after` more succeed: `times` times,
        or until `heal`.
        """
        self.faults.add(path, Fault(error, operation, after, times))

    def tear(self, path: str, error: int = errno.EIO, after: int = 0) -> None:
        """Make one write tear: a part of its data is written, then it fails."""
        self.faults.add(path, Fault(error, None, after, 1, torn=True))

    def full(self, path: str, copies: bool = False) -> None:
        """No space for `path`, or below it, that is not allocated yet. `copies`: nor for what is,
        because the file system copies on write.
        """
        self.faults.fill(path, copies)

    def heal(self, path: str) -> None:
        self.faults.heal(path)

    def unsynced(self, path: str) -> int:
        """How many writes of a file a power cut could take back."""
        return len(self._image(path).pending)

    # What files call

    def step(
        self, operation: str, path: str, dying: Callable[[], None] | None = None
    ) -> Fault | None:
        """Before anything changes: die if it is time, `dying` first; fail if a fault is due. A
        returned fault tears the write.
        """
        if self.dead:
            raise PowerCut(f"{operation} {path}: after the cut")
        if self.before is not None:
            try:
                self.before(operation, path)
            except PowerCut:
                self._die()
                raise
        self.operations += 1
        if self.operations == self._cut_at:
            self.struck = True
            if dying is not None:
                dying()
            self._die()
            raise PowerCut(f"{operation} {path}: operation {self.operations}")
        return self.meet(operation, path, torn=dying is not None, dying=dying)

    def meet(
        self,
        operation: str,
        path: str,
        torn: bool = False,
        dying: Callable[[], None] | None = None,
    ) -> Fault | None:
        """Fail if that is due. Faults that tear wait for a write."""
        if self.met is not None:
            self.met(operation, path)
        self.answers(operation, path, dying)
        fault = self.faults.due(operation, path, is_write=torn)
        if fault is None or fault.torn:
            return fault
        raise fault.raised(path)

    def hangs(self, path: str) -> bool:
        """Whether the next operation on it would hang."""
        return self.hanging.get(path, 1) <= 0

    def answers(self, operation: str, path: str, dying: Callable[[], None] | None = None) -> None:
        """Any operation on a path: it hangs if that does not answer."""
        if self.dead:
            raise PowerCut(f"{operation} {path}: after the cut")
        if path not in self.hanging:
            return
        if self.hanging[path] > 0:
            self.hanging[path] -= 1
        elif self.wait is not None:
            self.wait(operation, path, dying)

    def atomic(
        self, operation: str, path: str, failed: Callable[[], None] | None = None
    ) -> _Atomic:
        """`with disk.atomic(...) as happens`: true unless the crash comes first; `failed` runs when
        an error is due.
        """
        return _Atomic(self, operation, path, failed)

    def is_at(self, path: str, image: Image) -> bool:
        """Whether that path leads to that image."""
        return self._images.get(_normal(path)) is image

    def _die(self) -> None:
        self.dead = True
        if self.on_dead is not None:
            self.on_dead()

    def _image(self, path: str) -> Image:
        image = self._images.get(_normal(path))
        if image is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return image

    def _make_directories(self, path: str) -> None:
        if path in self._images:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if path not in self._directories:
            self._make_directories(posixpath.dirname(path))
            self._directories.add(path)


def _normal(path: str) -> str:
    return posixpath.normpath(path) if path else ""
