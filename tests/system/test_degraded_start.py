"""A real daemon that starts with images that are missing, foreign, of another size or in use: what
is good is served, the rest says why, and comes back while the daemon runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import same_bytes
from tests.support.daemon import run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 8 << 20
VOLUMES = {"data": SIZE, "apart": SIZE}


def qemu_io(files: DaemonFiles, name: str, *commands: str) -> subprocess.CompletedProcess[str]:
    arguments = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        ["qemu-io", "-f", "raw", *arguments, files.uri(name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def write(files: DaemonFiles, name: str, pattern: int, at: int = 4096) -> None:
    done = qemu_io(files, name, f"write -P {pattern} {at} 65536", "flush")
    assert done.returncode == 0, done


def holds(files: DaemonFiles, name: str, pattern: int, at: int = 4096) -> bool:
    done = qemu_io(files, name, f"read -P {pattern} {at} 65536")
    return done.returncode == 0 and "failed" not in done.stdout + done.stderr


def volume(daemon: Daemon, name: str) -> dict[str, Any]:
    _, status = daemon.request("GET", "/v1/status")
    (found,) = [each for each in status["volumes"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def event(daemon: Daemon, name: str, after: int) -> dict[str, Any]:
    found = json.loads(daemon.wait_log(f'"event": "{name}"', after=after))
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------------------- what may be wrong


def missing(path: Path, _undo: ExitStack) -> None:
    path.unlink()


def of_another_size(path: Path, _undo: ExitStack) -> None:
    os.truncate(path, SIZE // 2)


def a_dangling_link(path: Path, _undo: ExitStack) -> None:
    path.rename(path.with_suffix(".away"))
    path.symlink_to(path.with_suffix(".nowhere"))


def another_image(path: Path, _undo: ExitStack) -> None:
    path.unlink()
    with path.open("xb") as file:
        file.truncate(SIZE)


def in_use(path: Path, undo: ExitStack) -> None:
    file = undo.enter_context(path.open("r+b"))
    fcntl.flock(file, fcntl.LOCK_EX)


SPOILT = [missing, of_another_size, a_dangling_link, another_image, in_use]
each_state = pytest.mark.parametrize("spoil", SPOILT)


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    daemon = start_daemon(make_files(volumes=VOLUMES))
    for name in VOLUMES:
        write(daemon.files, name, 1)
    return daemon


# -------------------------------------------------------------------------------- secondaries


@each_state
def test_a_bad_secondary_costs_its_pair_the_redundancy_until_it_is_replaced(
    daemon: Daemon, spoil: Callable[[Path, ExitStack], None]
) -> None:
    files, image = daemon.files, daemon.files.secondary_of("data")
    assert daemon.stop() == 0
    with ExitStack() as undo:
        spoil(image, undo)
        after = len(daemon.lines())
        daemon.start()
        assert str(image) in event(daemon, "suspended", after)["error"]
        data = volume(daemon, "data")
        assert (data["state"], data["reason"]) == ("SUSPENDED", "by secondary error")
        assert volume(daemon, "apart")["state"] == "DUPLEX"
        write(files, "data", 2)
        write(files, "apart", 2)
        assert holds(files, "data", 2)
    if not image.is_file() or image.stat().st_size != SIZE:
        refused = run_duplexctl(files, "resync", "data", "--wait")
        assert (refused.returncode, str(image) in refused.stderr) == (5, True), refused
        image.unlink(missing_ok=True)
        another_image(image, undo) if image.exists() else image.touch()
        os.truncate(image, SIZE)
    back = run_duplexctl(files, "resync", "data", "--wait")
    assert back.returncode == 0, back
    assert volume(daemon, "data")["state"] == "DUPLEX"
    assert daemon.stop() == 0
    assert same_bytes(files.primary("data"), image)


# ---------------------------------------------------------------------------------- primaries


@each_state
@pytest.mark.parametrize("killed", [False, True])
def test_a_current_secondary_takes_the_place_of_a_bad_primary(
    daemon: Daemon, spoil: Callable[[Path, ExitStack], None], killed: bool
) -> None:
    files, image = daemon.files, daemon.files.primary("data")
    if killed:
        daemon.kill()
    else:
        assert daemon.stop() == 0
    with ExitStack() as undo:
        spoil(image, undo)
        after = len(daemon.lines())
        daemon.start()
        assert event(daemon, "swapped", after)["volume"] == "data"
        assert holds(files, "data", 1)
        write(files, "data", 2)
        write(files, "apart", 2)
        assert daemon.stop() == 0
        daemon.start()  # the roles are in the journal
        assert holds(files, "data", 2)
        assert volume(daemon, "data")["state"] == "SUSPENDED"
    if not image.is_file() or image.stat().st_size != SIZE:
        image.unlink(missing_ok=True)
        image.touch()
        os.truncate(image, SIZE)
    back = run_duplexctl(files, "resync", "data", "--wait")
    assert back.returncode == 0, back
    assert run_duplexctl(files, "verify", "data").returncode == 0
    assert daemon.stop() == 0
    assert same_bytes(image, files.secondary_of("data"))


@each_state
def test_without_a_current_secondary_the_volume_alone_is_not_served(
    daemon: Daemon, spoil: Callable[[Path, ExitStack], None]
) -> None:
    files, image = daemon.files, daemon.files.primary("data")
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    assert daemon.stop() == 0
    with ExitStack() as undo:
        spoil(image, undo)
        after = len(daemon.lines())
        daemon.start()
        assert str(image) in event(daemon, "volume-not-served", after)["error"]
        refused = qemu_io(files, "data", "read 0 4096")
        assert refused.returncode == 1
        assert f"volume data is not served: {image}: " in refused.stderr
        assert {name for name in _listed(files) if "@" not in name} == set(VOLUMES)
        write(files, "apart", 2)
        suspended = run_duplexctl(files, "suspend", "data")
        assert (suspended.returncode, "data is not served" in suspended.stderr) == (5, True)


def _listed(files: DaemonFiles) -> list[str]:
    """What LIST says; nbdinfo would ask for each export, too."""
    script = f"""
