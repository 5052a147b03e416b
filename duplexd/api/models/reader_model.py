"""Readers of cuts: the bodies that name them, and what is answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duplexd.api.models.base import Answer, Name, Request
from duplexd.api.models.request_model import CutId, Targets


class ReaderRequest(Request):
    """Name a reader of a cut: while it is there, nothing moves these secondaries."""

    targets: Targets
    reader: Name = Field(description="its name; no other reader of these volumes has it")
    cut: CutId


class ReaderEnds(Request):
    """End a named reader."""

    targets: Targets
    reader: Name


class ReaderBegan(Answer):
    """POST /v1/readers: a restart knows it, too."""

    reader: str
    cut: str
    volumes: list[str]


class ReaderEnded(Answer):
    """POST /v1/readers/release."""

    reader: str
    volumes: list[str] = Field(description="those that it read")


class ReaderStatus(Answer):
    """Somebody who reads the secondary of a volume at its cut."""

    name: str = Field(description="of a connection: its peer")
    kind: Literal["named", "connection", "clone"]
    since: float | None = Field(None, description="when it began; of a connection not known")
