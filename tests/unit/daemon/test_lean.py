"""What a daemon does not import, because its start would wait for it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from duplexd.daemon.lean import lean
from tests.support.daemon import ROOT, environment

NEEDLESS = ("rich", "duplexd.client", "duplexd.engine.recovery.foresee", "httpx2")
PROGRAM = f"""
import sys
from duplexd.daemon.program import cli
try:
    cli.main(["run", "--config", sys.argv[1]], standalone_mode=False)
except Exception as error:
    print(error)
print([name for name in {NEEDLESS} if sys.modules.get(name)])
import rich.console
"""


def test_a_start_imports_nothing_needless_and_hides_nothing_later() -> None:
    command = [sys.executable, "-c", PROGRAM, "/nowhere.toml"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    error, found = done.stdout.splitlines()
    assert "cannot be read" in error
    assert found == "[]"


@pytest.mark.parametrize("before", [None, "one"])
def test_afterwards_all_is_as_before(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    name = "PYDANTIC_DISABLE_PLUGINS"
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    with lean():
        assert os.environ[name] == "__all__"
        assert not gc.isenabled()
    assert os.environ.get(name) == before
    assert gc.isenabled()
