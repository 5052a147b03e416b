"""The parts that the tests with the Linux kernel rely on: checker, image reader, logs of writes.

Each is shown to find what it is there for; tests of the machine are beside those that boot it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.vm import kernel
from tests.vm.checker import (
    DEPENDENCY,
    LATE,
    LOST,
    Files,
    Progress,
    check_cut,
    check_dependencies,
    content,
)
from tests.vm.images import read_images, replay_and_check
from tests.vm.log_writes import DISCARD, FLUSH, FUA, MARK, Replay, entries
from tests.vm.promises import Moment, findings, moments
from tests.vm.tools import MachineError, run_tool, tool

if TYPE_CHECKING:
    from pathlib import Path

VOLUMES = ["tables", "log"]
BLOCK_BYTES = 1024


def written(tables: int, log: int) -> Files:
    return {
        "tables": {n: content("tables", n) for n in range(1, tables + 1)},
        "log": {n: content("log", n) for n in range(1, log + 1)},
    }


def both(number: int) -> dict[str, int]:
    return dict.fromkeys(VOLUMES, number)


def rules(files: Files, fsynced: int, issued: int) -> set[str]:
    return {finding.rule for finding in check_cut(files, both(fsynced), both(issued))}


@pytest.mark.parametrize(("tables", "log"), [(0, 0), (1, 0), (1, 1), (7, 6), (7, 7)])
def test_a_cut_at_any_moment_of_the_writer_is_consistent(tables: int, log: int) -> None:
    assert rules(written(tables, log), min(tables, log), max(tables, log)) == set()


def test_the_file_being_written_may_have_any_content() -> None:
    files = written(7, 6)
    files["tables"][7] = b""
    assert rules(files, 6, 7) == set()


def test_a_fsynced_file_that_is_missing_is_lost() -> None:
    assert rules(written(6, 6), 7, 9) == {LOST}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        content("log", 3)[:-1],
        content("log", 4)[: len(content("log", 3))],
        content("log", 3) + b"x",
    ],
)
def test_a_fsynced_file_of_other_content_is_lost_and_breaks_what_depends_on_it(
    damaged: bytes,
) -> None:
    files = written(7, 7)
    files["log"][3] = damaged
    assert rules(files, 7, 7) == {LOST, DEPENDENCY}


def test_a_file_begun_after_the_suspend_is_late() -> None:
    assert rules(written(7, 7), 5, 6) == {LATE}


@pytest.mark.parametrize(("tables", "log"), [(5, 6), (7, 5)])
def test_a_file_without_the_one_it_depends_on_is_found(tables: int, log: int) -> None:
    findings = check_dependencies(written(tables, log))
    assert [finding.rule for finding in findings] == [DEPENDENCY]
    assert "missing" in findings[0].text


def test_progress_is_read_from_the_end_of_the_log() -> None:
    progress = Progress.of_log(
        "fsynced log 8\nissued tables 9\nfsynced tables 9\nissued log 9\n", VOLUMES
    )
    assert progress == ({"tables": 9, "log": 9}, {"tables": 9, "log": 8})


def file_system(directory: Path, files: dict[int, bytes]) -> Path:
    """An image with an ext4 file system that holds numbered files."""
    tree, image = directory / "tree", directory / "image"
    tree.mkdir()
    for number, data in files.items():
        (tree / str(number)).write_bytes(data)
    run_tool("mkfs.ext4", "-q", "-b", str(BLOCK_BYTES), "-d", tree, image, "16M")
    return image


def test_images_are_read_without_being_changed(tmp_path: Path) -> None:
    files = written(3, 0)["tables"]
    image = file_system(tmp_path, files)
    before = image.read_bytes()
    assert read_images({"tables": image}, tmp_path) == {"tables": files}
    assert image.read_bytes() == before == (tmp_path / "tables.origin").read_bytes()


def test_content_that_only_the_file_systems_journal_has_is_read(tmp_path: Path) -> None:
    image = file_system(tmp_path, {1: content("tables", 1)[:BLOCK_BYTES]})
    block = run_tool("debugfs", "-R", "bmap /1 0", image).split()[-1]
    (tmp_path / "block").write_bytes(content("log", 1)[:BLOCK_BYTES])
    (tmp_path / "commands").write_text(
        f"journal_open\njournal_write -b {block} {tmp_path / 'block'}\njournal_close\n"
    )
    run_tool("debugfs", "-w", "-f", tmp_path / "commands", image)
    assert "needs_recovery" in run_tool("dumpe2fs", "-h", image)
    assert read_images({"log": image}, tmp_path) == {"log": {1: content("log", 1)[:BLOCK_BYTES]}}


def test_a_damaged_file_system_is_found(tmp_path: Path) -> None:
    image = file_system(tmp_path, {1: content("tables", 1)})
    # the directory now names an inode that is not there
    run_tool("debugfs", "-w", "-R", "clri /1", image)
    with pytest.raises(MachineError, match=r"fsck\.ext4"):
        replay_and_check(image)


def test_a_missing_program_is_a_failure_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.vm.tools.SEARCH_PATH", "/nonexistent")
    with pytest.raises(MachineError, match="apt-get install nbd-client"):
        tool("nbd-client")


def test_a_damaged_package_in_the_cache_is_not_used(tmp_path: Path) -> None:
    package = tmp_path / "linux-image.deb"
    package.write_bytes(b"as fetched")
    package.with_suffix(".sha256").write_text(kernel._sha256(package))
    assert kernel._cached_package(tmp_path) == package
    package.write_bytes(b"as fetchet")
    assert kernel._cached_package(tmp_path) is None
    assert not package.exists()


def write_log(path: Path, entries: list[tuple[int, int, int, bytes]]) -> None:
    """A log of dm-log-writes: (sector, sectors, flags, data or mark) each."""
    sector = 4096
    content = bytearray(struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), sector))
    content += bytes(sector - len(content))
    for place, sectors, flags, data in entries:
        mark = data if flags & MARK else b""
        head = struct.pack("<QQQQ", place, sectors, flags, len(mark)) + mark
        content += head + bytes(sector - len(head))
        if not mark:
            content += data + bytes(-len(data) % sector)
    path.write_bytes(content)


def test_a_log_of_writes_is_replayed_up_to_a_mark(tmp_path: Path) -> None:
    log, image = tmp_path / "log", tmp_path / "image"
    writes = [(0, 8, 0, b"a" * 4096), (2, 1, FUA, b"b" * 512), (0, 0, MARK, b"first")]
    more = [
        (0, 1, 0, b"c" * 512),
        (4, 2, DISCARD, b""),
        (0, 0, FLUSH, b""),
        (0, 0, MARK, b"second"),
    ]
    write_log(log, [*writes, *more, (0, 0, MARK, b"second")])
    replay = Replay(log, image, 8192)
    replay.until("first")
    assert image.read_bytes() == b"a" * 1024 + b"b" * 512 + b"a" * 2560 + bytes(4096)
    replay.until("second")
    first_sectors = b"c" * 512 + b"a" * 512 + b"b" * 512 + b"a" * 512
    assert image.read_bytes() == first_sectors + bytes(1024) + b"a" * 1024 + bytes(4096)
    with pytest.raises(ValueError, match="no mark third"):
        replay.until("third")


def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(8192))
    with pytest.raises(ValueError, match="does not begin as a log"):
        next(entries(tmp_path / "log"))


def block_of(number: int) -> bytes:
    return struct.pack("<Q", number) * 512


PROMISED = """write 1 0 2
flushed 1
write 2 1 1
mark before
flushed 2
mark after
"""


@pytest.mark.parametrize(
    ("mark", "blocks", "finding"),
    [
        ("before", (1, 1), ""),
        ("before", (1, 2), ""),
        ("before", (0, 1), "block 0 holds write 0; 1 was flushed"),
        ("after", (1, 2), ""),
        ("after", (1, 1), "block 1 holds write 1; 2 was flushed"),
        ("after", (2, 2), "block 0 holds write 2; 1 was flushed"),
    ],
)
def test_what_was_flushed_has_to_be_there_and_nothing_else(
    mark: str, blocks: tuple[int, int], finding: str
) -> None:
    content = b"".join(map(block_of, blocks))
    assert findings(content, moments(PROMISED)[mark]) == ([finding] if finding else [])


def test_a_torn_block_is_found() -> None:
    content = block_of(1)[:2048] + block_of(2)[:2048]
    assert findings(content, Moment({0: 1}, {0: {2}})) == ["block 0 is torn"]
