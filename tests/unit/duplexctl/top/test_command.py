"""`duplexctl top` where there is no terminal: one frame, with the exit codes of other commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.client.api import Client
from duplexd.client.looking_on import LookingOn
from duplexd.duplexctl.cli import run
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json
    from tests.support.control_plane import ControlPlane

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "duplexctl-json.md").read_text()
FAST = ["--interval", "0.1"]


@pytest.fixture
def top(plane: ControlPlane, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def command(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = run(["--socket", str(plane.path), "top", *FAST, *arguments])
        return code, capfd.readouterr().out

    return command


def test_without_a_terminal_one_frame_is_printed(top: Callable[..., tuple[int, str]]) -> None:
    code, text = top()
    assert code == 0
    assert re.search(r"^  data +DUPLEX ", text, re.MULTILINE)
    assert "\x1b" not in text
    code, again = top("--once")
    assert code == 0
    assert again.splitlines()[1:] == text.splitlines()[1:]  # the first one has the time


def test_a_hostile_tag_moves_no_cursor(
    plane: ControlPlane, top: Callable[..., tuple[int, str]]
) -> None:
    plane.controller.leg_errors["data", "primary"] = "\x1b[2J\x1b]0;x\x07 is broken"
    text = top("--once")[1]
    assert "\x1b" not in text
    assert "\\x1b[2J\\x1b]0;x\\x07 is broken" in text


def test_without_a_daemon_it_is_7(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--socket", str(tmp_path / "none.sock"), "top", *FAST]) == 7
    assert "no daemon answers" in capfd.readouterr().err


def test_quiet_says_nothing(top: Callable[..., tuple[int, str]]) -> None:
    assert top("--quiet") == (0, "")


def test_json_has_the_documented_fields(top: Callable[..., tuple[int, str]]) -> None:
    def fields(section: str) -> set[str]:
        table = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
        return set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))

    answer: Json = json.loads(top("--json")[1])
    assert set(answer) == fields("Top")
    assert set(answer["volumes"][0]) == fields("TopVolume")
    assert answer["well"] is True
    assert answer["groups"][0]["name"] == "db"


# ----------------------------------------------------------------------------------- the looks


async def test_what_cannot_be_had_is_missing_and_the_rest_is_there(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Client.local(plane.path) as client:
        looking = LookingOn(client)
        (link,) = client.links_to(client.groups.controllers).values()
        call = link.call

        async def refusing(method: str, path: str, *more: object, **named: object) -> Json:
            if path in {"/v1/health", "/v1/cuts"}:
                raise DuplexdError("not for you")
            return await call(method, path, *more, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(link, "call", refusing)
        look = await looking.look()
    assert look.findings is None
    assert look.missing == [
        "health is not known: not for you",
        "the list of cuts is not known: not for you",
    ]
    assert look.status["volumes"]
    assert "duplexd_info" in look.metrics


async def test_cuts_are_asked_for_again_only_when_there_may_be_others(plane: ControlPlane) -> None:
    async with Client.local(plane.path) as client:
        looking = LookingOn(client)
        (link,) = client.links_to(client.groups.controllers).values()
        asked: list[str] = []
        call = link.call

        async def noting(method: str, path: str, *more: object, **named: object) -> Json:
            asked.append(path)
            return await call(method, path, *more, **named)  # type: ignore[arg-type]

        link.call = noting  # type: ignore[method-assign]
        await looking.look()
        await looking.look()
        assert asked.count("/v1/cuts") == 1
        assert plane.ask("POST", "/v1/suspend", {"targets": ["db"]})[0] == 200
        await looking.look()
        assert asked.count("/v1/cuts") == 2
        look = await looking.look("wal")
        assert asked[-1] == "/v1/cuts?target=wal"
        assert look.cuts_of == "wal"
