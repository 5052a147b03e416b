"""duplexd started without standard input, output and error.

Nothing that is printed gets into what it opens.

Or with a log that takes nothing: it serves nevertheless.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

WITHOUT = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
FULL = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh"]


def test_a_daemon_without_standard_streams_serves_and_stops(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(prefix=WITHOUT)
    opened = {os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)}
    assert opened == {os.devnull}
    assert daemon.request("POST", "/v1/suspend", {"targets": ["data"]})[0] == 200
    assert daemon.stop() == 0
    assert not any(daemon.files.primary("data").read_bytes())


def test_a_daemon_whose_log_cannot_be_written_serves_and_stops(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(prefix=FULL)
    for path, more in (("suspend", {}), ("resync", {}), ("quiesce", {"hold_s": 0.1})):
        assert daemon.request("POST", f"/v1/{path}", {"targets": ["data"], **more})[0] == 200
    assert daemon.stop() == 0


@pytest.mark.parametrize("prefix", [WITHOUT, FULL])
def test_a_configuration_error_has_its_exit_code_although_it_cannot_be_printed(
    prefix: list[str],
) -> None:
    command = [*prefix, sys.executable, "-m", "duplexd", "check", "--config", "/none"]
    assert (
        subprocess.run(
            command, env=environment(), cwd=ROOT, timeout=PATIENCE_SECONDS, check=False
        ).returncode
        == 6
    )