h.set_opt_mode(True)
h.connect_unix({str(files.nbd_socket)!r})
h.opt_list(lambda name, _description: print(name))
h.opt_abort()
"""
    debians_own = {**os.environ, "PATH": f"/usr/bin:/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["nbdsh", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=debians_own,
    )
    assert done.returncode == 0, done
    return done.stdout.split()


def test_a_primary_that_is_mounted_again_is_served_again(daemon: Daemon) -> None:
    files, image = daemon.files, daemon.files.primary("data")
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    write(files, "data", 2)
    daemon.kill()
    away = image.with_suffix(".away")
    image.rename(away)
    daemon.start()
    assert qemu_io(files, "data", "read 0 4096").returncode == 1
    away.rename(image)
    assert run_duplexctl(files, "resync", "data", "--wait").returncode == 0
    assert holds(files, "data", 2)
    assert volume(daemon, "data")["state"] == "DUPLEX"


def test_a_start_that_is_to_be_refused_names_image_and_key(daemon: Daemon) -> None:
    files, image = daemon.files, daemon.files.secondary_of("data")
    assert daemon.stop() == 0
    text = files.config.read_text().replace("[nbd]", 'on_start_error = "refuse"\n[nbd]')
    files.config.write_text(text)
    image.unlink()
    after = len(daemon.lines())
    daemon.start(ready=False)
    assert daemon.wait() == 6
    said = "\n".join(daemon.lines()[after:])
    assert "volumes.data.secondary" in said
    assert str(image) in said


# -------------------------------------------------------------------------------- a full disk


def test_a_change_that_a_full_disk_refused_keeps_no_volume_down(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], small_disk: Path
) -> None:
    files = make_files(volumes={"data": 64 << 20, "apart": SIZE}, secondary=False)
    small = small_disk / "data.img"
    files.config.write_text(files.text().replace(str(files.primary("data")), str(small)))
    daemon = start_daemon(files)
    written = 0
    while "failed" not in (done := _write_1mib(files, written)).stdout + done.stderr:
        written += 1
    assert 0 < written < 64
    daemon.kill()
    daemon.start()
    for at in range(written):
        assert holds(files, "data", at % 250 + 1, at << 20)
    write(files, "apart", 2)


def _write_1mib(files: DaemonFiles, at: int) -> subprocess.CompletedProcess[str]:
    return qemu_io(files, "data", f"write -P {at % 250 + 1} {at}M 1M")


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(place)]
    subprocess.run(mount, check=True, timeout=60)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


# ------------------------------------------------------------------------ images that are others


@pytest.mark.parametrize("killed", [False, True])
def test_a_primary_that_was_restored_in_place_is_taken_by_adopt_only(
    daemon: Daemon, killed: bool
) -> None:
    files = daemon.files
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    write(files, "data", 3)  # the upgrade that went wrong
    if killed:
        daemon.kill()
    else:
        assert daemon.stop() == 0
    with files.secondary_of("data").open("rb") as backup, files.primary("data").open("r+b") as file:
        shutil.copyfileobj(backup, file)
    later = time.time() + 1  # a person is not so quick
    os.utime(files.primary("data"), (later, later))
    for _ in range(2):
        daemon.start()
        assert qemu_io(files, "data", "read 0 4096").returncode == 1
        assert daemon.stop() == 0
    daemon.start()
    code, answer = daemon.request("POST", "/v1/adopt", {"targets": ["data"]})
    assert code == 200, answer
    assert holds(files, "data", 1)
    assert run_duplexctl(files, "resync", "data", "--wait").returncode == 0
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    assert daemon.stop() == 0
    assert same_bytes(files.primary("data"), files.secondary_of("data"))


def test_an_empty_state_directory_is_not_a_new_beginning(daemon: Daemon) -> None:
    """A first copy would overwrite the backup at once."""
    files = daemon.files
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    write(files, "data", 2)
    assert daemon.stop() == 0
    backup = files.secondary_of("data").read_bytes()
    files.state_dir.rename(files.state_dir.with_suffix(".disk"))
    daemon.start()
    assert qemu_io(files, "data", "read 0 4096").returncode == 1
    assert files.secondary_of("data").read_bytes() == backup
    assert daemon.stop() == 0
    shutil.rmtree(files.state_dir)
    files.state_dir.with_suffix(".disk").rename(files.state_dir)
    daemon.start()
    assert holds(files, "data", 2)
    assert volume(daemon, "data")["state"] == "SUSPENDED"
    assert files.secondary_of("data").read_bytes() == backup


def test_paths_that_were_exchanged_follow_the_images(daemon: Daemon) -> None:
    files = daemon.files
    assert daemon.stop() == 0
    first, second = files.primary("data"), files.secondary_of("data")
    between = first.with_suffix(".between")
    first.rename(between)
    second.rename(first)
    between.rename(second)
    daemon.start()
    data = volume(daemon, "data")
    assert data["state"] == "DUPLEX"
    write(files, "data", 4)
    assert run_duplexctl(files, "verify", "data").returncode == 0
