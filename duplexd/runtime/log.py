"""Logging: one line for each change of state, none for each request.

JSON on stderr under a service manager, which keeps and filters it; readable lines on a terminal. A
log that cannot be written is lost rather than waited for: a full disk of logs must not stop a
volume.

A log has other readers than a volume has. So an exception is logged without the variables of its
frames, which hold what clients wrote, and every text in a line has a limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO, cast

import structlog

from duplexd.printable import only_text, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

TEXT_CHARACTERS_MAX = 8192  # of one value: an error may quote a whole buffer
# Of one exception, the frames and the causes, each: a recursion or a group may have thousands
FRAMES_MAX = 30

# Of one event: some 20 MB a day at most, whatever a client does
SELDOM_BURST = 100.0
SELDOM_PER_SECOND = 1.0


class _Patient:
    """A stream that loses what it can't write: a disk that is full of logs, or a reader that went
    away, stops no volume.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class Seldom:
    """A logger for what strangers cause, such as connections.

    A client that connects and leaves in a loop would fill a disk with lines that all say the same.
    Of each event `burst` lines are written at once, then `per_second`; the next one that is written
    says how many were `left_out`.
    """

    def __init__(
        self,
        logger: structlog.stdlib.BoundLogger,
        burst: float = SELDOM_BURST,
        per_second: float = SELDOM_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._events: dict[str, _Budget] = {}

    def debug(self, event: str, **fields: object) -> None:
        self._logger.debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        if (left_out := self._left_out(event)) is not None:
            self._logger.info(event, **fields, **left_out)

    def warning(self, event: str, **fields: object) -> None:
        if (left_out := self._left_out(event)) is not None:
            self._logger.warning(event, **fields, **left_out)

    def error(self, event: str, **fields: object) -> None:
        if (left_out := self._left_out(event)) is not None:
            self._logger.error(event, **fields, **left_out)

    def _left_out(self, event: str) -> dict[str, int] | None:
        """What the line has to say of those before it; None if it is left out, too."""
        now = self._clock()
        budget = self._events.setdefault(event, _Budget(self._burst, now))
        budget.lines += (now - budget.at) * self._per_second
        budget.lines, budget.at = min(self._burst, budget.lines), now
        if budget.lines < 1:
            budget.left_out += 1
            return None
        budget.lines -= 1
        left_out, budget.left_out = budget.left_out, 0
        return {"left_out": left_out} if left_out else {}


class _Budget:
    """Lines that may be written of one event, and how many were not."""

    __slots__ = ("at", "left_out", "lines")

    def __init__(self, lines: float, at: float) -> None:
        self.lines = lines
        self.at = at
        self.left_out = 0


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logging to `stream` (stderr): JSON lines, or a
    console layout if it is a terminal.
    """
    out = sys.stderr if stream is None else stream
    patient = _Patient(out)
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    layout: Sequence[Processor]
    if out.isatty():
        layout = (
            structlog.processors.format_exc_info,
            _printable_values,
            structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR")),
        )
    else:
        layout = (
            structlog.processors.ExceptionRenderer(_stacks),
            _plain_values,
            structlog.processors.JSONRenderer(),
        )
    structlog.configure(
        processors=[*shared, *layout],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, patient)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(patient)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *layout],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(LEVELS[level], logging.WARNING), force=True)


_transform = structlog.tracebacks.ExceptionDictTransformer(
    show_locals=False, max_frames=FRAMES_MAX - 1
)


def _stacks(exc_info: ExcInfo) -> object:
    """An exception and its causes, as JSON has them."""
    return _first(_transform(exc_info))


def _first(value: object) -> object:
    """The same with lists that are no longer than they may be."""
    if isinstance(value, dict):
        return {key: _first(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_first(item) for item in value[:FRAMES_MAX]]
    return value


def _printable_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal: values of others as one line each, a traceback of ours as several."""
    return {
        key: only_text(str(value)[-TEXT_CHARACTERS_MAX:])
        if key == "exception"
        else _printable(value)
        for key, value in event.items()
    }


def _printable(value: object) -> object:
    """As the console shows it: texts as they are, the rest by `repr`, which escapes by itself."""
    return printable(_clipped(value)) if isinstance(value, str) else value


def _plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Paths and other objects as text, so that a value can never make a line fail."""
    return {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _clipped(str(value))


def _clipped(text: str) -> str:
    more = len(text) - TEXT_CHARACTERS_MAX
    return f"{text[:TEXT_CHARACTERS_MAX]}... ({more} more characters)" if more > 0 else text
