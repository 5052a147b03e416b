"""docs/nbd-requests.md names every request, flag and error there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplexd.nbd import constants as c

TEXT = (Path(__file__).parents[3] / "docs" / "nbd-requests.md").read_text()
PREFIXES = ("CMD_FLAG_", "CMD_")
# ENOMEM is never sent: what would take too much memory waits.
REQUESTS = [name for name in vars(c) if name.startswith("CMD_")]
ERRORS = ["EPERM", "EIO", "EINVAL", "ENOSPC", "EOVERFLOW", "ENOTSUP", "ESHUTDOWN"]


@pytest.mark.parametrize("name", [*REQUESTS, *ERRORS])
def test_each_has_a_row(name: str) -> None:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| {name} |")]
    assert rows, f"docs/nbd-requests.md says nothing of {name}"
