"""By which configuration the next program serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from duplexd.daemon import process
from duplexd.daemon.loading import parse_in_time
from duplexd.daemon.succession import NOTHING_LEFT

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config
    from duplexd.daemon.replacing import Inherited
    from duplexd.daemon.succession import Estate

TEXT = """
[controller]
name = "{name}"
state_dir = "{directory}"
[nbd]
listen = ["unix:{directory}/nbd.sock"]
[control]
socket = "{directory}/control.sock"
"""


@pytest.mark.parametrize("edited", ["", "other", "nonsense", "gone"])
def test_clients_wait_for_a_configuration_only_if_its_file_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    """With many volumes it takes a second or more, and is done while the stand-in serves."""
    file, steps = tmp_path / "duplexd.toml", list[str]()
    checked = TEXT.format(name="alpha", directory=tmp_path)
    if edited != "gone":
        now = {"": checked, "other": checked.replace("alpha", "beta")}.get(edited, edited)
        file.write_text(now)
    parse = parse_in_time

    def parsed(text: str, path: str | Path) -> Config:
        steps.append("parse")
        return parse(text, path)

    class StandsIn:
        def take(self) -> Estate:
            steps.append("take")
            return NOTHING_LEFT._replace(settings=checked)

    monkeypatch.setattr(process, "parse_in_time", parsed)
    config, left = process._configured(str(file), cast("Inherited", StandsIn()))
    assert (config.controller.name, left and left.settings) == ("alpha", checked)
    before = [] if edited == "gone" else ["parse"]
    assert steps == [*before, "take", *(["parse"] if edited else [])]
