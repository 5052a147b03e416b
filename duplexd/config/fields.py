"""What the fields of the configuration and of the groups file have in common.

A relative path starts at the directory of the file that it is written in, which pydantic is given
as `base` in the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from duplexd.config.values import absolute_path, check_listen, check_name, check_socket
from duplexd.net.address import Address


def _base(info: ValidationInfo) -> Path:
    return Path(info.context["base"]) if info.context else Path.cwd()


def _path(value: object, info: ValidationInfo) -> Path:
    return absolute_path(value, _base(info))


def _socket(value: object, info: ValidationInfo) -> Path:
    return check_socket(value, _base(info))


def _listen(value: object, info: ValidationInfo) -> Address:
    return check_listen(value, _base(info))


Name = Annotated[str, BeforeValidator(check_name)]
FilePath = Annotated[Path, BeforeValidator(_path)]
SocketPath = Annotated[Path, BeforeValidator(_socket)]
ListenAddress = Annotated[Address, BeforeValidator(_listen)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never change once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
