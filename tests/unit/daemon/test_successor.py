"""Starting the next program beside the one that runs."""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from duplexd.daemon.successor import begin_successor
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from pathlib import Path

ECHO = "import sys; sys.exit(sys.stdin.read())"


def test_the_configuration_is_handed_on_where_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a full disk may need another program most."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(WrongStateError, match="nothing changed: as it was checked"):
        begin_successor([sys.executable, "-c", ECHO, "run"], "as it was checked")
