"""Where duplexctl begins: an interrupt that comes while it is still being imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from duplexd.duplexctl import cli

ROOT = Path(__file__).resolve().parents[3]
INTERRUPTED_WHILE_IMPORTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from duplexd.duplexctl.entry import main
main()
"""


@pytest.mark.parametrize("module", ["duplexd.duplexctl.cli", "click", "duplexd.duplexctl.runner"])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_during_the_imports_says_nothing_but_what_json_promises(
    module: str, as_json: bool
) -> None:
    command = [
        sys.executable,
        "-c",
        INTERRUPTED_WHILE_IMPORTED.replace("MODULE", repr(module)),
        "status",
        *(["--json"] if as_json else []),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert (json.loads(done.stdout) if as_json else done.stdout) == (
        _of_a_running_command() if as_json else ""
    )


def _of_a_running_command() -> object:
    """What the command itself says when it is interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("duplexd.duplexctl.looking.run", interrupt)
        patch.setattr("click.echo", lambda text="", **_: said.append(text))
        assert cli.run(["--socket", "none", "status", "--json"]) == 130
    return json.loads("".join(said))


def test_an_ignored_interrupt_stays_ignored() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
        + INTERRUPTED_WHILE_IMPORTED.replace("MODULE", repr("click"))
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout.startswith("duplexctl ")) == (0, True)


def test_the_program_begins_there() -> None:
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["duplexctl"]
        == "duplexd.duplexctl.entry:main"
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_as_the_command_begins(
    as_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def begin() -> None:
        raise KeyboardInterrupt

    assert cli.run(["status", *(["--json"] if as_json else [])], begin) == 130
    assert ("interrupted" in capfd.readouterr().out) is as_json


@pytest.mark.parametrize("output", ["/dev/full", "pipe"])
def test_an_interrupt_during_the_imports_ends_it_also_where_nothing_can_be_written(
    output: str,
) -> None:
    script = INTERRUPTED_WHILE_IMPORTED.replace("MODULE", repr("click"))
    reader, writer = os.pipe() if output == "pipe" else (-1, os.open(output, os.O_WRONLY))
    if reader >= 0:
        os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, "status", "--json"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=100,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (130, "")
