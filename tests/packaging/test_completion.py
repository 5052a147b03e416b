"""The completions, in the shells that they are for: a line is typed, and read as it became.

bash and zsh complete only on a terminal, so they get one. A line ends with `#` and return, after
`echo` was put before it: what the shell prints is the completed line.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.completions import FILES, PROGRAMS
from tests.packaging.generated import SHARE
from tests.support.daemon import ROOT, Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

BASH = f"""bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
for each in {SHARE}/bash-completion/completions/*; do source "$each"; done
"""
ZSH = f"""bindkey -e; unsetopt beep zle_bracketed_paste prompt_sp prompt_cr; PS1=
fpath=({SHARE}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -D -u
"""
TO_START, TAB = "\x01", "\t"
TYPED = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SETTINGS = {"bash": BASH, "zsh": ZSH}


def environment(socket: str = "/nowhere") -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": "/nowhere",
        "TERM": "dumb",
        "DUPLEXD_SOCKET": socket,
        "LC_ALL": "C.UTF-8",
    }


def typed(shell: str, line: str, socket: str = "/nowhere") -> list[str]:
    """The words that a line became; a tab in it asks for a completion."""
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        TYPED[shell],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env=environment(socket),
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        os.close(other_end)
        text = f"{SETTINGS[shell]}{line}{TO_START}echo BECAME \r exit\r"
        os.write(terminal, text.replace("\n", "\r").encode())
        printed = b""
        try:
            while piece := os.read(terminal, 4096):
                printed += piece
        except OSError:  # a terminal whose shell has gone
            pass
        os.close(terminal)
        process.wait(60)
    found = re.findall(r"^BECAME (.*?)\r", printed.decode(), re.MULTILINE)
    assert found, printed.decode()
    return str(found[-1]).split()


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


@pytest.mark.parametrize("shell", TYPED)
def test_a_terminal_completes_commands_options_and_targets_of_the_daemon(
    shell: str, serving: str
) -> None:
    line = f"duplexctl resy{TAB}--wai{TAB}nigh{TAB}"
    words = typed(shell, line, serving)
    assert words == ["duplexctl", "resync", "--wait", "nightly"]


@pytest.mark.parametrize("shell", TYPED)
def test_a_terminal_completes_duplexd_and_the_file_of_an_option(shell: str) -> None:
    words = typed(shell, f"duplexd che{TAB}--conf{TAB}configs/duplexd.t{TAB}")
    assert words == ["duplexd", "check", "--config", "configs/duplexd.toml"]


def test_fish_offers_commands_options_and_targets_of_the_daemon(serving: str) -> None:
    assert fish("duplexctl susp", serving) == ["suspend"]
    assert "--certificate" in fish("duplexctl suspend --cert", serving)
    assert fish("duplexctl suspend nigh", serving) == ["nightly"]
    assert fish("duplexd che") == ["check"]
