"""Reading the daemon's configuration file: text in, a checked `Config` out, or every mistake at
once.

Every line of an error reads `FILE: key.of.the.value: what is wrong; what was expected`. All
mistakes of a file are reported together, so that correcting them does not take a start of the
daemon for each. Relative paths are relative to the file, so that a configuration can be moved
with its directory. What only the machine can say (an image of another size, a missing directory) is
looked at in `duplexd.daemon.preflight`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from duplexd.config.daemon_file import Config
from duplexd.config.explain import explain
from duplexd.config.text import decode
from duplexd.config.together import check_together
from duplexd.errors import ConfigurationError
from duplexd.units import MIB, format_size

FILE_BYTES_MAX = 16 * MIB  # of a few hundred bytes for each volume


def load(path: str | Path) -> Config:
    """Read and check a configuration file. Raises ConfigurationError."""
    return parse(read(path), path)


def read(path: str | Path) -> str:
    """The text of a configuration file. Raises ConfigurationError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; give the configuration with --config FILE"
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"{str(path)!r}: not a file name; give the configuration with --config FILE"
        ) from None
    if len(data) > FILE_BYTES_MAX:  # such as /dev/zero, which has no end
        raise ConfigurationError(
            f"{path}: longer than {format_size(FILE_BYTES_MAX)}; give the configuration with"
            " --config FILE"
        )
    return decode(data, path)


def parse(text: str, path: str | Path, follow: bool = True) -> Config:
    """Check the text of a configuration file that lies (or would lie) at `path`. Raises
    ConfigurationError.

    Without `follow` no path in it is looked at: a disk under one may hang.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: not TOML that can be read: nested too deeply") from None
    source = Path(path).absolute()
    if "source" in raw:
        raise ConfigurationError(f"{path}: source: unknown key; remove it")
    try:
        config = Config.model_validate({**raw, "source": source}, context={"base": source.parent})
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(f"{path}: {line}" for line in explain(error, Config))
        ) from None
    if problems := check_together(config, follow):
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in problems))
    return config
