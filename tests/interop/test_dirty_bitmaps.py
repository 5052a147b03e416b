"""What changed between two cuts, read from a point by the tools of others, and incremental copies
that they make with it: each equals the cut that it is a copy of.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import same_bytes
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, run_duplexctl
from tests.support.fuse.mounting import unmount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.conftest import Client

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB
GRAIN = 64 * KIB
BITMAP, UNCHANGED = "qemu:dirty-bitmap:", "x-duplexd:unchanged:"


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=PATIENCE_SECONDS)


@dataclass
class Week:
    """A volume that was cut on monday and on tuesday, is at the cut of tuesday, and has changed
    since. `monday` is a copy of that cut; `ids` are those of the cuts, by tag.
    """

    files: DaemonFiles
    monday: Path
    ids: dict[str, str]

    def ctl(self, *arguments: str) -> str:
        done = run_duplexctl(self.files, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def uri(self) -> str:
        return self.files.uri("data@tuesday")

    @property
    def is_cut(self) -> Path:
        """The image that the point is."""
        return self.files.secondary_of("data")

    def dirty(self, bitmap: str, context: str = BITMAP) -> list[str]:
        """The words by which QEMU opens the point to show a bitmap of it."""
        where = f"driver=nbd,server.type=unix,server.path={self.files.nbd_socket}"
        return ["--image-opts", f"{where},export=data@tuesday,x-dirty-bitmap={context}{bitmap}"]

    def suspend(self, tag: str) -> None:
        self.ids[tag] = json.loads(self.ctl("suspend", "data", "--tag", tag, "--json"))["cut"]


# What changed between the two: two grains that touch, one further on, zeroes, and the last one.
CHANGED = [
    (1 * MIB, 2 * GRAIN), (3 * MIB, GRAIN), (8 * MIB, 4 * MIB), (SIZE - GRAIN, GRAIN),
]  # fmt: skip


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """One for all tests: none of them changes it."""
    directory = tmp_path_factory.mktemp("week")
    files = DaemonFiles(directory, volumes={"data": SIZE, "other": MIB}).write()
    week, daemon = Week(files, directory / "monday.raw", {}), Daemon(files)
    daemon.start()
    try:
        write = ["qemu-io", "-f", "raw", files.uri("data"), "-c"]
        run(*write, f"write -q -P 1 0 {SIZE}", "-c", "flush")
        week.suspend("monday")
        run("nbdcopy", files.uri("data@monday"), week.monday)
        week.ctl("resync", "data", "--wait")
        run(
            *write, f"write -q -P 2 {MIB + 512} {GRAIN}", "-c", f"write -q -P 2 {3 * MIB} 512",
            "-c", f"write -q -z -u {8 * MIB} {4 * MIB}",
            "-c", f"write -q -P 2 {SIZE - 512} 512", "-c", "flush",
        )  # fmt: skip
        week.suspend("tuesday")
        run(*write, f"write -q -P 3 0 {2 * MIB}")  # which is in no copy
        yield week
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    assert "Traceback" not in daemon.log(), daemon.log()[-4000:]


@pytest.fixture
def full(week: Week, tmp_path: Path) -> Path:
    """A copy of monday's cut, for a test to bring up to date."""
    shutil.copy(week.monday, tmp_path / "full.raw")
    return tmp_path / "full.raw"


# --------------------------------------------------------------------------------------- libnbd


def test_nbdinfo_shows_and_maps_what_changed(week: Week, client: Client) -> None:
    monday, tuesday = week.ids["monday"], week.ids["tuesday"]
    listed = json.loads(client("nbdinfo", "--json", "--list", week.files.uri()))["exports"]
    assert {each["export-name"]: each["contexts"] for each in listed} == {
        "data": ["base:allocation"],
        "other": ["base:allocation"],
        f"data@{tuesday}": ["base:allocation", BITMAP + monday],
    }
    answer = week.ctl("changes", "data", "--since", "monday", "--until", "tuesday", "--json")
    (row,) = json.loads(answer)["volumes"]
    for since in ("monday", monday):
        found = json.loads(client("nbdinfo", "--json", f"--map={BITMAP}{since}", week.uri))
        dirty = [(each["offset"], each["length"]) for each in found if each["type"] == 1]
        assert sum(each["length"] for each in found) == SIZE
        assert dirty == CHANGED == [(each["offset"], each["length"]) for each in row["extents"]]
        assert {each["description"] for each in found} == {"clean", "dirty"}


def test_what_is_not_known_is_refused(week: Week, client: Client) -> None:
    for since in ("sunday", "tuesday", "latest", ""):
        client("nbdinfo", f"--map={BITMAP}{since}", week.uri, status=1)
    client("nbdinfo", f"--map={BITMAP}monday", week.files.uri("data"), status=1)
    output = client("qemu-img", "map", *week.dirty("sunday"), status=1)
    assert f"{BITMAP}sunday" in output, output


COPY = """
uri, context, path = {!r}, {!r}, {!r}
h.add_meta_context(context)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
copied = holes = at = 0
with open(path, "r+b") as copy:
    while at < h.get_size():
        found = dict()
        def note(name, offset, extents, error):
            found[name] = extents
        h.block_status(h.get_size() - at, at, note)
        (length, dirty), (there, state) = found[context][:2], found["base:allocation"][:2]
        length = min(length, there)
        zero = state & nbd.STATE_ZERO
        if dirty:
            copied += length
            holes += length if zero else 0
            copy.seek(at)
            copy.write(bytes(length) if zero else h.pread(length, at))
        at += length
print(copied, holes)
"""


