"""The completions, in the shells that they are for: a line is typed, and read as it became.

bash and zsh complete only on a terminal, so they get one as their session's own: a shell whose
terminal is not under its control ends at times, when it runs a command to complete. A key of the
tests makes the shell print the line; nothing is typed before the shell has answered.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.completions import FILES, PROGRAMS
from tests.packaging.generated import SHARE
from tests.support.daemon import ROOT, Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

TAB, SHOW = "\t", "\x14"  # the second is control-T
BASH = f"""set +m; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
for each in {SHARE}/bash-completion/completions/*; do source "$each"; done
show() {{ echo; echo "LINE $READLINE_LINE."; }}; bind -x '"\\C-t": show'
"""
ZSH = f"""bindkey -e; unsetopt monitor beep prompt_sp prompt_cr; unset zle_bracketed_paste
fpath=({SHARE}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -D -u
show() {{ zle -I; print -r -- "LINE $BUFFER." }}; zle -N show; bindkey '^T' show
"""
SETTINGS = {"bash": (BASH, "bashrc"), "zsh": (ZSH, ".zshrc")}
SHELLS = {
    "bash": ["bash", "--noprofile", "--rcfile", "bashrc", "-i"],
    "zsh": ["zsh", "-d", "-i"],
}
WIDTH = struct.pack("HHHH", 24, 500, 0, 0)  # rows, columns: no line is broken


def environment(socket: str = "/nowhere") -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": "/nowhere",
        "TERM": "dumb",
        "DUPLEXD_SOCKET": socket,
        "LC_ALL": "C.UTF-8",
    }


def answer(terminal: int, keys: str) -> str:
    """The line that a shell shows after `keys`."""
    os.write(terminal, f"{keys}{SHOW}".encode())
    printed = b""
    while not (found := re.search(rb"^LINE (.*?)\.\r", printed, re.MULTILINE)):
        try:
            printed += os.read(terminal, 4096)
        except OSError as error:  # a terminal whose shell has gone
            raise AssertionError(printed.decode()) from error
    return found[1].decode()


def typed(shell: str, line: str, place: Path, socket: str = "/nowhere") -> list[str]:
    """The words that a line became; a tab in it asks for a completion."""
    settings, name = SETTINGS[shell]
    (place / name).write_text(f"{settings}cd {ROOT}\n")
    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, WIDTH)
    with subprocess.Popen(
        ["setsid", "--ctty", *SHELLS[shell]],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env=environment(socket) | {"ZDOTDIR": str(place)},
        cwd=place,
    ) as process:
        os.close(other_end)
        try:
            became = answer(terminal, "")
            assert not became
            for piece in line.split(TAB)[:-1]:
                became = answer(terminal, f"{piece}{TAB}")
        finally:
            os.close(terminal)
            process.kill()
    return became.split()


def fish(line: str, socket: str = "/nowhere") -> list[str]:
    """What fish offers for the last word of a line."""
    source = "".join(f"source {SHARE / FILES['fish'].format(each)};" for each in PROGRAMS)
    result = subprocess.run(
        ["fish", "--no-config", "-c", f"{source} complete -C '{line}'"],
        env=environment(socket) | {"HOME": "/tmp"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [offered.split("\t")[0] for offered in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The control socket of a daemon with a group `nightly`."""
    files = DaemonFiles(
        tmp_path_factory.mktemp("serving"), {"tables": "1MiB"}, groups={"nightly": ["tables"]}
    )
    daemon = Daemon(files.write()).start()
    yield str(files.control_socket)
    daemon.kill()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_terminal_completes_commands_options_and_targets_of_the_daemon(
    shell: str, serving: str, tmp_path: Path
) -> None:
    line = f"duplexctl resy{TAB}--wai{TAB}nigh{TAB}"
    words = typed(shell, line, tmp_path, serving)
    assert words == ["duplexctl", "resync", "--wait", "nightly"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_terminal_completes_duplexd_and_the_file_of_an_option(shell: str, tmp_path: Path) -> None:
    line = f"duplexd che{TAB}--conf{TAB}configs/duplexd.t{TAB}"
    words = typed(shell, line, tmp_path)
    assert words == ["duplexd", "check", "--config", "configs/duplexd.toml"]


def test_fish_offers_commands_options_and_targets_of_the_daemon(serving: str) -> None:
    assert fish("duplexctl susp", serving) == ["suspend"]
    assert "--certificate" in fish("duplexctl suspend --cert", serving)
    assert fish("duplexctl suspend nigh", serving) == ["nightly"]
    assert fish("duplexd che") == ["check"]
