"""configs/drills: what a check starts with, and what a drill that is ended leaves. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.backups import is_duplex_again
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment
from tests.support.postgres import as_postgres, new_file_systems, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon, DaemonFiles


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory that every user may pass through."""
    assert os.geteuid() == 0, "these tests mount file systems; run them as root"
    with tempfile.TemporaryDirectory(prefix="duplexd-oc-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


ON_CLONES = ROOT / "configs" / "drills" / "on-clones.sh"
SLEEP = f"sleep {86400 + os.getpid()}"  # which no other process is called
CLONE = "%2Bdrill-"  # in the URI of the clone of a drill, so in the command of its nbdfuse


def running(*words: str) -> list[int]:
    """Processes with all of these in their command lines; zombies have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(each in text for each in words):
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def small(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], above: Path
) -> Iterator[tuple[Daemon, Path]]:
    """A daemon with a volume that has a file system, and where that is mounted."""
    daemon = start_daemon(make_files(volumes={"data": "16MiB"}, groups={"db": ["data"]}))
    with new_file_systems({"data": daemon.files.uri("data")}, above):
        (above / "data" / "file").write_text("at work\n")
        subprocess.run(["sync", "-f", str(above / "data")], check=True)
        yield daemon, above / "data"


def drill_of(daemon: Daemon, *on_clones: str) -> list[str]:
    main = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]
    socket = str(daemon.files.control_socket)
    return [*main, "--socket", socket, "drill", "db", "--suspend", "--", str(ON_CLONES), *on_clones]


@pytest.mark.parametrize("who", ["the script", "the drill"])
def test_of_a_drill_that_is_ended_nothing_is_left(
    small: tuple[Daemon, Path], tmp_path: Path, who: str
) -> None:
    daemon, place = small
    socket = str(daemon.files.nbd_socket)
    began, shared = tmp_path / "began", Path("/dev/shm", f"of-a-drill-{os.getpid()}")
    check = f"touch {shared}; cp {place}/file {began}; exec {SLEEP}"
    command = drill_of(daemon, f"data={place}", "--", "sh", "-c", check)
    with subprocess.Popen(command, env=environment(), cwd=ROOT) as drill:
        try:
            wait_for("the check", lambda: began.exists() and began.read_text())
            assert running(SLEEP)
            assert running(CLONE, socket)
            if who == "the script":
                (script,) = [pid for pid in running(str(ON_CLONES)) if parent_of(pid) == drill.pid]
                os.kill(script, signal.SIGKILL)
            else:
                drill.terminate()
            assert drill.wait(PATIENCE_SECONDS) == (137 if who == "the script" else 143)
        finally:
            drill.kill()
    wait_for("the end of the check", lambda: not running(SLEEP))
    wait_for("the end of nbdfuse", lambda: not running(CLONE, socket))
    assert not shared.exists()
    assert not list(shared.parent.glob("volume-*"))
    assert is_duplex_again(daemon)


def parent_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


def test_no_environment_has_a_drill_mount_over_what_is_in_use(small: tuple[Daemon, Path]) -> None:
    daemon, place = small
    check = f"echo clone >{place}/file; readlink /proc/self/ns/mnt /proc/self/ns/pid"
    done = subprocess.run(
        drill_of(daemon, f"data={place}", "--", "sh", "-c", check),
        env=environment() | {"ON_CLONES_APART": "yes", "ON_CLONES": ":1:", "PPID": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid")}
    assert ours.isdisjoint(done.stdout.split())
    assert (place / "file").read_text() == "at work\n"
    assert is_duplex_again(daemon)


def test_a_drill_of_postgresql_preloads_only_what_it_is_told(above: Path) -> None:
    """The settings of the cluster name a library that is not installed here."""
    data = above / "db"
    data.mkdir()
    shutil.chown(data, "postgres")
    run(*as_postgres("initdb", "-D", str(data), "--auth=trust", "--no-sync"))
    with (data / "postgresql.conf").open("a") as settings:
        settings.write("shared_preload_libraries = 'of_elsewhere'\n")
        settings.write("session_preload_libraries = 'of_elsewhere'\n")
    script = ROOT / "configs" / "drills" / "check-postgresql.sh"

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        as_on_clones = f'on_clone() {{ :; }}; export -f on_clone; exec bash {script} "$@"'
        return subprocess.run(
            ["bash", "-c", as_on_clones, "bash", *options, str(data)],
            capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
        )  # fmt: skip

    done = check()
    assert done.returncode == 0, done.stderr
    done = check("--preload=of_this_drill")
    assert (done.returncode, '"of_this_drill"' in done.stderr) == (1, True), done.stderr
