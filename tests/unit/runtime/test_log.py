from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from duplexd.runtime import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_a_log_that_can_not_be_written_stops_nothing() -> None:
    class Full(io.StringIO):
        tried = 0

        def write(self, _text: str) -> int:
            Full.tried += 1
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise BrokenPipeError

    log.configure(stream=Full())
    structlog.get_logger("a").info("suspended")
    logging.getLogger("b").warning("slow")
    assert Full.tried > 1


def test_each_event_is_one_json_line_unless_on_a_terminal() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    structlog.get_logger("a").info(
        "suspended", volumes=["x"], path=Path("/y"), text="two\nlines", nested={1: (Path("/z"),)}
    )
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "suspended",
        "level": "info",
        "volumes": ["x"],
        "path": "/y",
        "text": "two\nlines",
        "nested": {"1": ["/z"]},
    }


def test_a_terminal_that_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    log.configure(stream=out)
    structlog.get_logger("a").warning("suspended", volume="x")
    assert "suspended" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    log.configure(stream=out)
    structlog.get_logger("a").warning("suspended", volume="x")
    text = out.getvalue()
    assert "suspended" in text
    assert "\x1b[" in text
    assert not text.startswith("{")


def test_below_the_level_nothing_is_written() -> None:
    out = io.StringIO()
    log.configure("warning", out)
    structlog.get_logger("a").info("quiet")
    assert out.getvalue() == ""


def test_the_standard_library_logs_in_the_same_way() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    logging.getLogger("asyncio").error("Task was destroyed: %s", 7)
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"]) == ("Task was destroyed: 7", "error")


def test_an_exception_is_one_line_too() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("asyncio").exception("it broke")
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert "ValueError" in lines[0]


def recurse(depth: int, payload: bytes) -> None:
    if depth:
        recurse(depth - 1, payload)
    raise ValueError(f"no: {payload!r}")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_an_exception_is_logged_without_what_its_frames_held(
    stream: Callable[[], io.StringIO],
) -> None:
    out = stream()
    log.configure(stream=out)

    def handle(payload: bytes) -> None:
        raise ValueError(len(payload))

    try:
        handle("secret".upper().encode())
    except ValueError:
        structlog.get_logger("t").exception("it broke")
    assert "handle" in out.getvalue()
    assert "SECRET" not in out.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_an_exception_of_any_size_has_a_limit_in_the_log(
    stream: Callable[[], io.StringIO],
) -> None:
    out = stream()
    log.configure(stream=out)
    try:
        recurse(200, bytes(64 << 10))
    except ValueError as error:
        group = ExceptionGroup("all", [ValueError(number) for number in range(5000)])
        structlog.get_logger("t").error("one", exc_info=error)
        structlog.get_logger("t").error("many", exc_info=group)
        structlog.get_logger("t").error("text", error=str(error))
    assert len(out.getvalue()) < 20 * log.TEXT_CHARACTERS_MAX
    assert "recurse" in out.getvalue() or out.isatty()


def test_what_others_wrote_moves_no_cursor_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    log.configure("info", out)
    evil = "\x1b]0;x\x07\nforged"
    try:
        raise ValueError(evil)
    except ValueError:
        structlog.get_logger("t").error("suspended", tag=evil, tags=[evil], exc_info=True)
    assert "\x1b" not in out.getvalue()
    assert r"tag=\x1b]0;x\x07\nforged" in out.getvalue()
    assert "\nTraceback" in out.getvalue(), "a traceback keeps its lines"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_strangers_repeat_is_written_seldom_and_counted() -> None:
    clock, out = Clock(), io.StringIO()
    log.configure("info", out)
    seldom = log.Seldom(structlog.get_logger("t"), burst=3, per_second=0.5, clock=clock)
    for port in range(50):
        seldom.info("connected", port=port)
    seldom.info("another")
    clock.now += 2.0
    seldom.info("connected", port=50)
    seldom.info("connected", port=51)
    clock.now += 100.0
    for port in range(52, 60):
        seldom.info("connected", port=port)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line.get("port"), line.get("left_out")) for line in lines] == [
        *((port, None) for port in range(3)),
        (None, None),
        (50, 47),
        (52, 1),
        (53, None),
        (54, None),
    ]
