"""Programs that tests start keep their compiled modules, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.daemon import environment


@pytest.mark.parametrize("env", [None, environment()], ids=["inherited", "of a daemon"])
def test_a_child_keeps_compiled_modules(env: dict[str, str] | None) -> None:
    command = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", os.environ.get("PYTHONDONTWRITEBYTECODE")
