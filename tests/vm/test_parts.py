"""The parts that the tests with the Linux kernel rely on: checker, image reader, machine.

Each is shown to find what it is there for.
"""

from __future__ import annotations

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
from tests.vm.tools import MachineError, run_tool, tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(900)  # the first use of the machine boots it

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


@pytest.mark.vm
def test_a_command_in_the_guest_gives_its_output_and_status(machine: Machine) -> None:
    assert machine.outcome("echo out; echo err >&2; printf '#end 1 0'; exit 3") == (
        3,
        "out\nerr\n#end 1 0",
    )
    with pytest.raises(MachineError, match="exit status 1"):
        machine.run("false")


@pytest.mark.vm
def test_a_command_beyond_its_time_fails_and_the_next_one_is_answered(machine: Machine) -> None:
    with pytest.raises(MachineError, match="time-out"):
        machine.run("sleep 1; echo late", timeout_s=0.2)
    assert machine.run("echo next") == "next"


@pytest.mark.vm
def test_the_guest_sees_the_devices_of_the_kernel_driver(machine: Machine) -> None:
    assert machine.run("uname -s; ls /dev/nbd0") == "Linux\n/dev/nbd0"
    assert "cloud" in machine.run("uname -r")
