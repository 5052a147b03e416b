"""What happened to images and state directory while the daemon was down is noticed at the start,
before anything is called current; a set that was only moved is recognised.

A real daemon makes the sets, once: `clean` after its second orderly stop, `killed` after a kill
while it had been writing, `old` after the first stop. Each case damages a copy of one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from duplexd.config import load
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles
from tests.support.image_set import (
    MARK,
    ImageSet,
    copy_set,
    date,
    exchange,
    flip,
    judged,
    overwrite,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MIB = 1 << 20
SIZE = 16 * MIB
LAST = SIZE - 4096
VOLUMES = {"data": SIZE, "wal": SIZE, "cut": SIZE}
RECENT = 5 * MIB  # of data: written last before the second stop, and by the first start otherwise
UNTOUCHED = 9 * MIB


def write(files: DaemonFiles, volume: str, *writes: str) -> None:
    commands = [part for line in (*writes, "flush") for part in ("-c", line)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *commands, files.uri(volume)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Sets(NamedTuple):
    clean: Path
    killed: Path
    old: Path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sets]:
    above = tmp_path_factory.mktemp("sets")
    home = above / "home"
    home.mkdir()
    daemon = Daemon(DaemonFiles(home, VOLUMES).write())
    try:
        daemon.start()
        for volume in VOLUMES:
            write(daemon.files, volume, f"write -P 0x61 0 {SIZE}")
        write(daemon.files, "data", f"write -P 0x62 {RECENT} 64k")
        assert daemon.request("POST", "/v1/suspend", {"targets": ["cut"]})[0] == 200
        assert daemon.stop() == 0
        old = copy_set(home, above / "old")
        daemon.start()
        write(daemon.files, "data", f"write -P 0x63 {RECENT} 64k", "write -P 0x63 1M 4k")
        write(daemon.files, "wal", "write -P 0x64 2M 4k")
        write(daemon.files, "cut", "write -P 0x65 3M 4k")
        assert daemon.stop() == 0
        clean = copy_set(home, above / "clean")
        daemon.start()
        write(daemon.files, "data", "write -P 0x66 7M 4k")
        write(daemon.files, "data", "write -P 0x67 7M 4k")
        daemon.kill()
        killed = copy_set(home, above / "killed")
        yield Sets(clean, killed, old)
    finally:
        daemon.kill()


Which = Literal["clean", "killed"]


class Case(NamedTuple):
    """`expected` by volume and role; every other image is current."""

    name: str
    which: Which
    change: Callable[[ImageSet], object]
    expected: Mapping[tuple[str, str], str] = MappingProxyType({})
    says: str = ""


PRIMARY, SECONDARY = ("data", "primary"), ("data", "secondary")


def nothing(_images: ImageSet) -> None:
    pass


def empty_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(SIZE)


def replace_by_an_empty_one(path: Path) -> None:
    path.unlink()
    with path.open("xb") as file:
        file.truncate(SIZE)


def restore(images: ImageSet, path: Path) -> None:
    """`cp` from a backup: in place, dated now."""
    overwrite(images.was(path), path)


def restore_with_its_date(images: ImageSet, path: Path) -> None:
    """`cp -p`."""
    overwrite(images.was(path), path)
    shutil.copystat(images.was(path), path)


def replace_by(path: Path, source: Path) -> None:
    """`rsync -aX`: a new inode, with the date and the mark of the source."""
    path.unlink()
    copy_set(source, path)


def restore_from_a_copy(images: ImageSet, path: Path) -> None:
    replace_by(path, images.was(path))


def copy_without_marks(images: ImageSet) -> None:
    """`rsync -a` of the images: dates to the nanosecond, no extended attributes."""
    for path in sorted(images.directory.glob("[ab]/*.img")):
        before = path.stat().st_mtime_ns
        run("cp", "--sparse=always", path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        date(path, before)
        assert MARK not in os.listxattr(path)


def archive(images: ImageSet) -> None:
    """`tar`: dates in whole seconds, no extended attributes."""
    copy_without_marks(images)
    for path in images.directory.glob("[ab]/*.img"):
        date(path, path.stat().st_mtime_ns // 10**9 * 10**9)


def write_like_a_mount(path: Path) -> None:
    """A program that writes to a place that was not sampled."""
    with path.open("r+b") as file:
        file.seek(UNTOUCHED + 8192)
        file.write(b"mounted")


def older_state(images: ImageSet) -> None:
    shutil.rmtree(images.state)
    copy_set(images.old / "state", images.state)


def everything_older(images: ImageSet) -> None:
    for name in ("state", "a", "b"):
        shutil.rmtree(images.directory / name)
        copy_set(images.old / name, images.directory / name)


def all_are(kind: str) -> dict[tuple[str, str], str]:
    return {(volume, role): kind for volume in VOLUMES for role in ("primary", "secondary")}


def cases() -> list[Case]:
    both: tuple[Which, Which] = ("clean", "killed")
    found = [Case("nothing happened", which, nothing) for which in both]
    for which in both:
        found += [
            Case("whole set copied without marks", which, copy_without_marks),
            Case("whole set from an archive", which, archive),
            Case(
                "primary and secondary exchanged",
                which,
                lambda images: exchange(images.primary("cut"), images.secondary("cut")),
                {("cut", "primary"): "exchanged", ("cut", "secondary"): "exchanged"},
            ),
            Case(
                "primaries of two volumes exchanged",
                which,
                lambda images: exchange(images.primary("data"), images.primary("wal")),
                {PRIMARY: "foreign", ("wal", "primary"): "foreign"},
                "is the primary of volume",
            ),
            Case(
                "state directory older than the images",
                which,
                older_state,
                all_are("newer"),
                "is an older copy",
            ),
            Case(
                "state directory empty",
                which,
                lambda images: shutil.rmtree(images.state),
                all_are("foreign"),
                "of a controller 'test' whose state is not in this state directory",
            ),
            Case("state and images restored together", which, everything_older),
            Case(
                "secondary copied over the primary",
                which,
                lambda images: overwrite(images.secondary("cut"), images.primary("cut")),
                {("cut", "primary"): "changed"},
            ),
            Case(
                "secondary copied over the primary, with its mark",
                which,
                lambda images: replace_by(images.primary("cut"), images.secondary("cut")),
                {("cut", "primary"): "foreign"},
                "is the secondary of volume cut",
            ),
        ]
        for path, image in ((ImageSet.primary, PRIMARY), (ImageSet.secondary, SECONDARY)):
            role = image[1]

            def damage(
                name: str,
                kind: str,
                how: Callable[[ImageSet, Path], object],
                says: str = "",
                *,
                which: Which = which,
                path: Callable[[ImageSet], Path] = path,
                image: tuple[str, str] = image,
                role: str = role,
            ) -> Case:
                return Case(
                    f"{role} {name}",
                    which,
                    lambda images: how(images, path(images)),
                    {image: kind},
                    says,
                )

            found += [
                damage("emptied in place", "emptied", lambda _, path: empty_in_place(path)),
                damage(
                    "replaced by an empty one",
                    "emptied",
                    lambda _, path: replace_by_an_empty_one(path),
                ),
                damage("restored in place", "changed", restore, "blocks differ"),
                damage("restored in place with its date", "older", restore_with_its_date),
                damage("restored with its mark", "older", restore_from_a_copy, "start 1"),
                damage("bit flipped at its start", "changed", lambda _, path: flip(path, 100)),
                damage("bit flipped at its end", "changed", lambda _, path: flip(path, LAST + 9)),
                damage(
                    "bit flipped where it was written last",
                    "changed",
                    lambda _, path: flip(path, RECENT + 7),
                    f"first at byte {RECENT}",
                ),
                damage("gone", "", lambda _, path: path.unlink()),
            ]
    for path, image in ((ImageSet.primary, PRIMARY), (ImageSet.secondary, SECONDARY)):
        found.append(
            Case(
                f"{image[1]} written to elsewhere",
                "clean",
                lambda images, path=path: write_like_a_mount(path(images)),  # type: ignore[misc]
                {image: "changed"},
                "by another program",
            )
        )
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.which}: {case.name}")
def test_at_a_start(case: Case, sets: Sets, tmp_path: Path) -> None:
    directory = copy_set(getattr(sets, case.which), tmp_path / "set")
    case.change(ImageSet(directory, sets.old))
    (directory / "duplexd.toml").write_text(DaemonFiles(directory, VOLUMES).text())
    found = judged(load.load(directory / "duplexd.toml"))
    wrong = {image: judgement for image, judgement in found.items() if not judgement.current}
    expected = {image: kind for image, kind in case.expected.items() if kind}
    assert {image: found[image].kind for image in expected} == expected, found
    unexpected = {image: why for image, why in wrong.items() if image not in expected}
    assert not unexpected, "an innocent image was not recognised"
    for image in expected:
        assert case.says in found[image].why


def is_good(case: Case, volume: str) -> bool:
    """Whether both images of a volume are what they should be, if perhaps exchanged."""
    return all(kind == "exchanged" for (owner, _), kind in case.expected.items() if owner == volume)


def qemu_io(files: DaemonFiles, volume: str, *commands: str) -> subprocess.CompletedProcess[str]:
    listed = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        ["qemu-io", "-r", "-f", "raw", *listed, files.uri(volume)],
        check=False,
        capture_output=True,
        text=True,
    )


def compared(daemon: Daemon) -> list[dict[str, Any]]:
    """The status of all volumes, once what a kill may have made unequal was compared. An image that
    is what it should be gets no byte by that.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        volumes: list[dict[str, Any]] = daemon.request("GET", "/v1/status")[1]["volumes"]
        if all(volume["state"] != "PENDING" for volume in volumes):
            break
        assert time.monotonic() < deadline, volumes
        time.sleep(0.02)
    for line in daemon.lines():
        event = json.loads(line)
        assert event["event"] != "duplex" or event["copied_bytes"] == 0, line
    return volumes


