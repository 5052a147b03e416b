"""A name that is not UTF-8 text: no request could ask for it."""

from __future__ import annotations

import pytest

from duplexd.duplexctl.cli import run


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["suspend"], ["verify"], ["release"], ["suspend", "db", "--lease"], ["canary"]],
)
def test_it_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "\udcff"]) == 2
    assert "b'\\xff' is not UTF-8 text" in capsys.readouterr().err
