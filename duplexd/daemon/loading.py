"""The configuration file, read in a bounded time. Apart from `checking.py`, which asks daemons and
reads journals: a start needs none of that, and does not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.config import load as config
from duplexd.errors import WrongStateError
from duplexd.limits import DaemonLimits
from duplexd.runtime.in_time import Patience

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config

_LIMITS = DaemonLimits()


def load_in_time(config_path: str | Path, seconds: float = _LIMITS.look_seconds_max) -> Config:
    """The configuration. Its images are looked at only if they answer: two links to one file, which
    is a mistake, are not found on a disk that hangs. Raises ConfigurationError; WrongStateError if
    the file itself hangs.
    """
    return parse_in_time(read_in_time(config_path, seconds), config_path, seconds)


def read_in_time(config_path: str | Path, seconds: float = _LIMITS.look_seconds_max) -> str:
    """The text of the file. Raises as `load_in_time` does."""
    try:
        return Patience(seconds).call(lambda: config.read(config_path))
    except OSError as error:
        text = f"{config_path}: the configuration file {error.strerror}; see which disk it is on"
        raise WrongStateError(text) from None


def parse_in_time(text: str, path: str | Path, seconds: float = _LIMITS.look_seconds_max) -> Config:
    """The same of a text that lies, or would lie, at `path`."""
    try:
        return Patience(seconds).call(lambda: config.parse(text, path))
    except OSError:
        return config.parse(text, path, follow=False)
