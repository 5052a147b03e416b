"""What all requests and answers are built on, and the problem that any of them may end with.

`extra` is the whole policy of compatibility: requests forbid unknown fields, answers allow them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from duplexd.limits import NAME_CHARACTERS_MAX

PairState = Literal["SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED"]
Verdict = Literal["consistent", "void"]
CutState = Literal["cut", "ready", "consistent", "void"]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Bytes = Annotated[int, Field(ge=0)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """The daemon only documents these, so their validators are made when one is used first."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class Problem(Answer):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="one line: what is wrong, and what to do")
    exit_code: int = Field(description="what duplexctl exits with")
