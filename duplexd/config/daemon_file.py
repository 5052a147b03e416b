"""The tables of the daemon's configuration file, as checked values.

A model for each table, frozen once it is checked: a reload makes a new `Config` and compares.
`examples` are what an error message shows to somebody who wrote the value wrongly, so each field
has one. docs/configuration.md describes the keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, model_validator

from duplexd import limits
from duplexd.config.fields import FilePath, Name, Section, SocketPath
from duplexd.config.hook_fields import HookFields
from duplexd.config.nbd_section import ALLOW_EXAMPLES, AllowList, GroupName, Mode, NbdConfig
from duplexd.config.values import (
    check_clone_limit,
    check_copy_rate,
    check_delay,
    check_disk_timeout,
    check_duration,
    check_hold_max,
    check_host_port,
    check_journal_size,
    check_mark_every,
    check_marks_kept,
    check_scrub_rate,
    check_tcp,
    check_tracked_cuts,
    check_volume_size,
)
from duplexd.net.address import TcpAddress
from duplexd.units import GIB

CertificateName = Annotated[StrictStr, Field(min_length=1)]


class ControllerConfig(Section):
    """`[controller]`: one ordering domain, one journal."""

    name: Name = Field(examples=['"alpha"'])
    state_dir: FilePath = Field(examples=['"/var/lib/duplexd/alpha"'])
    journal_size: Annotated[int, BeforeValidator(check_journal_size)] = Field(
        default=GIB, examples=['"1GiB"']
    )
    hold_max: Annotated[float, BeforeValidator(check_hold_max)] = Field(
        default=limits.HOLD_SECONDS_DEFAULT, examples=["2.0"]
    )
    copy_rate: Annotated[int, BeforeValidator(check_copy_rate)] | None = Field(
        default=None, examples=['"100MiB"']
    )
    on_start_error: Literal["serve", "refuse"] = Field(default="serve", examples=['"serve"'])
    on_primary_error: Literal["swap", "refuse"] = Field(default="swap", examples=['"swap"'])
    secondary_timeout: Annotated[float, BeforeValidator(check_disk_timeout)] = Field(
        default=limits.SECONDARY_TIMEOUT_SECONDS_DEFAULT, examples=["5.0"]
    )
    primary_timeout: Annotated[float, BeforeValidator(check_disk_timeout)] = Field(
        default=limits.PRIMARY_TIMEOUT_SECONDS_DEFAULT, examples=["30.0"]
    )
    tracked_cuts: Annotated[int, BeforeValidator(check_tracked_cuts)] = Field(
        default=limits.TRACKED_CUTS_DEFAULT, examples=["32"]
    )
    marks_kept: Annotated[int, BeforeValidator(check_marks_kept)] = Field(
        default=limits.MARKS_KEPT_DEFAULT, examples=["1000"]
    )
    clone_limit: Annotated[int, BeforeValidator(check_clone_limit)] = Field(
        default=limits.CLONE_LIMIT_BYTES_DEFAULT, examples=['"4GiB"']
    )
    auto_resync: StrictBool = Field(default=False, examples=["true"])
    image_group: GroupName | None = Field(default=None, examples=['"backup"'])
    image_mode: Mode = Field(default=limits.IMAGE_MODE_DEFAULT, examples=['"0640"'])


class TlsConfig(Section):
    """`[control.tls]`: the control API for other machines.

    A client presents a certificate that `client_ca` signed; the name in it decides its role.
    """

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


class HealthConfig(Section):
    """`[health]`: what `duplexctl health` expects, beside that nothing has failed."""

    suspended_max: Annotated[float, BeforeValidator(check_duration)] | None = Field(
        default=limits.SUSPENDED_SECONDS_DEFAULT, examples=['"8h"']
    )
    cut_age_max: Annotated[float, BeforeValidator(check_duration)] | None = Field(
        default=None, examples=['"26h"']
    )
    drill_age_max: Annotated[float, BeforeValidator(check_duration)] | None = Field(
        default=None, examples=['"8d"']
    )


class ScrubConfig(Section):
    """`[scrub]`: how often all pairs are compared by themselves; without `every`, never."""

    every: Annotated[float, BeforeValidator(check_duration)] | None = Field(
        default=None, examples=['"7d"']
    )
    rate: Annotated[int, BeforeValidator(check_scrub_rate)] = Field(
        default=limits.SCRUB_RATE_BYTES_DEFAULT, examples=['"32MiB"']
    )


class MetricsConfig(Section):
    """`[metrics]`: a listener that answers GET /metrics, and nothing else, to all who ask."""

    listen: Annotated[TcpAddress, BeforeValidator(check_tcp)] | None = Field(
        default=None, examples=['"tcp:127.0.0.1:9809"']
    )


class VolumeConfig(Section):
    """`[volumes.NAME]`: a volume and its legs. Without a secondary it is SIMPLEX."""

    size: Annotated[int, BeforeValidator(check_volume_size)] = Field(examples=['"10GiB"'])
    primary: FilePath = Field(examples=['"/srv/a/data.img"'])
    secondary: FilePath | None = Field(default=None, examples=['"/srv/b/data.img"'])
    mode: Literal["sync", "async", "delayed"] = Field(default="sync", examples=['"sync"'])
    delay: Annotated[float, BeforeValidator(check_delay)] | None = Field(
        default=None, examples=['"30m"']
    )
    allow: AllowList | None = Field(default=None, examples=ALLOW_EXAMPLES)
    read_only: StrictBool = Field(default=False, examples=["true"])

    @model_validator(mode="after")
    def _check_delay(self) -> VolumeConfig:
        """A delay that is not used, or is missing, is a mistake that shows too late."""
        if self.mode == "delayed" and self.delay is None:
            raise ValueError('mode = "delayed" needs a delay; write for example delay = "30m"')
        if self.mode != "delayed" and self.delay is not None:
            raise ValueError(f'delay is for mode = "delayed", and mode is "{self.mode}"')
        return self


class GroupConfig(HookFields):
    """`[groups.NAME]`: volumes that are cut together."""

    volumes: list[StrictStr] = Field(min_length=1, examples=['["data", "wal"]'])
    mark_every: Annotated[float, BeforeValidator(check_mark_every)] | None = Field(
        default=None, examples=['"60s"']
    )


class Config(Section):
    """The whole file. `source` is its absolute path, to read it again on reload."""

    source: Path
    controller: ControllerConfig
    nbd: NbdConfig
    control: ControlConfig = ControlConfig()
    health: HealthConfig = HealthConfig()
    metrics: MetricsConfig = MetricsConfig()
    scrub: ScrubConfig = ScrubConfig()
    volumes: dict[Name, VolumeConfig] = Field(default_factory=dict)
    groups: dict[Name, GroupConfig] = Field(default_factory=dict)
