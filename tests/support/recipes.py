"""A page of docs/recipes: its blocks are run as they are written there, on a daemon of the test.

    page = Recipe("postgresql", site, {"/srv/pg": tmp_path / "pg"})
    page.run("initdb")      # the one block of shell commands that has this in it

What the page calls by the paths of an installed duplexd is found where the test has it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.daemon import Daemon

SECONDS_MAX = 240  # for a block, however busy the machine is
_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DUPLEXCTL = "from duplexd.duplexctl.cli import main; main()"


class Recipe:
    """`left`: the shell blocks that nobody has run."""

    def __init__(self, name: str, daemon: Daemon, above: Path, places: Mapping[str, Path]) -> None:
        """`above`: a directory for programs. `places`: where the test has the page's paths."""
        files = daemon.files
        self._places = {
            "/usr/share/doc/duplexd/examples": ROOT / "configs" / "drills",
            "/run/duplexd/alpha/nbd.sock": files.nbd_socket,
            "/run/duplexd/alpha/control.sock": files.control_socket,
            **places,
        }
        self._programs = above / "programs"
        self._programs.mkdir()
        self.program("duplexctl", f'exec {sys.executable} -c "{_DUPLEXCTL}" "$@"')
        self.environment = environment() | {
            "PATH": f"{self._programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "DUPLEXD_SOCKET": str(files.control_socket),
        }
        blocks = _BLOCK.findall((ROOT / "docs" / "recipes" / f"{name}.md").read_text())
        self.blocks = [(kind, title, self.here(text)) for kind, title, text in blocks]
        self.left = [text for kind, _, text in self.blocks if kind == "sh"]

    def program(self, name: str, script: str) -> None:
        """What the page calls by this name."""
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """With the paths of the test."""
        for path, place in self._places.items():
            text = text.replace(path, str(place))
        return text

    def block(self, kind: str, title: str = "") -> str:
        """The first of this kind, and of this title if there is one."""
        return next(text for of, called, text in self.blocks if (of, called) == (kind, title))

    def sh(self, *having: str) -> subprocess.CompletedProcess[str]:
        """Run the shell blocks that have these words in them, one for each, in one shell."""
        found = []
        for words in having:
            (text,) = [text for text in self.left if words in text]
            found.append(text)
        for text in found:
            self.left.remove(text)
        return self.do("\n".join(found))

    def do(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script; it has to end with 0."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done
