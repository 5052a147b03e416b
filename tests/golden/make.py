"""Writes the state directory of the present format version, and what must be read from it.

Run `python -m tests.golden.make` once for every version of `journal.format` or `journal.checkpoint`
that is released, and never again for that version: the files prove that later programs read what
earlier ones wrote. Therefore the markers are JSON here, written out, and not made by `core/markers`
of today. Segments are small; nothing in the format depends on their size.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import Ledger, Place
from duplexd.core.marker_fields import pack_map
from duplexd.core.pair import Pair, PairRecord
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import (
    FLAG_ALLOCATE,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRIM,
    VERSION,
    WRITE,
    ZERO,
)
from duplexd.journal.segment import Ring
from duplexd.journal.writer import Writer
from duplexd.limits import EngineLimits
from duplexd.replication.staging import StagingSink
from tests.golden.read import read
from tests.sim.disk import SimDisk
from tests.support.memory_leg import MemoryLeg

HERE = Path(__file__).parent
CONTROLLER = bytes.fromhex("00112233445566778899aabbccddeeff")
SEGMENT_SIZE = SEGMENT_HEADER_BYTES + 2048
TIME_US = 1_795_000_000_000_000
SIZE = 1 << 20
LIMITS = EngineLimits()
JOB = "c0ffee00"
STATE = "/state"


class Author:
    """Writes a journal and folds it, as a controller does."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.ring = Ring(disk, f"{STATE}/journal", CONTROLLER, SEGMENT_SIZE, 7)
        self.ring.live.append(self.ring.grow())
        self.ring.spares += [self.ring.grow() for _ in range(6)]
        self.writer = Writer(self.ring, 0, 0)
        self.ledger = Ledger(LIMITS)
        self._time_us = TIME_US

    def mark(self, m: str, **fields: object) -> int:
        self._time_us += 1000
        payload = json.dumps({"m": m, **fields}, separators=(",", ":")).encode()
        sequence = self.writer.append_marker(payload, self._time_us)
        self.writer.write()
        self.ledger.unpack_and_apply(Place(sequence, self._time_us), json.loads(payload))
        return sequence

    def change(
        self, kind: int, volume: int, offset: int, length: int, data: bytes = b"", flags: int = 0
    ) -> None:
        self._time_us += 1000
        self.writer.append(kind, volume, offset, length, data, flags, self._time_us)
        self.writer.write()
        if self.ledger.pairs[volume].tracks:
            self.ledger.track(self.ledger.pairs[volume], kind, offset, length)
        self.ledger.pairs[volume].regions.touched.add(0)

    def checkpoint(self) -> None:
        self.writer.sync_now()
        writer = self.writer
        saved = {
            "controller": CONTROLLER.hex(),
            "segment_size": SEGMENT_SIZE,
            "sequence": writer.sequence,
            "chain": writer.chain,
            "index": writer.segment.index,
            "offset": writer.position,
            **self.ledger.pack_snapshot(self.ledger.snapshot(writer.sequence, {})),
        }
        self._disk.replace_file(f"{STATE}/checkpoint", checkpoint.pack(saved))


def some_map(*offsets: int) -> str:
    changed = ChangeMap(SIZE, LIMITS.change_grain_bytes_min, LIMITS.change_grains_max)
    for offset in offsets:
        changed.set(offset, 1)
    return pack_map(changed)