def test_nbdsh_brings_a_copy_from_one_cut_to_the_next(
    week: Week, full: Path, client: Client
) -> None:
    """By both contexts at once: what changed, and which of that is holes."""
    assert not same_bytes(full, week.is_cut)
    output = client("nbdsh", "-c", COPY.format(week.uri, BITMAP + "monday", str(full)))
    assert output.split() == [str(sum(length for _, length in CHANGED)), str(4 * MIB)]
    assert same_bytes(full, week.is_cut)


# ----------------------------------------------------------------------------------------- QEMU


def test_qemu_img_maps_what_changed_and_makes_an_image_of_it(
    week: Week, full: Path, client: Client
) -> None:
    """A qcow2 image that has what changed, on the full copy: together they are the cut."""
    for since in (week.ids["monday"], "monday"):
        found = json.loads(client("qemu-img", "map", "--output=json", *week.dirty(since)))
        dirty = [(each["start"], each["length"]) for each in found if not each["data"]]
        assert dirty == CHANGED, "QEMU shows what is dirty as no data"
        assert sum(each["length"] for each in found) == SIZE
    top = full.with_name("tuesday.qcow2")
    client("qemu-img", "create", "-q", "-f", "qcow2", "-b", full, "-F", "raw", top)
    for at, length in CHANGED:
        part = f"driver=raw,offset={at},size={length},file.driver="
        source = f"{part}nbd,file.server.type=unix,file.server.path={week.files.nbd_socket}"
        into = f"{part}qcow2,file.file.driver=file,file.file.filename={top}"
        client(
            "qemu-img", "convert", "-n", "--image-opts", f"{source},file.export=data@tuesday",
            "--target-image-opts", into,
        )  # fmt: skip
    client("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", top, week.is_cut)
    allocated = json.loads(client("qemu-img", "map", "--output=json", top))
    own = sum(each["length"] for each in allocated if each["depth"] == 0)
    assert own == sum(length for _, length in CHANGED)


def test_qemu_img_copies_what_changed_and_leaves_the_rest_to_the_full_copy(
    week: Week, full: Path, client: Client
) -> None:
    """In one command: what did not change is a hole, and zeroes hide what the full copy has."""
    for since in (week.ids["monday"], "monday"):
        top = full.with_name(f"{since}.qcow2")
        source = week.dirty(since, UNCHANGED)
        client("qemu-img", "convert", *source, "-O", "qcow2", "-F", "raw", "-B", full, top)
        client("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", top, week.is_cut)
        found = json.loads(client("qemu-img", "map", "--output=json", top))
        own = [(each["start"], each["length"]) for each in found if each["depth"] == 0]
        assert own == CHANGED
    output = client("qemu-img", "map", *week.dirty("sunday", UNCHANGED), status=1)
    assert f"{UNCHANGED}sunday" in output, output


# --------------------------------------------------------------------------------- ovirt-imageio

OVIRT = """
import json, sys
from ovirt_imageio._internal.nbd import Client, UnixAddress
client = Client(UnixAddress(sys.argv[1]), "data@tuesday", dirty=True)
found = client.extents(0, client.export_size)
changed, at = [], 0
with open(sys.argv[2], "r+b") as copy:
    for extent in found[client.dirty_bitmap]:
        if extent.flags:
            changed.append((at, extent.length))
            copy.seek(at)
            copy.write(client.read(at, extent.length))
        at += extent.length
print(json.dumps([client.dirty_bitmap, at, changed, sorted(found)]))
client.close()
"""


def test_ovirt_imageio_copies_its_dirty_extents(week: Week, full: Path, client: Client) -> None:
    """It takes a bitmap if exactly one is listed."""
    output = client(sys.executable, "-c", OVIRT, week.files.nbd_socket, full)
    bitmap, end, changed, contexts = json.loads(output)
    assert (bitmap, end) == (BITMAP + week.ids["monday"], SIZE)
    assert [tuple(each) for each in changed] == CHANGED
    assert contexts == ["base:allocation", bitmap]
    assert same_bytes(full, week.is_cut)


# ------------------------------------------------------------------------------------------ borg


@contextmanager
def as_file(uri: str, directory: Path) -> Iterator[Path]:
    """A point, as nbdfuse shows it."""
    directory.mkdir()
    file = directory / "data.img"
    with subprocess.Popen(["nbdfuse", file, uri], stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not file.exists():
                assert process.poll() is None, "nbdfuse ended"
                assert time.monotonic() < deadline, "nbdfuse has not mounted its file"
                time.sleep(0.02)
            yield file
        finally:
            unmount(str(directory))


def test_borg_stores_points_that_nbdfuse_shows(week: Week, client: Client, tmp_path: Path) -> None:
    """Borg compares with what it has by itself: of the second point it stores what is new."""
    repository, mount = tmp_path / "repository", tmp_path / "mount"
    borg = ("env", f"BORG_BASE_DIR={tmp_path}", "borg")
    client(*borg, "init", "-e", "none", repository)
    client(*borg, "create", f"{repository}::monday", week.monday)
    with as_file(week.uri, mount) as file:
        client(*borg, "create", f"{repository}::tuesday", file)
    told = json.loads(client(*borg, "info", "--json", f"{repository}::tuesday"))
    stored = told["archives"][0]["stats"]
    assert stored["original_size"] == SIZE
    assert stored["deduplicated_size"] < SIZE // 2
    restored = tmp_path / "restored.img"
    client("sh", "-c", f"{' '.join(borg)} extract --stdout {repository}::tuesday > {restored}")
    assert same_bytes(restored, week.is_cut)
