"""`duplexctl top` where there is no terminal: one frame, with the exit codes of other commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.client import outcomes, unwell
from duplexd.client.api import Client
from duplexd.client.connection import Connection
from duplexd.client.looking_on import LookingOn
from duplexd.duplexctl.cli import run
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.client.http import Http
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


def test_the_controllers_of_a_groups_file_are_one_screen(
    plane: ControlPlane, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f'[controllers.fake]\nsocket = "{plane.path}"\n[controllers.gone]\nsocket = "x.sock"\n'
    members = '[groups.all]\nmembers = ["fake:data", "gone:data"]\n'
    (tmp_path / "groups.toml").write_text(text + members)
    assert run(["--groups", str(tmp_path / "groups.toml"), "top", *FAST]) == 0
    shown = capfd.readouterr().out
    assert "ERROR: gone: does not answer: no daemon answers at" in shown
    assert re.search(r"^  fake:data +DUPLEX ", shown, re.MULTILINE)
    assert re.search(r"^  all +UNKNOWN ", shown, re.MULTILINE)
    plane.stop()
    assert run(["--groups", str(tmp_path / "groups.toml"), "top", *FAST]) == 7


# ----------------------------------------------------------------------------------- the looks


async def test_what_cannot_be_had_is_missing_and_the_rest_is_there(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_what: object, **_more: object) -> object:
        raise DuplexdError("not for you")

    monkeypatch.setattr(unwell, "ask", refused)
    monkeypatch.setattr(outcomes, "ask", refused)
    async with Client.local(plane.path) as client:
        look = await LookingOn(client).look()
    assert look.findings is None
    assert look.missing == [
        "health is not known: not for you",
        "the list of cuts is not known: not for you",
    ]
    assert look.status["volumes"]
    assert "duplexd_info" in look.metrics[""]


async def test_cuts_are_asked_for_again_only_when_there_may_be_others(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    ask = outcomes.ask

    async def noted(links: Mapping[str, Http], *, targets: Mapping[str, Sequence[str]]) -> object:
        asked.extend(tuple(each) for each in targets.values())
        return await ask(links, targets=targets)

    monkeypatch.setattr(outcomes, "ask", noted)
    async with Client.local(plane.path) as client:
        looking = LookingOn(client)
        await looking.look()
        await looking.look()
        assert asked == [()]
        assert plane.ask("POST", "/v1/suspend", {"targets": ["db"]})[0] == 200
        await looking.look()
        assert asked == [(), ()]
        look = await looking.look("wal")
        assert asked == [(), (), ("wal",)]
        assert look.cuts_of == "wal"


async def test_it_only_looks(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the role `observe` is enough."""
    methods: list[str] = []
    send = Connection.send

    async def noted(connection: Connection, method: str, path: str, body: Json | None) -> int:
        methods.append(method)
        return await send(connection, method, path, body)

    monkeypatch.setattr(Connection, "send", noted)
    async with Client.local(plane.path) as client:
        await LookingOn(client).look()
        await LookingOn(client).sign_of_life()
    assert set(methods) == {"GET"}
