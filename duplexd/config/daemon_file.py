"""The configuration file: TOML in, a checked `Config` out, or `ConfigurationError` with one line for each mistake.

Every line reads `FILE: key.of.the.value: what is wrong; what would be right`. Relative paths are relative to the file. What only the machine can
tell (an image of another size, a directory that is missing) is looked at in `duplexd.daemon.preflight`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, ValidationError

from duplexd import limits
from duplexd.config.fields import FilePath, ListenAddress, Name, Section, SocketPath
from duplexd.config.rules import (
    check_hold_max,
    check_host_port,
    check_together,
    check_volume_size,
    explain,
)
from duplexd.errors import ConfigurationError
from duplexd.net.address import TcpAddress
from duplexd.units import GIB, format_size, parse_size


def _journal_size(value: Any) -> int:
    size = parse_size(value)
    low, high = limits.JOURNAL_SIZE_BYTES_MIN, limits.JOURNAL_SIZE_BYTES_MAX
    if not low <= size <= high:
        raise ValueError(
            f"{value!r} is too {'small' if size < low else 'big'}; write {format_size(low)} to {format_size(high)}"
        )
    return size


def _copy_rate(value: Any) -> int:
    rate = parse_size(value)
    if rate < limits.COPY_RATE_BYTES_MIN:
        raise ValueError(
            f"{value!r} a second is too slow to get anywhere; write at least {format_size(limits.COPY_RATE_BYTES_MIN)}"
        )
    return rate


CertificateName = Annotated[StrictStr, Field(min_length=1)]


class ControllerConfig(Section):
    """`[controller]`: one ordering domain, one journal."""

    name: Name = Field(examples=['"alpha"'])
    state_dir: FilePath = Field(examples=['"/var/lib/duplexd/alpha"'])
    journal_size: Annotated[int, BeforeValidator(_journal_size)] = Field(
        default=GIB, examples=['"1GiB"']
    )
    hold_max: Annotated[float, BeforeValidator(check_hold_max)] = Field(
        default=limits.HOLD_SECONDS_DEFAULT, examples=["2.0"]
    )
    copy_rate: Annotated[int, BeforeValidator(_copy_rate)] | None = Field(
        default=None, examples=['"100MiB"']
    )


class NbdConfig(Section):
    """`[nbd]`: where clients connect. `listen` holds `unix:/absolute/path` and `tcp:HOST:PORT`."""

    listen: list[ListenAddress] = Field(
        min_length=1, examples=['["unix:/run/duplexd/alpha/nbd.sock", "tcp:127.0.0.1:10809"]']
    )
    insecure: StrictBool = Field(default=False, examples=["true"])


class TlsConfig(Section):
    """`[control.tls]`: the same commands for other machines. A client shows a certificate that `client_ca` signed; its name decides its role."""

    listen: list[Annotated[TcpAddress, BeforeValidator(check_host_port)]] = Field(
        min_length=1, examples=['["0.0.0.0:10810"]']
    )
    certificate: FilePath = Field(examples=['"server.pem"'])
    key: FilePath = Field(examples=['"server.key"'])
    client_ca: FilePath = Field(examples=['"clients.pem"'])
    operate: list[CertificateName] = Field(default_factory=list, examples=['["backup.example"]'])
    observe: list[CertificateName] = Field(default_factory=list, examples=['["monitor.example"]'])


class ControlConfig(Section):
    """`[control]`: where duplexctl connects."""

    socket: SocketPath = Field(
        default=Path("/run/duplexd/control.sock"), examples=['"/run/duplexd/alpha/control.sock"']
    )
    group: StrictStr | None = Field(default=None, min_length=1, examples=['"duplexd"'])
    group_role: Literal["observe", "operate"] = Field(default="operate", examples=['"operate"'])
    tls: TlsConfig | None = Field(default=None, examples=['{ listen = ["0.0.0.0:10810"], ... }'])


class VolumeConfig(Section):
    """`[volumes.NAME]`: a volume and its legs. Without a secondary it is SIMPLEX."""

    size: Annotated[int, BeforeValidator(check_volume_size)] = Field(examples=['"10GiB"'])
    primary: FilePath = Field(examples=['"/srv/a/data.img"'])
    secondary: FilePath | None = Field(default=None, examples=['"/srv/b/data.img"'])
    mode: Literal["sync", "async"] = Field(default="sync", examples=['"sync"'])


class GroupConfig(Section):
    """`[groups.NAME]`: volumes that are cut together."""

    volumes: list[StrictStr] = Field(min_length=1, examples=['["data", "wal"]'])


class Config(Section):
    """The whole file. `source` is its absolute path, to read it again on reload."""

    source: Path
    controller: ControllerConfig
    nbd: NbdConfig
    control: ControlConfig = ControlConfig()
    volumes: dict[Name, VolumeConfig] = Field(default_factory=dict)
    groups: dict[Name, GroupConfig] = Field(default_factory=dict)


def load(path: str | Path) -> Config:
    """Read and check a configuration file. Raises ConfigurationError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; give the configuration with --config FILE"
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"{str(path)!r}: not a file name; give the configuration with --config FILE"
        ) from None
    try:
        return parse(data.decode(), path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line}: not UTF-8; save the file as UTF-8 text"
        ) from None


def parse(text: str, path: str | Path) -> Config:
    """Check the text of a configuration file that lies (or would lie) at `path`. Raises ConfigurationError."""
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
    if problems := check_together(config):
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in problems))
    return config
