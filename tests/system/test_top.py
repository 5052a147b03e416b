"""`duplexctl top` on a terminal, beside a daemon as users start it."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.certificates import Certificates
from tests.support.daemon import free_port
from tests.support.fuse import faulty_disk
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

TAG = "nightly\x1b]0;owned\x07\x1b[2J"
VOLUMES = {"data": "1MiB", "log": "1MiB", "wal": "1MiB"}
GROUPS = {"db": ["data", "wal"]}
MAIN = (sys.executable, "-c", "from duplexd.duplexctl.entry import main; main()")
ENTER, ESCAPE, DOWN, UP = b"\r", b"\x1b", b"\x1b[B", b"\x1b[A"
GREEN = re.compile(rb"\x1b\[[0-9;]*32m")


@pytest.fixture
def busy(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    """A group that was cut, by somebody whose tag is hostile; and a volume beside it."""
    return cut(start_daemon(make_files(volumes=VOLUMES, groups=GROUPS)))


def cut(daemon: Daemon) -> Daemon:
    assert daemon.request("POST", "/v1/suspend", {"targets": ["db"], "tag": TAG})[0] == 200
    return daemon


def top(daemon: Daemon, *arguments: str, **options: object) -> Terminal:
    command = [*MAIN, "--socket", str(daemon.files.control_socket), "top", "--interval", "0.2"]
    return Terminal([*command, *arguments], **options)  # type: ignore[arg-type]


def test_each_key_does_what_help_says(busy: Daemon) -> None:
    with top(busy) as terminal:
        shown = terminal.wait("> data", "q quit", "nightly")
        assert len(shown) == 24
        assert max(map(len, shown)) <= 80
        terminal.press(b"s")
        terminal.wait("s sort (name)", "> data")
        terminal.press(DOWN)
        terminal.wait("> log")
        terminal.press(DOWN + DOWN + UP)
        terminal.wait("> wal")
        terminal.press(ENTER)
        terminal.wait("> volume wal", "SUSPENDED by command", "secondary", "OPERATION")
        terminal.press(ESCAPE)
        terminal.wait("> wal", without="OPERATION")
        terminal.press(b"j" + ENTER)
        terminal.wait("> group db", "> data", without="  log ")
        terminal.press(b"b")
        terminal.wait("> db", "  log ")
        terminal.press(b"?")
        terminal.wait("any key: back", "sort by health")
        terminal.press(b"x")
        terminal.wait("> db")
        terminal.resize(50, 8)
        while len(shown := terminal.wait("> db")) != 8 or max(map(len, shown)) > 50:
            terminal.more()
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.modes() == terminal.first_modes
        assert terminal.written.endswith(b"\x1b[?25h\x1b[?1049l")  # its cursor, and what was there
    assert b"\x1b]0;" not in terminal.written
    assert b"\x07" not in terminal.written


def test_a_secondary_that_fails_is_seen_and_comes_first(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes=VOLUMES, groups=GROUPS)
    with faulty_disk(files.directory / "b") as disk:
        daemon = cut(start_daemon(files))
        with top(daemon, columns=200) as terminal:
            terminal.wait("> data", "  log    DUPLEX")
            disk.fail("write", "log.img")
            asyncio.run(_write(files.uri("log")))
            terminal.wait("WARNING: log: secondary ", "Input/output error", "> log    SUSPENDED")
            terminal.press(ENTER)
            terminal.wait("SUSPENDED by secondary error", "  write ")
        daemon.kill()


async def _write(uri: str) -> None:
    async with connect(uri) as client:
        await client.write(0, b"x" * 4096)


def test_a_daemon_that_is_silent_or_gone_is_said_until_it_is_back(busy: Daemon) -> None:
    with top(busy) as terminal:
        terminal.wait("> data")
        busy.signal(signal.SIGSTOP)
        terminal.wait("NO ANSWER for ", "this is as of")
        assert not GREEN.search(terminal.drawn)
        busy.signal(signal.SIGCONT)
        terminal.wait("> data", without="NO ANSWER")
        busy.kill()
        terminal.wait("NO DAEMON for ", "no daemon answers at")
        assert not GREEN.search(terminal.drawn)
        busy.start()
        terminal.wait("> data", "NOT WELL", without="NO DAEMON")
        terminal.press(b"\x03")  # ctrl-C
        assert terminal.end() == 130


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGQUIT, -signal.SIGQUIT), (signal.SIGHUP, 128 + signal.SIGHUP)]
)
def test_a_signal_that_kills_leaves_the_terminal_as_it_was(
    busy: Daemon, number: int, code: int
) -> None:
    with top(busy) as terminal:
        terminal.wait("> data")
        if number == signal.SIGQUIT:
            terminal.press(b"\x1c")  # ctrl-\
        else:
            terminal.kill(number)
        assert terminal.end() == code
        assert terminal.modes() == terminal.first_modes
        assert terminal.written.endswith(b"\x1b[?25h\x1b[?1049l")


def test_in_the_background_it_leaves_the_terminal_to_the_shell(busy: Daemon) -> None:
    socket = str(busy.files.control_socket)
    with Terminal(["/bin/bash", "--norc", "-i"], more={"PS1": "$ "}) as terminal:
        typed = shlex.join([*MAIN, "--socket", socket, "top", "--interval", "0.2"])
        terminal.press(f"{typed}\n".encode())
        terminal.wait("> data")
        terminal.press(b"\x1a")  # ctrl-Z
        terminal.wait("Stopped")
        before = len(terminal.written)
        terminal.press(b"bg; sleep 1; jobs; echo more-$((1 + 1))\n")
        terminal.wait("more-2")
        assert b"\x1b[?1049h" not in terminal.written[before:]
        terminal.press(b"fg\n")
        terminal.wait("> data", without="more-2")
        terminal.press(b"q")
        terminal.wait("$")


def test_without_colour_and_in_latin_1_it_says_the_same(busy: Daemon) -> None:
    cut = {"targets": ["log"], "tag": "日本 café"}
    assert busy.request("POST", "/v1/suspend", cut)[0] == 200
    more = {"NO_COLOR": "1", "PYTHONIOENCODING": "latin-1"}
    with top(busy, columns=120, more=more) as terminal:
        terminal.wait("\\u65e5\\u672c caf", "> data")
        assert b"caf\xe9" in terminal.written
        assert not re.search(rb"\x1b\[[0-9;]*m", terminal.written)
        terminal.press(b"q")
        assert terminal.end() == 0
    with top(busy, "--once", more={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.written
    assert b"  wal " in terminal.written


def test_an_observer_of_another_machine_may_look(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    certificates, port = Certificates(tmp_path), free_port()
    start_daemon(make_files(extra=certificates.toml(port, ("backup",), ("monitor",))))
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.test]\nurl = "https://localhost:{port}"\n'
        f'certificate = "{certificates.client("monitor")}"\nca = "{certificates.client_ca}"\n'
        '[groups.all]\nmembers = ["test:data"]\n'
    )
    command = [*MAIN, "--groups", str(groups), "top", "--interval", "0.2"]
    with Terminal(command) as terminal:
        terminal.wait("> test:data", "DUPLEX", "current")
        terminal.press(DOWN + ENTER)
        terminal.wait("> group all", "> test:data")
        terminal.press(b"q")
        assert terminal.end() == 0
