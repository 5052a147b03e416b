"""Block devices carry no mark and have no time of their own: their content alone says whether they
are the images that the journal wrote to. Uses loop devices, so it needs root.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from duplexd.config import load
from tests.support.daemon import Daemon, DaemonFiles
from tests.support.image_set import copy_set, exchange, flip, judged, overwrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 32 << 20  # two regions
LAST = 20 << 20  # written last
BACKING = ("one", "two")


class Loops:
    """Loop devices, gone when it is closed."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def attach(self, path: Path) -> str:
        done = subprocess.run(
            ["losetup", "--find", "--show", path], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"this test needs root and loop devices: {done.stderr}"
        self.made.append(done.stdout.strip())
        return self.made[-1]

    def close(self) -> None:
        for device in self.made:
            subprocess.run(["losetup", "--detach", device], check=True)
        self.made.clear()


@pytest.fixture
def loops() -> Iterator[Loops]:
    made = Loops()
    yield made
    made.close()


def files(directory: Path, devices: list[str], mode: str = "sync") -> DaemonFiles:
    made = DaemonFiles(directory, {})
    made.extra = (
        f'[volumes.data]\nsize = {SIZE}\nprimary = "{devices[0]}"\nsecondary = "{devices[1]}"\n'
        f'mode = "{mode}"\n'
    )
    return made.write()


def write(files: DaemonFiles, *commands: str) -> None:
    listed = [part for command in (*commands, "flush") for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *listed, files.uri("data")], check=True)


class Sets(NamedTuple):
    now: Path
    old: Path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sets]:
    """What a daemon left after its second orderly stop, and after its first; SUSPENDED."""
    above = tmp_path_factory.mktemp("sets")
    home = above / "home"
    home.mkdir()
    for name in BACKING:
        with (home / name).open("wb") as file:
            file.truncate(SIZE)
    loops = Loops()
    daemon = Daemon(files(home, [loops.attach(home / name) for name in BACKING]))
    try:
        daemon.start()
        write(daemon.files, f"write -P 0x61 0 {SIZE}")
        assert daemon.stop() == 0
        loops.close()
        old = copy_set(home, above / "old")
        daemon.files = files(home, [loops.attach(home / name) for name in BACKING])
        daemon.start()
        write(daemon.files, f"write -P 0x62 {LAST} 64k")
        done = daemon.request("POST", "/v1/suspend", {"targets": ["data"]})[1]
        assert done["verdict"] == "consistent", done
        write(daemon.files, "write -P 0x63 1M 4k")
        assert daemon.stop() == 0
        loops.close()
        yield Sets(copy_set(home, above / "now"), old)
    finally:
        daemon.kill()
        loops.close()


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(SIZE)


def make_a_file_system(path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)


CASES: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "nothing": (lambda _now, _old: None, ["same", "same"]),
    "exchanged": (lambda now, _: exchange(now / "one", now / "two"), ["exchanged", "exchanged"]),
    "primary emptied": (lambda now, _: empty(now / "one"), ["emptied", "same"]),
    "secondary emptied": (lambda now, _: empty(now / "two"), ["same", "emptied"]),
    "older primary": (
        lambda now, old: overwrite(old / "one", now / "one"),
        ["changed", "same"],
    ),
    "older secondary": (
        lambda now, old: overwrite(old / "two", now / "two"),
        ["same", "changed"],
    ),
    "secondary over primary": (
        lambda now, _: overwrite(now / "two", now / "one"),
        ["changed", "same"],
    ),
    "primary over secondary": (
        lambda now, _: overwrite(now / "one", now / "two"),
        ["same", "changed"],
    ),
    "bit of the first block": (lambda now, _: flip(now / "one", 5), ["changed", "same"]),
    "bit of what was written last": (
        lambda now, _: flip(now / "two", LAST + 3),
        ["same", "changed"],
    ),
    "new file system": (lambda now, _: make_a_file_system(now / "one"), ["changed", "same"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_at_a_start(name: str, elsewhere: bool, sets: Sets, tmp_path: Path, loops: Loops) -> None:
    change, expected = CASES[name]
    now = copy_set(sets.now, tmp_path / "now")
    change(now, sets.old)
    if elsewhere:  # the devices get other numbers, as after a reboot
        loops.attach(now / "duplexd.toml")
    made = files(now, [loops.attach(now / backing) for backing in BACKING])
    found = judged(load.load(made.config))
    kinds = [found["data", role].kind for role in ("primary", "secondary")]
    assert [{"moved": "same"}.get(kind, kind) for kind in kinds] == expected, found


def test_an_older_secondary_of_an_async_pair_is_not_called_current_after_a_kill(
    tmp_path: Path, loops: Loops, start_daemon: Callable[..., Daemon]
) -> None:
    for name in BACKING:
        with (tmp_path / name).open("wb") as file:
            file.truncate(SIZE)
    one, two = (tmp_path / name for name in BACKING)

    def attached() -> DaemonFiles:
        loops.close()
        return files(tmp_path, [loops.attach(one), loops.attach(two)], "async")

    daemon = start_daemon(attached())
    write(daemon.files, f"write -P 0x61 0 {SIZE}")
    assert daemon.stop() == 0
    daemon.files = attached()
    old = copy_set(two, tmp_path / "old")
    daemon.start()
    write(daemon.files, f"write -P 0x62 {LAST} 64k", "write -P 0x63 1M 4k")
    daemon.kill()
    loops.close()
    overwrite(old, two)
    daemon.files = attached()
    daemon.start()
    row = daemon.request("GET", "/v1/status")[1]["volumes"][0]
    if row["state"] == "SUSPENDED":
        assert not row["secondary"]["usable"]
        assert "image-changed" in daemon.log()
        assert daemon.request("POST", "/v1/resync", {"targets": ["data"], "wait": True})[0] == 200
    else:  # it is compared, or was by now
        assert row["state"] in {"PENDING", "DUPLEX"}
    daemon.wait_log('"event": "duplex"')
    assert daemon.stop() == 0
    assert one.read_bytes() == two.read_bytes()
