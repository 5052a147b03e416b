"""How the program ends: with the code that it says, whatever hangs."""

from __future__ import annotations

import subprocess
import sys

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

# A call hangs below a library in Rust, is given up, and comes back while the interpreter ends
HANGS = """
import threading, time
from typing import Annotated
from pydantic import AfterValidator, TypeAdapter
from duplexd.daemon import program
from duplexd.runtime.in_time import Patience

given_up = threading.Event()

def hang(number):
    given_up.wait()
    while True:
        time.sleep(0.001)

@program.cli.command("look")
def look():
    adapter = TypeAdapter(Annotated[int, AfterValidator(hang)])
    try:
        Patience(0.01).call(lambda: adapter.validate_python(1))
    finally:
        given_up.set()

program.main()
"""


def test_a_call_that_was_given_up_does_not_abort_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, "look"], env=environment(), cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert done.stderr == "duplexd: does not answer for 0.01 s\n"
