"""What differs between two configurations, in the words of the file."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, cast

import pytest
from pydantic import BaseModel, TypeAdapter

from duplexd.config import daemon_file, nbd_section
from duplexd.config.differences import differences, value_in_file
from duplexd.config.load import parse
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from duplexd.config.daemon_file import Config

SECTIONS = [
    each
    for module in (daemon_file, nbd_section)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__ == module.__name__
]
FILE = """
[controller]
name = "alpha"
state_dir = "/state"
{controller}
[nbd]
listen = ["unix:/nbd.sock"]
insecure = true
{nbd}
[volumes.data]
size = "8MiB"
primary = "/a.img"
secondary = "/b.img"
{volume}
{more}
"""


def of_file(controller: str = "", nbd: str = "", volume: str = "", more: str = "") -> Config:
    text = FILE.format(controller=controller, nbd=nbd, volume=volume, more=more)
    return parse(text, "/f.toml", follow=False)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (of_file(nbd='mode = "0640"'), "nbd.mode: was '0660', is '0640'"),
        (of_file(controller='image_mode = "0640"'), "controller.image_mode: was '0600', is '0640'"),
        (of_file(controller="auto_resync = true"), "controller.auto_resync: was false, is true"),
        (of_file(controller='copy_rate = "1MiB"'), "controller.copy_rate: was not set, is '1MiB'"),
        (of_file(controller="hold_max = 3"), "controller.hold_max: was 2.0, is 3.0"),
        (of_file(volume="read_only = true"), "volumes.data.read_only: was false, is true"),
        (
            of_file(volume='allow = ["user:0"]'),
            "volumes.data.allow: was not set, is ['user:0']",
        ),
        (
            of_file(more='[health]\nsuspended_max = "36h"'),
            "health.suspended_max: was '1d', is '36h'",
        ),
        (of_file(more='[scrub]\nevery = "60s"'), "scrub.every: was not set, is '1m'"),
        (of_file(more='[scrub]\nrate = "64MiB"'), "scrub.rate: was '32MiB', is '64MiB'"),
        (
            of_file(more='[[nbd.listeners]]\naddress = "tcp:[::1]:10809"\nmode = "0640"'),
            "nbd.listeners: was [], is [{ address = 'tcp:[::1]:10809', mode = '0640' }]",
        ),
        (
            of_file(more='[metrics]\nlisten = "tcp:[::1]:9809"'),
            "metrics.listen: was not set, is 'tcp:[::1]:9809'",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_values_are_written_as_the_file_writes_them(changed: Config, line: str) -> None:
    assert differences(of_file(), changed) == [line]


def fields() -> Iterator[tuple[str, FieldInfo]]:
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            if field.examples and not str(field.examples[0]).startswith("{"):
                yield f"{section.__name__}.{name}", field


@pytest.mark.parametrize(("key", "field"), list(fields()), ids=[key for key, _ in fields()])
def test_what_is_said_of_a_value_can_be_put_into_the_file(key: str, field: FieldInfo) -> None:
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    read = TypeAdapter(cast("type[object]", kind))
    key = "control.tls.listen" if key == "TlsConfig.listen" else key

    def value_of(text: str) -> object:
        return read.validate_python(tomllib.loads(f"x = {text}")["x"], context={"base": "/"})

    value = value_of(known(field.examples, "`fields` asks for them")[0])
    assert value_of(value_in_file(key, value)) == value
