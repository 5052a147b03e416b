"""Requests are strict, answers may gain fields, limits are met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from duplexd.api.models.line_model import Released
from duplexd.api.models.request_model import (
    AdoptRequest,
    QuiesceRequest,
    ResyncRequest,
    SuspendRequest,
    SwapRequest,
    VerifyRequest,
)
from duplexd.limits import HOLD_SECONDS_MAX, NAME_CHARACTERS_MAX, TAG_CHARACTERS_MAX, VOLUMES_MAX

if TYPE_CHECKING:
    from pydantic import BaseModel

REQUESTS = (
    QuiesceRequest,
    SuspendRequest,
    ResyncRequest,
    VerifyRequest,
    SwapRequest,
    AdoptRequest,
)


@pytest.mark.parametrize("model", REQUESTS)
def test_a_request_with_an_unknown_field_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="typo"):
        model.model_validate({"targets": ["a"], "typo": 1})


@pytest.mark.parametrize("model", REQUESTS)
@pytest.mark.parametrize(
    "targets",
    [[], [""], ["x" * (NAME_CHARACTERS_MAX + 1)], ["a"] * (VOLUMES_MAX + 1), "a", [1], None],
)
def test_targets_beyond_their_limits_are_refused(model: type[BaseModel], targets: Any) -> None:
    with pytest.raises(ValidationError, match="targets"):
        model.model_validate({"targets": targets})


@pytest.mark.parametrize(
    "hold_s", [0, -1, HOLD_SECONDS_MAX + 0.1, float("nan"), float("inf"), "soon"]
)
def test_a_hold_that_is_not_a_time_or_too_long_is_refused(hold_s: Any) -> None:
    with pytest.raises(ValidationError, match="hold_s"):
        QuiesceRequest(targets=["a"], hold_s=hold_s)


def test_a_tag_beyond_its_limit_is_refused() -> None:
    SuspendRequest(targets=["a"], tag="x" * TAG_CHARACTERS_MAX)
    with pytest.raises(ValidationError, match="tag"):
        SuspendRequest(targets=["a"], tag="x" * (TAG_CHARACTERS_MAX + 1))


def test_an_answer_keeps_fields_that_this_version_does_not_know() -> None:
    answer = Released.model_validate({"lease": "L1", "released": True, "later": [1]})
    assert answer.model_dump() == {"lease": "L1", "released": True, "later": [1]}
