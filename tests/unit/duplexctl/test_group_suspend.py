"""What `suspend --certificate` keeps and says of a cut, in this order, whatever ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from duplexd.client import Client, Suspended
from duplexd.client import certificate as certificates
from duplexd.duplexctl import runner
from duplexd.duplexctl.cli import run
from duplexd.errors import DuplexdError, UndecidedError
from duplexd.verify_cut import document

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

MEMBER: dict[str, Any] = {
    "cut": "0123456789abcdef",
    "controller": "alpha",
    "sequence": 7,
    "time": 12.5,
    "journal": {"directory": "/state", "identity": "00" * 16, "crc": 1, "chain": 2},
    "volumes": [{"id": 3, "name": "data", "size": 4096, "primary": "/a", "secondary": "/b"}],
}
CONSISTENT = Suspended(
    "consistent", "0123456789abcdef", "", "db", {"alpha": 7}, ["alpha:data"], members=[MEMBER]
)
VOID = Suspended(
    "void",
    "0123456789abcdef",
    "",
    "db",
    {"alpha": 7},
    ["alpha:data"],
    why="beta: gone",
    members=[MEMBER],
)


class Ctl:
    """`suspend db --certificate cut.json` of a coordinator that finds `found`.

    Then `then` happens before it can answer.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.certificate = directory / "cut.json"
        self._groups = directory / "groups.toml"
        self._groups.write_text(
            '[controllers.alpha]\nsocket = "a"\n[groups.db]\nmembers = ["alpha:data"]\n'
        )
        self._patch = monkeypatch

    def __call__(self, found: object, *more: str, then: Callable[[], object] | None = None) -> int:
        async def suspend(
            _client: Client, *_targets: str, on_cut: Callable[[object], object], **_: object
        ) -> object:
            if found is not None:
                on_cut(found)
            if then is not None:
                then()
                await asyncio.sleep(3600)
            if isinstance(found, Exception):
                raise found
            return found

        self._patch.setattr(Client, "suspend", suspend)
        return run(
            [
                "--groups",
                str(self._groups),
                "suspend",
                "db",
                "--certificate",
                str(self.certificate),
                *more,
            ]
        )

    def holds(self, verdict: str) -> bool:
        found = document.read(str(self.certificate))
        return found.intact and found.verdict == verdict


@pytest.fixture
def ctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    return Ctl(tmp_path, monkeypatch)


def stop(number: int) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


def test_the_certificate_is_there_before_anything_is_printed(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def echo(text: str, err: bool = False) -> None:
        if not err:
            assert ctl.holds("consistent")
            raise OSError(28, "No space left on device")
        said.append(text)

    monkeypatch.setattr("duplexd.duplexctl.output.click.echo", echo)
    assert ctl(CONSISTENT) == 1
    done = "suspended db: consistent, cut 0123456789abcdef: alpha:data"
    assert said == [
        f"duplexctl: the output could not be written: No space left on device; this is done: {done}"
    ]


@pytest.mark.parametrize(("found", "code"), [(CONSISTENT, 1), (VOID, 9)])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_certificate_that_can_not_be_written_is_not_lost(
    ctl: Ctl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: Suspended,
    code: int,
    more: list[str],
) -> None:
    def full(*_: object) -> None:
        raise DuplexdError("the certificate could not be written: No space left on device")

    monkeypatch.setattr(certificates, "write", full)
    assert ctl(found, *more) == code
    said = capsys.readouterr()
    assert found.verdict in said.out
    assert not ctl.certificate.exists()
    lines = said.err.splitlines()
    place = lines.index(
        "duplexctl: the certificate could not be written: No space left on device;"
        " it is the next line, save that:"
    )
    ctl.certificate.write_text(lines[place + 1])
    assert ctl.holds(found.verdict)
    assert any("the verdict is void" in line for line in lines) is (found is VOID)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    ("found", "text"), [(CONSISTENT, "before that"), (VOID, "before that: the verdict is void: ")]
)
def test_interrupted_once_the_cut_is_made_it_is_reported_and_certified(
    ctl: Ctl,
    capsys: pytest.CaptureFixture[str],
    number: int,
    more: list[str],
    found: Suspended,
    text: str,
) -> None:
    assert ctl(found, *more, then=stop(number)) == 128 + number
    said = capsys.readouterr()
    assert ctl.holds(found.verdict)
    if more:
        assert json.loads(said.out)["verdict"] == found.verdict
    else:
        assert said.out.startswith(f"suspended db: {found.verdict}, cut 0123456789abcdef")
    assert said.err.startswith(
        f"duplexctl: interrupted by {signal.Signals(number).name}; cut"
        f" 0123456789abcdef was made {text}"
    )
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    ("found", "code"), [(CONSISTENT, 0), (VOID, 9), (UndecidedError("cut c1 was made, but ..."), 7)]
)
def test_interrupted_between_the_end_of_the_loop_and_the_answer(
    ctl: Ctl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    more: list[str],
    found: Suspended | UndecidedError,
    code: int,
) -> None:
    def stopped_as_it_ends(work: Coroutine[object, object, object]) -> object:
        try:
            return uvloop.run(work)
        finally:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(runner, "_loop", lambda _of_groups: stopped_as_it_ends)
    assert ctl(found, *more) == (code or 128 + number)
    said = capsys.readouterr()
    answer = json.loads(said.out) if more else {"verdict": said.out, "detail": said.err}
    if isinstance(found, UndecidedError):
        assert "cut c1 was made, but ..." in answer["detail"]
    else:
        assert found.verdict in answer["verdict"]
        assert ctl.holds(found.verdict)
    if not code:
        assert said.err == f"duplexctl: interrupted by {number.name}; all was done before that\n"
    assert signal.getsignal(number) == before


def test_out_of_time_once_the_cut_is_made_it_is_reported_and_certified(
    ctl: Ctl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl(CONSISTENT, "--timeout", "0.1", then=lambda: None) == 8
    said = capsys.readouterr()
    assert ctl.holds("consistent")
    assert said.out.startswith("suspended db: consistent, cut 0123456789abcdef")
    assert said.err.rstrip().endswith("; cut 0123456789abcdef was made before that")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_interrupted_while_it_is_not_known_what_was_made(
    ctl: Ctl, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert ctl(UndecidedError("cut c1 was made, but ..."), *more, then=stop(signal.SIGINT)) == 130
    said = capsys.readouterr()
    assert said.err == "duplexctl: interrupted by SIGINT; cut c1 was made, but ...\n"
    if more:
        assert json.loads(said.out)["detail"] == "interrupted by SIGINT; cut c1 was made, but ..."
    assert not ctl.certificate.exists()


def test_interrupted_before_any_cut_there_is_nothing_to_say(
    ctl: Ctl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl(None, then=stop(signal.SIGINT)) == 130
    assert capsys.readouterr() == ("", "")
    assert not ctl.certificate.exists()
