"""A page of drills, followed as an operator would: its commands are run, its output is compared.

    drills = Runbook(ROOT / "docs" / "disaster.md")
    site = Site(tmp_path, drills.configuration)      # the page's paths, below a directory
    site.write()
    drills.follow("The secondary's disk is dead", site.run)

A drill is a section of the page. Its `console` blocks hold commands (`$ duplexctl status`) and what
they print; a line `...` stands for any lines. Whatever differs from run to run (numbers, sizes,
times, ids) is compared as one word, and so is white space. So a page cannot show a message that no
longer exists, and a command of the page cannot fail unnoticed: what it prints would differ.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tests.support.daemon import PATIENCE_SECONDS, DaemonFiles, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_VARIES = (
    (re.compile(r"\b[0-9a-f]{16}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\d+(\.\d+)?( (B|KiB|MiB|GiB)\b)?"), "N"),
    (re.compile(r"\s+"), " "),
)
ANY = "..."
DIRECTORIES = {
    "/var/lib/duplexd": "var",
    "/etc/duplexd": "etc",
    "/run/duplexd/db": "run",
    "/srv": "srv",
}


class Step(NamedTuple):
    """A command of the page, and the lines that it is shown to print."""

    command: str
    shown: list[str]


class Runbook:
    """The page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text()
        parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
        self.sections = dict(zip(parts[::2], parts[1::2], strict=True))
        self.configuration = text.partition("```toml\n")[2].partition("```\n")[0]

    @property
    def drills(self) -> list[str]:
        """The titles of the sections that have something to type."""
        return [title for title, text in self.sections.items() if _BLOCK.search(text)]

    def steps(self, title: str) -> list[Step]:
        """The commands of a drill, in order."""
        found: list[Step] = []
        for block in _BLOCK.finditer(self.sections[title]):
            for line in block[2].splitlines():
                text = line.removeprefix(block[1])
                if text.startswith("$ "):
                    found.append(Step(text[2:], []))
                else:
                    found[-1].shown.append(text)
        return found

    def follow(self, title: str, run: Callable[[str], str]) -> None:
        """Run the commands of a drill. Raises AssertionError where one prints something else."""
        for step in self.steps(title):
            printed = run(step.command).splitlines()
            assert fits(step.shown, printed), "\n".join(
                [
                    f"{self.path.name}: {title}",
                    f"$ {step.command}",
                    "the page shows:",
                    *step.shown,
                    "it prints:",
                    *printed,
                ]
            )


def fits(shown: list[str], printed: list[str]) -> bool:
    """Whether these lines are what the page shows."""
    wanted = [ANY if line.strip() == ANY else re.escape(comparable(line)) for line in shown]
    pattern = "".join("(?:.*\n)*?" if line == ANY else f"{line}\n" for line in wanted)
    return re.fullmatch(pattern, "".join(f"{comparable(line)}\n" for line in printed)) is not None


def comparable(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, word in _VARIES:
        line = pattern.sub(word, line)
    return line.strip()


@dataclass
class Site(DaemonFiles):
    """A machine as the page has it: its directories lie below `directory`."""

    configuration: str = ""

    @property
    def config(self) -> Path:
        return self.here("/etc/duplexd/db.toml")

    @property
    def state_dir(self) -> Path:
        return self.here("/var/lib/duplexd/db")

    @property
    def nbd_socket(self) -> Path:
        return self.here("/run/duplexd/db/nbd.sock")

    @property
    def control_socket(self) -> Path:
        return self.here("/run/duplexd/db/control.sock")

    def here(self, path: str) -> Path:
        """A path of the page, below the directory."""
        return self.directory / self._translated(path).removeprefix(f"{self.directory}/")

    def _translated(self, text: str) -> str:
        for there, name in DIRECTORIES.items():
            text = re.sub(rf"(?<![\w/]){there}(?=/|\b)", str(self.directory / name), text)
        return text

    def _as_on_the_page(self, text: str) -> str:
        for there, name in DIRECTORIES.items():
            text = text.replace(str(self.directory / name), there)
        return text

    def write(self) -> Site:
        """The directories, the configuration, and the programs by their names."""
        for name in ("var", "etc", "run", "srv", "srv/fast", "srv/mirror", "srv/spare", "bin"):
            (self.directory / name).mkdir(exist_ok=True)
        self.config.write_text(self._translated(self.configuration))
        self._program("duplexctl", "from duplexd.duplexctl.cli import main; main()")
        self._program("duplexd", "from duplexd.daemon.program import main; main()")
        return self

    def _program(self, name: str, code: str) -> None:
        file = self.directory / "bin" / name
        file.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        file.chmod(0o755)

    def run(self, command: str) -> str:
        """What a command of the page prints, to stdout and stderr, with the page's paths."""
        found = environment()
        found["PATH"] = f"{self.directory / 'bin'}:{found['PATH']}"
        found["DUPLEXD_SOCKET"] = str(self.control_socket)
        done = subprocess.run(
            ["sh", "-c", self._translated(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=found,
            cwd=self.directory,
            check=False,
        )
        return self._as_on_the_page(done.stdout)
