"""Small limits are for simulations alone."""

from __future__ import annotations

from duplexd import limits
from duplexd.engine import write_path as batches
from tests.sim.small import LIMITS, small_limits


def test_they_reach_the_modules_that_use_them_and_end_with_the_simulation() -> None:
    before = [dict(vars(module)) for module in (batches, limits)]
    with small_limits():
        for module in (batches, limits):
            assert vars(module)["BATCH_BYTES_MAX"] == LIMITS["BATCH_BYTES_MAX"]
    for module, was in zip((batches, limits), before, strict=True):
        assert {name: vars(module)[name] for name in LIMITS.keys() & was.keys()} == {
            name: was[name] for name in LIMITS.keys() & was.keys()
        }