def write() -> SimDisk:
    """A disk with a state directory in `STATE`: every kind of record, every marker, some segments
    and a staging log.
    """
    disk = SimDisk()
    author = Author(disk)
    mark, change = author.mark, author.change
    for number, name in enumerate(("data", "wal", "blobs", "old", "späte"), 1):
        mark("volume", id=number, name=name, size=SIZE)
    mark("open", boot="11111111-2222-3333-4444-555555555555", version=1)
    mark("attach", volumes=[1, 2])
    mark("copy", volumes={"3": some_map(0, 70_000)}, reason="first copy")
    mark("regions", volumes={"1": [0], "2": [0]})
    change(WRITE, 1, 4096, 512, bytes(range(256)) * 2)
    change(ZERO, 2, 0, 65536, flags=FLAG_ALLOCATE)
    mark("copied", id=3, runs=[[0, 65536]])
    mark("cut", id="cafe000000000001", tag="nächtlich", volumes=[1, 2])
    change(WRITE, 1, 200_000, 3, b"abc")
    author.checkpoint()
    change(TRIM, 2, 65536, 65536)
    mark("void", cut="cafe000000000001")
    mark("resync", job=JOB, how="map", volumes=[1, 2])
    change(WRITE, 1, 300_000, 700, b"\x5a" * 700)
    at = author.writer.sequence
    mark("commit", job=JOB, at=at, count=2, volumes=[1, 2])
    mark("equal", volumes=[3])
    mark(
        "fail",
        id="cafe000000000002",
        at=at,
        volumes=[3],
        unusable=[3],
        failed=[3],
        error="Input/output error",
        missed={"3": some_map(0)},
    )
    mark("missed", volumes={"3": some_map(900_000)})
    mark("attach", volumes=[4])
    mark("detach", volumes=[4])
    mark("remove", id=4)
    mark("attach", volumes=[5])
    mark("cut", id="cafe000000000003", tag="", volumes=[5])
    mark("stood", cut="cafe000000000003")
    mark("resync", job="decaf000", how="map", volumes=[5])
    mark("abandon", job="decaf000", volumes=[5])
    mark("resync", job="decaf001", how="map", volumes=[5])
    mark("commit", job="decaf001", at=author.writer.sequence, count=0, volumes=[5])
    mark("settled", job="decaf001", volumes=[5])
    mark("equal", volumes=[5])
    mark("swap", volumes=[5])
    mark(
        "cut", id="cafe000000000004", tag="alle", volumes=[5], group="db", members=["alpha", "beta"]
    )
    mark("reader", name="nightly", volumes=[5])
    mark("reader", name="weekly", volumes=[5])
    mark("unread", names=["nightly"], volumes=[5])
    mark("ready", cut="cafe000000000004")
    mark("agreed", cut="cafe000000000004")
    mark("grade", cut="cafe000000000004", consistent=True, records=42, detail="")
    mark("void", cut="cafe000000000005")
    mark("mark", id="cafe000000000006", tag="stündlich", volumes=[3, 5])
    mark("mark", id="cafe000000000007", tag="", volumes=[5], group="db", members=["alpha", "beta"])
    mark("ready", cut="cafe000000000007")
    mark("agreed", cut="cafe000000000007")
    mark("rollback", id="beef000000000001", cut="cafe000000000004", volumes=[5], backup="b1")
    mark("rolledback", id="beef000000000001", volumes=[5], whole=False)
    mark("rollback", id="beef000000000002", cut="cafe000000000004", volumes=[5])
    change(WRITE, 5, 0, 3, b"abc")
    mark("rolledback", id="beef000000000002", volumes=[5], whole=True)
    mark("differ", id=5, runs=[[4096, 8192], [65536, 4096]])
    mark("differ", id=3, runs=[[0, 4096]])
    mark("same", volumes=[3])
    mark("scrubbed", id=5, at=65536, began=TIME_US, done=TIME_US - 1)
    mark(
        "drilled", id="feed000000000001", cut="cafe000000000004", exit=1, took=1500, volumes=[5]
    )  # fmt: skip
    mark("volume", id=6, name="late", size=SIZE)
    mark("attach", volumes=[6])
    mark("horizon", volumes=[6], to=author.writer.sequence, time=TIME_US)
    change(WRITE, 6, 8192, 3, b"abc")
    at = author.writer.sequence
    change(WRITE, 6, 200_000, 3, b"abc")
    mark(
        "cutat",
        id="cafe000000000008",
        tag="zurück",
        volumes=[6],
        at=at,
        time=TIME_US,
        changed={"6": some_map(200_000)},
    )
    mark("stood", cut="cafe000000000008")
    mark("mark", id="cafe000000000009", tag="", volumes=[6], group="db", members=["one", "two"])
    at = author.writer.sequence
    mark("ready", cut="cafe000000000009")
    mark("agreed", cut="cafe000000000009")
    change(WRITE, 6, 300_000, 3, b"abc")
    mark(
        "onward",
        id="cafe00000000000a",
        tag="weiter",
        volumes=[6],
        at=at,
        time=TIME_US,
        mark="cafe000000000009",
        group="db",
        members=["one", "two"],
    )
    mark("ready", cut="cafe00000000000a")
    mark("grow", volumes={"6": 2 * SIZE}, done=False)
    mark("grow", volumes={"6": 2 * SIZE}, done=True)
    change(WRITE, 6, 2 * SIZE - 3, 3, b"end")
    author.writer.sync_now()
    mark("synced")
    mark("close")
    author.writer.sync_now()
    author.ring.close()
    write_staging(disk)
    return disk


def write_staging(disk: SimDisk) -> None:
    sink = StagingSink(disk, f"{STATE}/staging", JOB, 0, LIMITS.staged_piece_bytes_max)
    data, wal = (
        Pair(PairRecord(number, name, SIZE, LIMITS), MemoryLeg(SIZE), None, "sync")
        for number, name in ((1, "data"), (2, "wal"))
    )
    sink.write(data, 196_608, b"abc")
    sink.zero(wal, 65536, 65536, False)
    assert sink.count == 2
    sink.finish()
    (name,) = disk.list(f"{STATE}/staging")
    path = f"{STATE}/staging/{name}"
    disk.replace_file(path, disk.read_file(path)[: 2 * RECORD_HEADER_BYTES + 3])


def files(disk: SimDisk) -> dict[str, bytes]:
    """Every file of the state directory, by its path within."""
    directories = ["", "journal/", "staging/"]
    paths = [
        above + name
        for above in directories
        for name in disk.list(f"{STATE}/{above}")
        if f"{name}/" not in directories
    ]
    return {path: disk.read_file(f"{STATE}/{path}") for path in paths}


def pack(disk: SimDisk) -> bytes:
    """The directory as one file: zeroes take no room."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for path, content in files(disk).items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def unpack(archive_path: Path) -> SimDisk:
    """The reverse of `pack`."""
    disk = SimDisk()
    with tarfile.open(archive_path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            disk.make_directory(f"{STATE}/{member.name}".rpartition("/")[0])
            disk.replace_file(f"{STATE}/{member.name}", content.read())
    return disk


def main() -> None:
    target = HERE / f"v{VERSION}"
    target.mkdir()  # an error if it is there: what a released version wrote is not written again
    (target / "state.tar.xz").write_bytes(pack(write()))
    expected = read(unpack(target / "state.tar.xz"), STATE)
    (target / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
