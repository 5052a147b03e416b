"""What changed between cuts of a daemon that is started as users start it, beside what comparing
copies of the images says.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.daemon import run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

BLOCK = 4096


def write(files: DaemonFiles, name: str, seed: int) -> None:
    """Some hundred blocks of a volume, at random places, flushed."""
    subprocess.run(
        ["fio", "--name=w", "--ioengine=nbd", f"--uri={files.uri(name)}", "--thread",
         "--rw=randwrite", "--bs=4k", "--size=16M", "--io_size=1M", "--iodepth=8",
         f"--randseed={seed}", "--buffer_pattern=0x%02x" % (seed + 1), "--end_fsync=1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def command(files: DaemonFiles, *arguments: str, code: int = 0) -> str:
    done = run_duplexctl(files, *arguments)
    assert done.returncode == code, done.stderr
    return done.stdout


def dirty(files: DaemonFiles, name: str, since: str) -> list[dict[str, int]]:
    """What NBD clients get as an answer about the point that the volume is at."""
    done = subprocess.run(
        ["nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{since}", files.uri(f"{name}@latest")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return [
        {"offset": each["offset"], "length": each["length"]}
        for each in json.loads(done.stdout)
        if each["type"] == 1
    ]


def uncovered(before: bytes, after: bytes, extents: list[dict[str, int]]) -> list[int]:
    """Blocks that differ and are in no extent."""
    covered: set[int] = set()
    for each in extents:
        first, end = each["offset"], each["offset"] + each["length"]
        covered.update(range(first // BLOCK, -(-end // BLOCK)))
    differing = {
        at // BLOCK
        for at in range(0, len(before), BLOCK)
        if before[at : at + BLOCK] != after[at : at + BLOCK]
    }
    assert differing, "nothing was written"
    return sorted(differing - covered)


def test_changes_cover_what_differs_over_a_resync_and_a_kill(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": 16 << 20, "wal": 16 << 20}, groups={"db": ["data", "wal"]})
    daemon = start_daemon(files)
    copies: dict[str, dict[str, bytes]] = {}
    for number, tag in enumerate(("monday", "tuesday", "wednesday")):
        if number:
            command(files, "resync", "db", "--wait")
        for name in files.volumes:
            write(files, name, number)
        if tag == "wednesday":
            daemon.kill()
            daemon.start()
            command(files, "resync", "db", "--wait")
        command(files, "suspend", "db", "--tag", tag)
        copies[tag] = {name: files.secondary_of(name).read_bytes() for name in files.volumes}
    for since, until in (("monday", "tuesday"), ("tuesday", "wednesday"), ("monday", "wednesday")):
        answer = json.loads(
            command(files, "changes", "db", "--since", since, "--until", until, "--json")
        )
        for row in answer["volumes"]:
            before, after = copies[since][row["name"]], copies[until][row["name"]]
            assert uncovered(before, after, row["extents"]) == []
            if until == "wednesday":  # where it is now
                assert dirty(files, row["name"], since) == row["extents"]
        assert answer["exact"] == (until == "tuesday"), "a kill widens its own interval alone"
    assert "changed from cut" in command(files, "changes", "data", "--since", "latest")
    error = command(files, "changes", "data", "--since", "sunday", code=3)
    assert error == ""