# what a volume holds for sure, as the last stop or kill left it
CONTENT = {
    "data": (f"read -P 0x63 {RECENT} 64k", "read -P 0x63 1M 4k", "read -P 0x61 0 4k"),
    "wal": ("read -P 0x64 2M 4k", "read -P 0x61 0 4k"),
    "cut": ("read -P 0x65 3M 4k", "read -P 0x61 0 4k"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.long] if case.which == "killed" else [])
        for case in cases()
        if case.change is not everything_older
    ],
    ids=lambda case: f"{case.which}: {case.name}",
)
def test_a_daemon_calls_nothing_current_wrongly_and_copies_nothing_in_vain(
    case: Case, sets: Sets, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    directory = copy_set(getattr(sets, case.which), tmp_path / "set")
    case.change(ImageSet(directory, sets.old))
    (directory / "daemon.log").unlink()
    daemon = start_daemon(DaemonFiles(directory, VOLUMES).write(), ready=False)
    daemon.wait_log('"event": "ready"')
    for volume in compared(daemon):
        name, secondary = volume["name"], volume["secondary"]
        done = qemu_io(daemon.files, name, *CONTENT[name])
        wrong = "Pattern verification failed" in done.stdout
        served = not done.returncode or wrong
        assert not wrong, f"{name}: {done.stdout}"
        if is_good(case, name):
            assert served, done.stderr
            wanted = ("SUSPENDED" if name == "cut" else "DUPLEX", True)
            assert (volume["state"], secondary["usable"]) == wanted, volume
        else:
            assert volume["state"] != "DUPLEX" or not served, volume
            assert served or (name, "primary") in case.expected, volume
    for (name, role), kind in case.expected.items():
        if kind in {"foreign", "newer", "emptied", "older", "changed"}:
            image = {"primary": "a", "secondary": "b"}[role]
            assert f"{image}/{name}.img" in daemon.log(), "it is not named"
