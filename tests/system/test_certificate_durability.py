"""A certificate is there, durably, before the answer is printed.

With a real daemon, and nobody who takes the answer.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.verify_cut import document
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

MAIN = [sys.executable, "-m", "duplexd.duplexctl.entry"]


@pytest.mark.parametrize(
    ("nowhere", "code"), [('"$@" >/dev/full', 1), ('"$@" >&-', 0), ('"$@" | exec true', 0)]
)
@pytest.mark.parametrize("of_groups", [False, True])
def test_the_certificate_is_durable_although_the_answer_cannot_be_printed(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    nowhere: str,
    code: int,
    of_groups: bool,
) -> None:
    files = make_files(groups={"db": ["data"]})
    start_daemon(files)
    groups, certificate = files.directory / "groups.toml", files.directory / "cut.json"
    groups.write_text(
        f'[controllers.test]\nsocket = "{files.control_socket}"\n[groups.db]\nmembers'
        ' = ["test:db"]\n'
    )
    where = ["--groups", str(groups)] if of_groups else ["--socket", str(files.control_socket)]
    command = [
        "sh",
        "-c",
        nowhere,
        "sh",
        *MAIN,
        *where,
        "suspend",
        "db",
        "--certificate",
        str(certificate),
    ]
    done = subprocess.run(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    found = document.read(str(certificate))
    assert (found.intact, found.verdict) == (True, "consistent")
    assert found.cut in run_duplexctl(files, "cuts").stdout
